//! Reading back what happened to agents.

use std::collections::BTreeSet;

use prost::Message as _;
use proto::subscribe_status_request::Start as RequestStart;
use proto::{StatusBatch, StoredStatus, SubscribeStatusRequest};

use super::{EVENTS_MAX, Form, Part, Query, QueryError, check_count, selection, start_at};
use crate::contract::{Entry, Start};
use crate::record::Payload;
use crate::topic::Topic;

/// What happened to the agents that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// Which events; none stands for all. Numbers that this version does not know match nothing.
    events: BTreeSet<i32>,
}

impl TryFrom<SubscribeStatusRequest> for Query<Statuses> {
    type Error = QueryError;

    fn try_from(request: SubscribeStatusRequest) -> Result<Self, QueryError> {
        let start = match &request.start {
            None => Start::Tail,
            Some(RequestStart::SinceMs(ms)) => Start::Time(*ms),
            Some(RequestStart::Last(count)) => Start::Last(*count),
            Some(RequestStart::Cursor(cursor)) => start_at(cursor)?,
        };
        check_count(request.events.len(), "events", EVENTS_MAX)?;
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
        let Entry { partition, offset, stored_ms, key: _, payload } = entry;
        let Payload::Status(status) = payload else {
            return None;
        };
        if !self.events.is_empty() && !self.events.contains(&status.event) {
            return None;
        }
        let bytes = status.encoded_len();
        let stored = StoredStatus {
            offset: offset.0,
            stored_ms,
            status: Some(*status),
            partition: partition.0,
        };
        Some((stored, bytes))
    }

    fn batch(part: Part<StoredStatus>, cursor: Option<proto::Cursor>) -> StatusBatch {
        let said = StatusBatch { cursor, ..StatusBatch::default() };
        match part {
            Part::Entries(entries) => StatusBatch { entries, ..said },
            Part::CaughtUp => StatusBatch { caught_up: true, ..said },
            Part::Skipped(gone) => StatusBatch {
                skipped_first: gone.first.0,
                skipped_last: gone.last.0,
                skipped_partition: gone.partition.0,
                ..said
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proto::{StatusEvent, StatusRecord};

    use crate::contract::{Offset, Partition};

    fn query(events: &[StatusEvent]) -> Query<Statuses> {
        let events = events.iter().map(|event| (*event).into()).collect();
        let request = SubscribeStatusRequest { events, ..SubscribeStatusRequest::default() };
        Query::try_from(request).unwrap()
    }

    fn check(events: &[StatusEvent], event: StatusEvent, selected: bool) {
        let status = StatusRecord { event: event.into(), ..StatusRecord::default() };
        let entry = Entry {
            partition: Partition(0),
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
        let refusal = |request: SubscribeStatusRequest| {
            Query::<Statuses>::try_from(request).unwrap_err().to_string()
        };
        let agents = vec!["../x".to_owned()];
        let bad = SubscribeStatusRequest { agents, ..SubscribeStatusRequest::default() };
        assert!(refusal(bad).contains("agent id"));
        let events = vec![1; 65];
        let bad = SubscribeStatusRequest { events, ..SubscribeStatusRequest::default() };
        assert_eq!(refusal(bad), "request names 65 events, at most 64 are allowed");
    }
}
