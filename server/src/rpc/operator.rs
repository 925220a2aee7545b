//! The door for the operator's tools.

use std::sync::Arc;
use std::time::Duration;

use agent_core::id::AgentId;
use bus::query::{
    Answer, CommandQuery, Form, Metrics, Query, QueryError, Statuses, agent_ids, commands,
};
use bus::{BusError, Topic};
use proto::operator_service_server::OperatorService;
use proto::{
    ConfigVersion, DeleteConfigRequest, GetConfigHistoryRequest, GetConfigHistoryResponse,
    GetConfigRequest, GetConfigResponse, GetServerStatusRequest, ListAgentsRequest,
    ListAgentsResponse, ListCommandsRequest, ListCommandsResponse, MetricsBatch, NamedCount,
    ServerStatus, SetConfigRequest, SetConfigResponse, StatusBatch, SubscribeMetricsRequest,
    SubscribeStatusRequest, TopicStatus,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;

use crate::command::Holder;
use crate::config::{
    Effective, Layer, LayerKey, Problem, Sight, announce, report_elsewhere, report_of,
};
use crate::levels::Level;
use crate::limits::{CONFIG_HISTORY_BYTES_MAX, CONFIG_VERSIONS, CONFIG_VERSIONS_MAX};
use crate::query;
use crate::rejection::Rejection;
use crate::rpc::{config_status, refuse, stopping, unavailable};
use crate::shared::Shared;

/// Messages of a subscription that wait for its reader, beside the one that is being sent and the one that is being made. A
/// reader that stops costs what they take, and is left alone: people stop their terminals.
const ANSWERS: usize = 1;

/// `monitoring.OperatorService`.
#[derive(Debug)]
pub(crate) struct Operator {
    shared: Arc<Shared>,
}

impl Operator {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Whether another server has the agent, and the same store of configurations.
    fn is_pushed_elsewhere(&self, agent: &AgentId) -> bool {
        let now_ms = self.shared.clock.now().unix_ms;
        let holder = self.shared.registry().holder(agent, now_ms);
        self.shared.config.is_shared() && holder == Holder::AnotherServer
    }

    fn layer_key(&self, text: &str) -> Result<LayerKey, Status> {
        let key = text.parse::<LayerKey>();
        key.map_err(|error| refuse(&self.shared, Rejection::from(error)))
    }

    async fn subscribe<F: Form>(
        &self,
        query: Result<Query<F>, QueryError>,
    ) -> Result<Response<ReceiverStream<Result<F::Batch, Status>>>, Status> {
        let shared = &self.shared;
        let guard = shared.stopping.guard().ok_or_else(stopping)?;
        let query = query.map_err(|error| refuse(shared, error.into()))?;
        // Subscribed before the headers go out: what is published from then on is seen.
        let answer =
            Answer::open(&*shared.bus, query).await.map_err(|error| unavailable(&error))?;
        let (answers, stream) = mpsc::channel(ANSWERS);
        let held = shared.levels.hold(Level::Readers, 1);
        tokio::spawn(async move {
            query::send(answer, answers, guard).await;
            drop(held);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl OperatorService for Operator {
    type SubscribeMetricsStream = ReceiverStream<Result<MetricsBatch, Status>>;
    type SubscribeStatusStream = ReceiverStream<Result<StatusBatch, Status>>;

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let ids = agent_ids(&request.into_inner().agents)
            .map_err(|error| refuse(&self.shared, error.into()))?;
        let now_ms = self.shared.clock.now().unix_ms;
        let agents = self.shared.registry().list(&ids, now_ms);
        Ok(Response::new(ListAgentsResponse { agents }))
    }

    async fn subscribe_metrics(
        &self,
        request: Request<SubscribeMetricsRequest>,
    ) -> Result<Response<Self::SubscribeMetricsStream>, Status> {
        self.subscribe(Query::<Metrics>::try_from(request.into_inner())).await
    }

    async fn subscribe_status(
        &self,
        request: Request<SubscribeStatusRequest>,
    ) -> Result<Response<Self::SubscribeStatusStream>, Status> {
        self.subscribe(Query::<Statuses>::try_from(request.into_inner())).await
    }

    async fn get_config(
        &self,
        request: Request<GetConfigRequest>,
    ) -> Result<Response<GetConfigResponse>, Status> {
        let config = &self.shared.config;
        let failed = |error| config_status(&self.shared, error);
        let key = self.layer_key(&request.into_inner().agent_id)?;
        let sight = config.look(&key).await.map_err(failed)?;
        let (below, above) = match &key {
            LayerKey::Default => (sight.in_force, Some(Layer::default())),
            LayerKey::Agent(_) => {
                let below = config.look(&LayerKey::Default).await.map_err(failed)?;
                (below.in_force, sight.in_force)
            }
        };
        let effective = match (below, above) {
            (Some(below), Some(above)) => Effective::of(&below, &above),
            // One of them cannot be used and never could: agents keep what they have, whatever that is.
            (below, above) => Effective::of(&below.unwrap_or_default(), &above.unwrap_or_default()),
        };
        let Sight { stored, problem, .. } = sight;
        let exists = stored.text.is_some() || (problem.is_some() && stored.revision > 0);
        Ok(Response::new(GetConfigResponse {
            agent_id: key.as_str().to_owned(),
            document: stored.text.unwrap_or_default(),
            revision: if exists { stored.revision } else { 0 },
            modified_ms: if exists { stored.modified_ms } else { 0 },
            effective: effective.document.to_json(),
            effective_revision: effective.revision,
            problem: problem.map(|problem| problem.reason).unwrap_or_default(),
        }))
    }

    async fn set_config(
        &self,
        request: Request<SetConfigRequest>,
    ) -> Result<Response<SetConfigResponse>, Status> {
        let shared = &self.shared;
        let failed = |error| config_status(shared, error);
        let request = request.into_inner();
        let key = self.layer_key(&request.agent_id)?;
        let change = shared.config.begin_change().await;
        let revision =
            change.set(&key, &request.document, request.expected_revision).await.map_err(failed)?;
        info!(key = key.as_str(), revision, "configuration set");
        let pushed = announce(shared, &key, revision);
        drop(change);
        let report = match &key {
            LayerKey::Agent(agent) if pushed > 0 => report_of(shared, agent, revision).await,
            LayerKey::Agent(agent) if self.is_pushed_elsewhere(agent) => {
                report_elsewhere(shared, agent, revision).await
            }
            LayerKey::Agent(_) | LayerKey::Default => None,
        };
        Ok(Response::new(SetConfigResponse { revision, pushed, report }))
    }

    async fn delete_config(
        &self,
        request: Request<DeleteConfigRequest>,
    ) -> Result<Response<SetConfigResponse>, Status> {
        let shared = &self.shared;
        let failed = |error| config_status(shared, error);
        let key = self.layer_key(&request.into_inner().agent_id)?;
        let change = shared.config.begin_change().await;
        let revision = change.delete(&key).await.map_err(failed)?;
        info!(key = key.as_str(), revision, "configuration removed");
        let pushed = announce(shared, &key, revision);
        drop(change);
        Ok(Response::new(SetConfigResponse { revision, pushed, report: None }))
    }

    async fn get_config_history(
        &self,
        request: Request<GetConfigHistoryRequest>,
    ) -> Result<Response<GetConfigHistoryResponse>, Status> {
        let shared = &self.shared;
        let GetConfigHistoryRequest { agent_id, limit } = request.into_inner();
        let key = self.layer_key(&agent_id)?;
        let limit = match limit {
            0 => CONFIG_VERSIONS,
            limit => usize::try_from(limit).unwrap_or(CONFIG_VERSIONS_MAX),
        };
        let history = shared.config.history(&key, limit.min(CONFIG_VERSIONS_MAX)).await;
        let history = history.map_err(|error| config_status(shared, error))?;
        let mut room = CONFIG_HISTORY_BYTES_MAX;
        let mut versions = Vec::new();
        for document in history {
            let text = document.text.as_deref().unwrap_or_default();
            let Some(left) = room.checked_sub(text.len()) else {
                break;
            };
            room = left;
            versions.push(ConfigVersion {
                revision: document.revision,
                modified_ms: document.modified_ms,
                deleted: document.text.is_none(),
                document: text.to_owned(),
            });
        }
        Ok(Response::new(GetConfigHistoryResponse { versions }))
    }

    async fn list_commands(
        &self,
        request: Request<ListCommandsRequest>,
    ) -> Result<Response<ListCommandsResponse>, Status> {
        let shared = &self.shared;
        let query = CommandQuery::try_from(request.into_inner())
            .map_err(|error| refuse(shared, error.into()))?;
        match tokio::time::timeout(COMMANDS_WAIT, commands(&*shared.bus, query)).await {
            Ok(Ok(response)) => Ok(Response::new(response)),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => {
                let text = format!("the bus was not read within {COMMANDS_WAIT:?}");
                Err(Status::unavailable(text))
            }
        }
    }

    async fn get_server_status(
        &self,
        _request: Request<GetServerStatusRequest>,
    ) -> Result<Response<ServerStatus>, Status> {
        let shared = &self.shared;
        let (topics, unknown) = match tokio::time::timeout(EXTENTS_WAIT, topics(shared)).await {
            Ok(Ok(topics)) => (topics, None),
            Ok(Err(error @ BusError::Closed)) => return Err(unavailable(&error)),
            Ok(Err(error)) => (Vec::new(), Some(error.to_string())),
            Err(_) => (Vec::new(), Some(format!("no answer within {EXTENTS_WAIT:?}"))),
        };
        let unknown = unknown.map(|reason| format!("what the topics hold is not known: {reason}"));
        let (connected, known) = {
            let registry = shared.registry();
            (registry.connected_count(), registry.known_count())
        };
        Ok(Response::new(ServerStatus {
            server_id: shared.server_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: shared.started_ms,
            agents_connected: u32::try_from(connected).unwrap_or(u32::MAX),
            agents_known: u32::try_from(known).unwrap_or(u32::MAX),
            topics,
            counters: counters(shared),
            bus: shared.bus.kind().to_owned(),
            config_store: shared.config.kind().to_owned(),
            degraded: degraded(shared).into_iter().chain(unknown).collect(),
            insecure: shared.insecure,
        }))
    }
}

/// How long the bus may take to be read for commands; who asks waits a little longer.
const COMMANDS_WAIT: Duration = Duration::from_secs(9);

/// How long the bus may take to say what its topics hold. Brokers that are away do not keep who asks how the server is
/// from hearing that they are.
const EXTENTS_WAIT: Duration = Duration::from_secs(3);

/// What each partition of each topic holds.
async fn topics(shared: &Shared) -> Result<Vec<TopicStatus>, BusError> {
    let mut topics = Vec::with_capacity(Topic::ALL.len());
    for topic in Topic::ALL {
        let extents = shared.bus.watermarks(topic).await?;
        topics.extend(extents.into_iter().map(|extent| TopicStatus {
            name: topic.name().to_owned(),
            first_offset: extent.first.0,
            next_offset: extent.next.0,
            bytes: extent.bytes.unwrap_or(0),
            partition: extent.partition.0,
        }));
    }
    Ok(topics)
}

/// What does not work, and which documents are not in force; those beyond a few are only counted.
fn degraded(shared: &Shared) -> Vec<String> {
    let mut texts = shared.troubles.texts();
    let mut problems = shared.config.problems();
    problems.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    let more = problems.len().saturating_sub(PROBLEMS_TOLD);
    texts.extend(problems.into_iter().take(PROBLEMS_TOLD).map(|(key, problem)| {
        let Problem { revision, reason } = problem;
        format!("the document of {} at revision {revision} is not in force: {reason}", key.as_str())
    }));
    if more > 0 {
        texts.push(format!("{more} more documents are not in force"));
    }
    texts
}

/// Documents that are not in force and are named to who asks how the server is.
const PROBLEMS_TOLD: usize = 5;

/// The server's own counters, and those of its bus; sorted by name.
fn counters(shared: &Shared) -> Vec<NamedCount> {
    let mut counters = shared.counters.snapshot();
    counters.extend(shared.levels.snapshot());
    let limit = |name: &str, count| NamedCount { name: name.to_owned(), count };
    counters.push(limit("in_flight.bytes.limit", shared.budget.capacity().into()));
    counters.extend(shared.bus.rejected().into_iter().map(|rejected| NamedCount {
        name: format!("bus_rejected.{}.{}", rejected.topic, rejected.reason),
        count: rejected.count,
    }));
    counters.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    counters
}
