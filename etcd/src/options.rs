//! Where etcd is, as whom one comes, and how patient one is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::Uri;

/// Members of a cluster that one may name.
const ENDPOINTS_MAX: usize = 16;

/// How to reach the documents.
#[derive(Clone, Debug)]
pub struct Options {
    /// The members of the cluster, asked one at a time, the next when one fails.
    pub endpoints: Endpoints,
    /// None where etcd has authentication off.
    pub credentials: Option<Credentials>,
    /// Right for everyone but tests.
    pub timing: Timing,
}

impl Options {
    /// Without credentials, with the usual timing.
    pub fn new(endpoints: Endpoints) -> Self {
        Self { endpoints, credentials: None, timing: Timing::default() }
    }
}

/// Addresses of the members of one cluster: at least one, at most 16.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(Vec<String>);

impl Endpoints {
    /// The addresses, `HOST:PORT`.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The address at `turn`, round and round.
    pub(crate) fn at(&self, turn: usize) -> &str {
        self.0.get(turn % self.0.len()).map_or("", String::as_str)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Why a text does not say where etcd is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointsError {
    /// Not an address.
    #[error("{0:?} is not HOST:PORT")]
    Address(String),
    /// A scheme that is not spoken.
    #[error("{0:?}: only http is spoken to etcd, write HOST:PORT")]
    Scheme(String),
    /// Too many members.
    #[error("{0} addresses are too many, at most {ENDPOINTS_MAX} are allowed")]
    TooMany(usize),
}

impl FromStr for Endpoints {
    type Err = EndpointsError;

    /// `HOST:PORT[,HOST:PORT...]`; each may have `http://` in front.
    fn from_str(text: &str) -> Result<Self, EndpointsError> {
        let addresses = text.split(',').map(|part| address(part.trim()));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        if ENDPOINTS_MAX < addresses.len() {
            return Err(EndpointsError::TooMany(addresses.len()));
        }
        Ok(Self(addresses))
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

fn address(text: &str) -> Result<String, EndpointsError> {
    let bare = match text.split_once("://") {
        None => text,
        Some(("http", rest)) => rest.trim_end_matches('/'),
        Some(_) => return Err(EndpointsError::Scheme(text.to_owned())),
    };
    let uri = format!("http://{bare}").parse::<Uri>().ok();
    let sound = uri.is_some_and(|uri| {
        let host = uri.host().is_some_and(|host| !host.is_empty());
        let port = uri.port_u16().is_some_and(|port| port != 0);
        host && port && uri.path() == "/" && uri.query().is_none() && !bare.contains(['@', '/'])
    });
    if sound { Ok(bare.to_owned()) } else { Err(EndpointsError::Address(text.to_owned())) }
}

/// A user of etcd. Its password is in no debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Credentials {
    /// A user with a password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How long a watch waits, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Everything is read again after between three quarters of this and all of it: what a lost event delays an update
    /// at most. One read for each key costs little; much less would be felt with thousands of agents.
    pub reread: Duration,
    /// A stream that says nothing for this long, though it is asked, is taken for dead.
    pub silence: Duration,
    /// A stream is asked for a sign of life this often, which etcd by itself gives each 10 minutes.
    pub ask: Duration,
    /// The longest first delay after a failure; it doubles with each one, and the delay is anything up to that.
    pub backoff_first: Duration,
    /// The longest delay of all.
    pub backoff_max: Duration,
    /// A stream that held this long starts the delays anew.
    pub healthy: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            reread: Duration::from_secs(300),
            silence: Duration::from_secs(40),
            ask: Duration::from_secs(12),
            backoff_first: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            healthy: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_in_a_list() {
        let check = |text: &str, expected: &[&str]| {
            let endpoints: Endpoints = text.parse().unwrap();
            assert_eq!(endpoints.iter().collect::<Vec<_>>(), expected, "{text}");
        };
        check("localhost:2379", &["localhost:2379"]);
        check("http://a:1/, [::1]:2", &["a:1", "[::1]:2"]);
        for bad in [
            "", "a", "a:", "a:0", ":1", "a:1,", "a:1/b", "u@a:1", "a:x", "a:99999", "a b:1",
            "a:1?x",
        ] {
            let refused = bad.parse::<Endpoints>();
            assert!(matches!(refused, Err(EndpointsError::Address(_))), "{bad}: {refused:?}");
        }
        assert!(matches!("https://a:1".parse::<Endpoints>(), Err(EndpointsError::Scheme(_))));
        let many = vec!["a:1"; 17].join(",");
        assert_eq!(many.parse::<Endpoints>(), Err(EndpointsError::TooMany(17)));
    }

    #[test]
    fn a_password_is_not_printed() {
        let mut options = Options::new("a:1".parse().unwrap());
        options.credentials = Some(Credentials::new("picket", "secret"));
        let text = format!("{options:?}");
        assert!(text.contains("picket") && !text.contains("secret"), "{text}");
    }
}
