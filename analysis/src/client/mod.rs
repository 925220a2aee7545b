//! The connection to the server or to the brokers, and what each way of failing means.

#[cfg(feature = "kafka")]
mod broker;
mod extent;
mod feed;
mod source;
mod subscribe;

use std::error::Error as StdError;
use std::time::Duration;

use proto::monitoring_service_client::MonitoringServiceClient;
use proto::operator_service_client::OperatorServiceClient;
use proto::{
    AgentInfo, Command, CommandResponse, ConfigVersion, DeleteConfigRequest,
    GetConfigHistoryRequest, GetConfigRequest, GetConfigResponse, GetServerStatusRequest,
    ListAgentsRequest, ListCommandsRequest, ListCommandsResponse, MetricsBatch, ServerStatus,
    SetConfigRequest, SetConfigResponse, StatusBatch, SubscribeMetricsRequest,
    SubscribeStatusRequest,
};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

#[cfg(feature = "kafka")]
pub(crate) use self::broker::Brokers;
pub(crate) use self::extent::extents;
pub(crate) use self::feed::{Event, Feed, Resumption};
pub(crate) use self::source::Source;
pub(crate) use self::subscribe::Subscribe;
pub(crate) use proto::address::ServerAddress;

/// For the connection to stand. A server in reach needs milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For an answer that needs no agent. Setting a configuration waits 5 s for the agent's report.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// On top of a command's time to live: for the way there and back, and for a server to wait whether another one, which
/// has the agent's stream, says what became of it.
const COMMAND_SLACK: Duration = Duration::from_secs(10);

/// A silent connection is probed after this, and given up when the probe is not answered within the timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A list of 100,000 agents with their status is about 40 MB.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A connection to a server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    server: ServerAddress,
    operator: OperatorServiceClient<Channel>,
    monitoring: MonitoringServiceClient<Channel>,
}

