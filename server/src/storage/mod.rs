//! Where records and configurations are kept: opens what the command line asks for.

use std::fmt;
use std::sync::Arc;

use anyhow::Context as _;
use bus::embedded::{Database, OpenError, Options};
use bus::{Bus, BusError, DocumentStore};

use tracing::warn;

use crate::cli::Args;
use crate::storage::watched::Watched;
use crate::troubles::Troubles;

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "kafka")]
mod kafka;
mod watched;

/// The bus and the store of configurations.
pub(crate) struct Storage {
    bus: Arc<dyn Bus>,
    documents: Arc<dyn DocumentStore>,
    /// The bus of the data directory, which must be closed even when another one is used.
    embedded: Arc<dyn Bus>,
    /// For people.
    places: String,
}

impl Storage {
    /// Opens what `args` ask for. Brokers that are away are no reason to fail.
    pub(crate) async fn open(args: &Args, troubles: &Arc<Troubles>) -> anyhow::Result<Self> {
        let database = open_database(args).await?;
        // Kafka is asked whether it is there; a directory can only be tried.
        let embedded: Arc<dyn Bus> = Arc::new(Watched::new(database.bus(), Arc::clone(troubles)));
        let data = args.data.display();
        let (bus, records) = match args.kafka() {
            Some(brokers) => {
                let bus = open_kafka(args, brokers, troubles).await?;
                (bus, format!("Kafka at {brokers}"))
            }
            None => (Arc::clone(&embedded), data.to_string()),
        };
        let (documents, configurations): (Arc<dyn DocumentStore>, _) = match args.etcd() {
            Some(endpoints) => (open_etcd(args, &endpoints)?, format!("etcd at {endpoints}")),
            None => {
                if bus.is_shared() {
                    warn!(
                        "configurations are kept in {data}: other servers on this Kafka do not see them; use --etcd"
                    );
                }
                (database.documents(), data.to_string())
            }
        };
        let places = format!("records in {records}, configurations in {configurations}");
        Ok(Self { bus, documents, embedded, places })
    }

    pub(crate) fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// All that are open, each once.
    pub(crate) fn buses(&self) -> Vec<Arc<dyn Bus>> {
        let mut buses = vec![Arc::clone(&self.embedded)];
        if !Arc::ptr_eq(&self.bus, &self.embedded) {
            buses.push(Arc::clone(&self.bus));
        }
        buses
    }

    pub(crate) fn documents(&self) -> Arc<dyn DocumentStore> {
        Arc::clone(&self.documents)
    }

    /// Makes what was accepted durable and lets go.
    pub(crate) async fn close(&self) -> Result<(), BusError> {
        let (bus, embedded) = tokio::join!(self.bus.close(), self.embedded.close());
        bus.and(embedded)
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.places)
    }
}

#[cfg(feature = "kafka")]
use kafka::open as open_kafka;

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "the real one waits for brokers")]
async fn open_kafka(_: &Args, _: &str, _: &Arc<Troubles>) -> anyhow::Result<Arc<dyn Bus>> {
    // The settings are checked before, see `refusal`.
    anyhow::bail!("this server was built without Kafka")
}

#[cfg(feature = "etcd")]
use etcd::open as open_etcd;

#[cfg(not(feature = "etcd"))]
fn open_etcd(_: &Args, _: &str) -> anyhow::Result<Arc<dyn DocumentStore>> {
    anyhow::bail!("this server was built without etcd")
}

async fn open_database(args: &Args) -> anyhow::Result<Database> {
    let mut options = Options::default();
    if let Some(bytes) = args.retention_bytes {
        options.monitoring_data.bytes = bytes;
    }
    if let Some(age) = args.retention_age {
        options.monitoring_data.age = age;
    }
    let dir = args.data.clone();
    let opened = tokio::task::spawn_blocking(move || Database::open(&dir, options)).await;
    opened.context("opening the data directory panicked")?.map_err(|error| {
        let remedy = remedy(&error);
        anyhow::Error::new(error).context(remedy)
    })
}

fn remedy(error: &OpenError) -> &'static str {
    match error {
        OpenError::InUse { .. } => {
            "another server uses this data directory; stop it, or choose another one with --data"
        }
        OpenError::Directory { .. } => {
            "cannot use the data directory; choose one that may be written with --data"
        }
        OpenError::NewerFormat { .. } => {
            "the data directory is of a newer version; install that, or choose another with --data"
        }
        OpenError::Foreign { .. } => {
            "the data directory is not ours; choose an empty or a new one with --data"
        }
        _ => "cannot use the data directory; mend it, or choose another one with --data",
    }
}
