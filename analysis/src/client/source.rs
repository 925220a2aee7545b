//! Where records come from, and where commands go.

use std::fmt;

use super::{Error, ServerAddress};

/// A server, or the brokers that servers share.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A picket-server, which reads its bus for us.
    Server(ServerAddress),
    /// Kafka itself, with no server on the way.
    #[cfg(feature = "kafka")]
    Kafka(super::broker::Brokers),
}

impl Source {
    /// The address alone.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Server(server) => server.to_string(),
            #[cfg(feature = "kafka")]
            Self::Kafka(brokers) => brokers.to_string(),
        }
    }

    /// The server.
    ///
    /// # Errors
    ///
    /// When it is not a server.
    pub(crate) fn server(&self) -> Result<ServerAddress, Error> {
        match self {
            Self::Server(server) => Ok(server.clone()),
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => Err(Error::NeedsServer),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(server) => write!(f, "the server at {server}"),
            #[cfg(feature = "kafka")]
            Self::Kafka(brokers) => write!(f, "Kafka at {brokers}"),
        }
    }
}
