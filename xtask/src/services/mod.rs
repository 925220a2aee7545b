//! A real etcd and a real Apache Kafka on loopback ports, without root and without containers.
//!
//! `cargo xtask services` keeps one of each for everybody ([`up`], [`down`], [`status`]). A test that kills one starts
//! its own ([`Service::start`]); a test that only talks to one asks for its address ([`kafka`], [`etcd`]).
//! Programs are downloaded once ([`Service::install`]). What the services store it does not know.

pub(crate) mod command;
mod etcd;
mod health;
mod identity;
mod install;
mod instance;
mod kafka;
pub(crate) mod lock;
mod port;
mod session;
mod site;
mod state;
pub(crate) mod wanted;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use command::{Form, down, status, up};
pub use instance::Instance;
pub use port::Claim;
pub(crate) use session::Session;
pub use site::Data;

use self::install::Installed;

/// Set to 1 where a missing service is a failure and not a skipped test.
pub(crate) const REQUIRE: &str = wanted::REQUIRE;

/// One of the services that picket can work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// etcd, one member.
    Etcd,
    /// Apache Kafka, one node that is broker and controller.
    Kafka,
}

impl Service {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Etcd, Self::Kafka];

    /// What people call it, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Kafka => "kafka",
        }
    }

    /// The environment variable that points tests at an instance.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Etcd => wanted::ETCD,
            Self::Kafka => wanted::KAFKA,
        }
    }

    /// `address` in the form that clients take: a URL for etcd, `HOST:PORT` for Kafka.
    pub fn endpoint(self, address: SocketAddr) -> String {
        match self {
            Self::Etcd => format!("http://{address}"),
            Self::Kafka => address.to_string(),
        }
    }

    /// Starts one for the caller alone, which keeps everything in `directory` (created if absent), and waits until it
    /// serves. Data that an earlier one left there are taken over. Its programs are downloaded if need be.
    ///
    /// # Errors
    ///
    /// When the programs are not to be had, or it does not serve in time; the end of its log is included.
    pub fn start(self, directory: &Path) -> anyhow::Result<Instance> {
        self.install()?;
        Instance::start(self, directory)
    }

    /// Sees that its programs are here, and says on stderr what it downloads.
    ///
    /// # Errors
    ///
    /// When they cannot be found or downloaded; the message names what to install.
    pub fn install(self) -> anyhow::Result<()> {
        Installed::here()?.install(self)
    }

    /// Whether [`Service::start`] can start one for the test named `test` without a download.
    ///
    /// If not, and nothing may be skipped here, it downloads; else it says loudly that `test` is skipped.
    ///
    /// # Panics
    ///
    /// Where nothing may be skipped and the programs cannot be downloaded.
    pub fn is_here_for(self, test: &str) -> bool {
        let installed = Installed::here();
        if installed.is_ok_and(|installed| installed.find(self).is_ok()) {
            return true;
        }
        if wanted::is_required() {
            if let Err(error) = self.install() {
                panic!("{self} is needed by {test} and {REQUIRE}=1: {error:#}");
            }
            return true;
        }
        wanted::skip(test, self.name());
        false
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The Kafka that tests share, as `HOST:PORT`; if there is none, the test named `test` is to return, as skipped.
///
/// # Panics
///
/// If there is none where nothing may be skipped.
pub fn kafka(test: &str) -> Option<String> {
    wanted::address(wanted::KAFKA, test)
}

/// The etcd that tests share, as a URL; if there is none, the test named `test` is to return, as skipped.
///
/// # Panics
///
/// If there is none where nothing may be skipped.
pub fn etcd(test: &str) -> Option<String> {
    wanted::address(wanted::ETCD, test)
}
