//! One connection to one member of a cluster, every request of it with a deadline.

use std::future::Future;
use std::time::Duration;

use etcd_client::{
    Channel, Client, ConnectOptions, GetOptions, GetResponse, KvClient, WatchOptions, WatchStream,
};
use tonic::transport::Endpoint;

use crate::document::Revision;
use crate::failure::Failure;
use crate::options::Options;

/// How long a connection may take to come about, and each request to be answered.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// While a stream is open, silence after which the connection is asked for a sign of life, and how long that may take.
/// etcd hangs up on who asks more often than each 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// See [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Documents in a page. etcd takes values of 1.5 MiB, whatever we take, so a page can have 24 MiB at worst.
pub(crate) const PAGE_KEYS: i64 = 16;

/// More than a page of the largest values has. The default of 4 MiB would let a few large values of others end a read.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A connection to a member that has answered at least once. Cheap to clone.
///
/// It is thrown away at the first failure: a new one renews the credentials, and says at once whether anybody is there,
/// which the load-balancing channel of the library does not.
#[derive(Clone)]
pub(crate) struct Connection {
    endpoint: String,
    client: Client,
}

impl Connection {
    pub(crate) async fn open(endpoint: &str, options: &Options) -> Result<Self, Failure> {
        let target = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|error| Failure::of_transport(endpoint, &error))?
            .connect_timeout(REQUEST_MAX)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(false);
        let channel = tokio::time::timeout(REQUEST_MAX, target.connect())
            .await
            .map_err(|_| Failure::timed_out(endpoint, REQUEST_MAX))?
            .map_err(|error| Failure::of_transport(endpoint, &error))?;

        let mut connect = ConnectOptions::new().with_require_leader(true);
        if let Some(credentials) = &options.credentials {
            connect = connect.with_user(&credentials.user, &credentials.password);
        }
        // Authenticates, when there are credentials.
        let client = Client::from_channel(Channel::Tonic(channel), Some(connect));
        let client = in_time(endpoint, client).await?;
        Ok(Self { endpoint: endpoint.to_owned(), client })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Asks for keys and values.
    pub(crate) async fn get(
        &self,
        key: impl Into<Vec<u8>>,
        options: GetOptions,
    ) -> Result<GetResponse, Failure> {
        let mut keys = self.keys();
        in_time(&self.endpoint, keys.get(key, Some(options))).await
    }

    /// The half of the client that reads and writes.
    pub(crate) fn keys(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Opens a stream of what happens to the keys from `key` to before `end`, or to `key` alone, after a revision.
    pub(crate) async fn watch(
        &self,
        key: &str,
        end: Option<&str>,
        after: Revision,
    ) -> Result<WatchStream, Failure> {
        let start = i64::try_from(after.saturating_add(1)).unwrap_or(i64::MAX);
        // In fragments, because etcd would put a thousand changes into one message.
        let mut options = WatchOptions::new().with_start_revision(start).with_fragment();
        if let Some(end) = end {
            options = options.with_range(end);
        }
        let mut client = self.client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        in_time(&self.endpoint, client.watch(key, Some(options))).await
    }
}

/// The answer, unless it does not come in time.
pub(crate) async fn in_time<T>(
    endpoint: &str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Failure> {
    tokio::time::timeout(REQUEST_MAX, request)
        .await
        .map_err(|_| Failure::timed_out(endpoint, REQUEST_MAX))?
        .map_err(|error| Failure::of(endpoint, &error))
}
