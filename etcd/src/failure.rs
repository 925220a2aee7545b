//! What goes wrong with etcd, sorted by what one does about it.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status};

use crate::document::Revision;

/// Why etcd could not be asked, or its answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody answers there, or not with sense, or not in time. May pass by itself.
    #[error("{endpoint}: {reason}")]
    Unreachable {
        /// `HOST:PORT`.
        endpoint: String,
        /// In the words of whoever found it.
        reason: String,
    },
    /// Wrong credentials, or no permission for the key. Somebody has to act.
    #[error("{endpoint}: denied: {reason}")]
    Denied {
        /// `HOST:PORT`.
        endpoint: String,
        /// In the words of etcd.
        reason: String,
    },
    /// The member lags behind, or the cluster was put back to an older state under its old name.
    #[error(
        "{endpoint}: its newest revision is {revision}, but {seen} was seen before; it lags behind, or was restored"
    )]
    Behind {
        /// `HOST:PORT`.
        endpoint: String,
        /// Where it is.
        revision: Revision,
        /// Where it should be at least.
        seen: Revision,
    },
    /// More documents than are watched.
    #[error("{endpoint}: has more than {max} documents")]
    TooMany {
        /// `HOST:PORT`.
        endpoint: String,
        /// As many are watched.
        max: usize,
    },
    /// The history that was asked for is gone. Nothing is wrong: what is there now has to be read.
    #[error("{endpoint}: the history is compacted")]
    Compacted {
        /// `HOST:PORT`.
        endpoint: String,
    },
}

impl Failure {
    pub(crate) fn unreachable(endpoint: &str, reason: impl Into<String>) -> Self {
        Self::Unreachable { endpoint: endpoint.to_owned(), reason: reason.into() }
    }

    pub(crate) fn timed_out(endpoint: &str, after: Duration) -> Self {
        Self::unreachable(endpoint, format!("no answer within {after:?}"))
    }

    /// A watch that etcd has cancelled, with its reason, which is empty after a compaction.
    pub(crate) fn cancelled(endpoint: &str, reason: &str) -> Self {
        if is_about_access(reason) {
            return Self::Denied { endpoint: endpoint.to_owned(), reason: reason.to_owned() };
        }
        Self::Compacted { endpoint: endpoint.to_owned() }
    }

    pub(crate) fn of(endpoint: &str, error: &etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::of_status(endpoint, status),
            other => Self::unreachable(endpoint, other.to_string()),
        }
    }

    pub(crate) fn of_transport(endpoint: &str, error: &tonic::transport::Error) -> Self {
        Self::unreachable(endpoint, root_cause(error))
    }

    fn of_status(endpoint: &str, status: &Status) -> Self {
        let endpoint = endpoint.to_owned();
        let reason = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied { endpoint, reason },
            // A wrong password is an invalid argument to etcd, and authentication that is off a failed precondition.
            Code::InvalidArgument | Code::FailedPrecondition if is_about_access(&reason) => {
                Self::Denied { endpoint, reason }
            }
            Code::OutOfRange if reason.contains("compacted") => Self::Compacted { endpoint },
            _ if status.source().is_some() => {
                Self::Unreachable { endpoint, reason: root_cause(status) }
            }
            _ => Self::Unreachable { endpoint, reason },
        }
    }
}

/// The innermost words are the telling ones, such as "connection refused".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

fn is_about_access(reason: &str) -> bool {
    ["auth", "permission denied", "user name", "token"].iter().any(|word| reason.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_etcd_are_sorted() {
        let of = |code, text: &str| {
            Failure::of("a:1", &etcd_client::Error::GRpcStatus(Status::new(code, text)))
        };
        let denied = [
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
            ),
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
        ];
        for (code, text) in denied {
            assert!(matches!(of(code, text), Failure::Denied { .. }), "{text}");
        }
        let compacted =
            of(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        assert!(matches!(compacted, Failure::Compacted { .. }));
        for (code, text) in [(Code::Unavailable, "etcdserver: no leader"), (Code::Unknown, "")] {
            assert!(matches!(of(code, text), Failure::Unreachable { .. }), "{text}");
        }
        assert!(matches!(Failure::cancelled("a:1", ""), Failure::Compacted { .. }));
        let cancelled = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert!(matches!(Failure::cancelled("a:1", cancelled), Failure::Denied { .. }));
    }
}