impl Client {
    pub(crate) async fn connect(server: ServerAddress) -> Result<Self, Error> {
        let unreachable = |reason: String| Error::Unreachable { server: server.clone(), reason };
        let endpoint = Endpoint::from_shared(format!("http://{server}"))
            .and_then(|endpoint| endpoint.user_agent(concat!("picket/", env!("CARGO_PKG_VERSION"))))
            .map_err(|error| unreachable(root_cause(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = timeout(CONNECT_TIMEOUT, endpoint.connect())
            .await
            .map_err(|_| unreachable(format!("no connection within {CONNECT_TIMEOUT:?}")))?
            .map_err(|error| unreachable(root_cause(&error)))?;
        Ok(Self {
            server,
            operator: OperatorServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            monitoring: MonitoringServiceClient::new(channel),
        })
    }

    pub(crate) async fn agents(&self, agents: Vec<String>) -> Result<Vec<AgentInfo>, Error> {
        let request = ListAgentsRequest { agents };
        let call = async |mut service: Operator| service.list_agents(request).await;
        let response = self.answer(ANSWER_TIMEOUT, call(self.operator.clone())).await?;
        Ok(response.agents)
    }

    pub(crate) async fn commands(
        &self,
        request: ListCommandsRequest,
    ) -> Result<ListCommandsResponse, Error> {
        let call = async |mut service: Operator| service.list_commands(request).await;
        self.answer(ANSWER_TIMEOUT, call(self.operator.clone())).await
    }

    pub(crate) async fn config(&self, agent_id: String) -> Result<GetConfigResponse, Error> {
        let request = GetConfigRequest { agent_id };
        let call = async |mut service: Operator| service.get_config(request).await;
        self.answer(ANSWER_TIMEOUT, call(self.operator.clone())).await
    }

    /// Versions of a layer, newest first.
    pub(crate) async fn config_history(
        &self,
        agent_id: String,
        limit: u32,
    ) -> Result<Vec<ConfigVersion>, Error> {
        let request = GetConfigHistoryRequest { agent_id, limit };
        let call = async |mut service: Operator| service.get_config_history(request).await;
        let response = self.answer(ANSWER_TIMEOUT, call(self.operator.clone())).await?;
        Ok(response.versions)
    }

    pub(crate) async fn set_config(
        &self,
        request: SetConfigRequest,
    ) -> Result<SetConfigResponse, Error> {
        let call = async |mut service: Operator| service.set_config(request).await;
        self.answer(ANSWER_TIMEOUT, call(self.operator.clone())).await
    }

    pub(crate) async fn delete_config(&self, agent_id: String) -> Result<SetConfigResponse, Error> {
        let request = DeleteConfigRequest { agent_id };
        let call = async |mut service: Operator| service.delete_config(request).await;
        self.answer(ANSWER_TIMEOUT, call(self.operator.clone())).await
    }

    pub(crate) async fn server_status(&self) -> Result<ServerStatus, Error> {
        let call = async |mut service: Operator| {
            service.get_server_status(GetServerStatusRequest {}).await
        };
        self.answer(ANSWER_TIMEOUT, call(self.operator.clone())).await
    }

    /// Sends a command and waits for its answer a little longer than its time to live.
    pub(crate) async fn send_command(&self, command: Command) -> Result<CommandResponse, Error> {
        let deadline = Duration::from_millis(command.ttl_ms).saturating_add(COMMAND_SLACK);
        let mut request = Request::new(command);
        request.set_timeout(deadline);
        let mut service = self.monitoring.clone();
        self.answer(deadline, service.send_command(request)).await
    }

    async fn subscribe_metrics(
        &self,
        request: SubscribeMetricsRequest,
    ) -> Result<Streaming<MetricsBatch>, Error> {
        let call = async |mut service: Operator| service.subscribe_metrics(request).await;
        self.answer(ANSWER_TIMEOUT, call(self.operator.clone())).await
    }

    async fn subscribe_status(
        &self,
        request: SubscribeStatusRequest,
    ) -> Result<Streaming<StatusBatch>, Error> {
        let call = async |mut service: Operator| service.subscribe_status(request).await;
        self.answer(ANSWER_TIMEOUT, call(self.operator.clone())).await
    }

    async fn answer<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(Error::TimedOut { after: deadline }),
        }
    }

    /// What an rpc status means for the operator.
    fn error(&self, status: &Status) -> Error {
        let message = match status.message() {
            "" => status.code().description().to_owned(),
            message => message.to_owned(),
        };
        match status.code() {
            // Without a cause of this side, the server answered, and says that it cannot serve.
            Code::Unavailable if status.source().is_none() => Error::Unavailable { message },
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted => Error::Lost {
                server: self.server.clone(),
                reason: status.source().map_or(message, root_cause),
            },
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated => Error::Rejected { message },
            Code::DeadlineExceeded => Error::TimedOut { after: ANSWER_TIMEOUT },
            Code::NotFound => Error::NotFound { message },
            Code::Unimplemented => Error::Unsupported { server: self.server.clone() },
            // A connection that breaks within a message shows as an internal error with a cause of its own.
            Code::Internal if status.source().is_some() => Error::Lost {
                server: self.server.clone(),
                reason: status.source().map_or(message, root_cause),
            },
            Code::Ok | Code::Internal | Code::ResourceExhausted | Code::DataLoss => {
                Error::Failed { message }
            }
        }
    }
}

type Operator = OperatorServiceClient<Channel>;

/// Why the server did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "cannot reach the server at {server}: {reason}; is picket-server running? \
         set --server HOST:PORT"
    )]
    Unreachable { server: ServerAddress, reason: String },
    #[cfg(feature = "kafka")]
    #[error("cannot use Kafka at {names}: {reason}; does it run there? set --kafka HOST:PORT")]
    Brokers { names: String, reason: String },
    #[cfg(feature = "kafka")]
    #[error("this asks a server, which Kafka is not: leave out --kafka, or set --server HOST:PORT")]
    NeedsServer,
    #[error("lost the server at {server}: {reason}; try again when it is back")]
    Lost { server: ServerAddress, reason: String },
    #[error("the server cannot do it now: {message}; {}", remedy(message))]
    Unavailable { message: String },
    #[error("the server refuses: {message}")]
    Rejected { message: String },
    #[error("no answer within {after:?}; try again, or allow more time")]
    TimedOut { after: Duration },
    #[error("not found: {message}")]
    NotFound { message: String },
    #[error("the server at {server} does not know this request; is it a picket-server?")]
    Unsupported { server: ServerAddress },
    #[error("the server failed: {message}")]
    Failed { message: String },
}

impl Error {
    /// Whether the same request may succeed on a new connection.
    pub(crate) const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Unavailable { .. }
            | Self::TimedOut { .. } => true,
            #[cfg(feature = "kafka")]
            Self::Brokers { .. } => true,
            #[cfg(feature = "kafka")]
            Self::NeedsServer => false,
            Self::Rejected { .. }
            | Self::NotFound { .. }
            | Self::Unsupported { .. }
            | Self::Failed { .. } => false,
        }
    }

    /// The reason alone, without advice.
    fn into_reason(self) -> String {
        match self {
            Self::Unreachable { reason, .. } | Self::Lost { reason, .. } => reason,
            #[cfg(feature = "kafka")]
            Self::Brokers { reason, .. } => reason,
            Self::Unavailable { message } => message,
            other => other.to_string(),
        }
    }
}

/// What helps a server that answers and cannot serve.
fn remedy(message: &str) -> &'static str {
    // The text of the operating system is all that the wire carries of the cause.
    if message.to_ascii_lowercase().contains("no space left") {
        "free space in the server's data directory"
    } else {
        "try again later, or see the server's log"
    }
}

/// The innermost cause in plain words: lower case, without the number of the operating system.
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    let text = innermost.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn causes_are_told_in_plain_words() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(root_cause(&refused), "connection refused");
        assert_eq!(root_cause(&io::Error::other("")), "");
    }
}
