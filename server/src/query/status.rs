//! Reading back what happened to agents.

use std::collections::BTreeSet;

use bus::{Entry, Offset, Payload, Start, Topic};
use prost::Message as _;
use proto::subscribe_status_request::Start as RequestStart;
use proto::{StatusBatch, StoredStatus, SubscribeStatusRequest};

use crate::limits::QUERY_EVENTS_MAX;
use crate::query::{Form, Query, selection};
use crate::rejection::{Reason, Rejection};

/// What happened to the agents that were asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statuses {
    /// Which events; none stands for all. Numbers that this version does not know match nothing.
    events: BTreeSet<i32>,
}

impl TryFrom<SubscribeStatusRequest> for Query<Statuses> {
    type Error = Rejection;

    fn try_from(request: SubscribeStatusRequest) -> Result<Self, Rejection> {
        let start = match request.start {
            None => Start::Tail,
            Some(RequestStart::SinceMs(ms)) => Start::Time(ms),
            Some(RequestStart::Offset(offset)) => Start::Offset(Offset(offset)),
            Some(RequestStart::Last(count)) => Start::Last(count),
        };
        let events = request.events.len();
        if QUERY_EVENTS_MAX < events {
            let text =
                format!("request names {events} events, at most {QUERY_EVENTS_MAX} are allowed");
            return Err(Rejection::new(Reason::Request, text));
        }
        Ok(Self {
            selection: selection(&request.agents)?,
            start,
            follow: request.follow,
            limit: None,
            until_ms: None,
            form: Statuses { events: request.events.into_iter().collect() },
        })
    }
}

impl Form for Statuses {
    type Stored = StoredStatus;
    type Batch = StatusBatch;

    const TOPIC: Topic = Topic::AgentStatus;

    fn select(&self, entry: Entry) -> Option<(StoredStatus, usize)> {
        let Payload::Status(status) = entry.payload else {
            return None;
        };
        if !self.events.is_empty() && !self.events.contains(&status.event) {
            return None;
        }
        let bytes = status.encoded_len();
        let (offset, stored_ms) = (entry.offset.0, entry.stored_ms);
        Some((StoredStatus { offset, stored_ms, status: Some(*status) }, bytes))
    }

    fn filled(entries: Vec<StoredStatus>) -> StatusBatch {
        StatusBatch { entries, ..StatusBatch::default() }
    }

    fn caught_up() -> StatusBatch {
        StatusBatch { caught_up: true, ..StatusBatch::default() }
    }

    fn skipped(first: Offset, last: Offset) -> StatusBatch {
        StatusBatch { skipped_first: first.0, skipped_last: last.0, ..StatusBatch::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proto::{StatusEvent, StatusRecord};

    fn query(events: &[StatusEvent]) -> Query<Statuses> {
        let events = events.iter().map(|event| (*event).into()).collect();
        let request = SubscribeStatusRequest { events, ..SubscribeStatusRequest::default() };
        Query::try_from(request).unwrap()
    }

    fn check(events: &[StatusEvent], event: StatusEvent, selected: bool) {
        let status = StatusRecord { event: event.into(), ..StatusRecord::default() };
        let entry = Entry {
            offset: Offset(1),
            stored_ms: 2,
            key: "a".parse().unwrap(),
            payload: Payload::Status(Box::new(status)),
        };
        assert_eq!(query(events).form.select(entry).is_some(), selected, "{events:?} {event:?}");
    }

    #[test]
    fn events_are_selected() {
        check(&[], StatusEvent::Heartbeat, true);
        check(&[StatusEvent::Alert], StatusEvent::Alert, true);
        check(&[StatusEvent::Alert], StatusEvent::AlertLoss, false);
        check(&[StatusEvent::Alert, StatusEvent::AlertLoss], StatusEvent::AlertLoss, true);
    }

    #[test]
    fn bad_requests_are_refused() {
        let reason = |request: SubscribeStatusRequest| {
            Query::<Statuses>::try_from(request).unwrap_err().reason
        };
        let agents = vec!["../x".to_owned()];
        let bad = SubscribeStatusRequest { agents, ..SubscribeStatusRequest::default() };
        assert_eq!(reason(bad), Reason::AgentId);
        let bad =
            SubscribeStatusRequest { events: vec![1; 65], ..SubscribeStatusRequest::default() };
        assert_eq!(reason(bad), Reason::Request);
    }
}
