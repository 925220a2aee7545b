//! How the program ends: the exit codes, and which error leads to which.

use std::error::Error as _;
use std::io;
use std::process::ExitCode;

use crate::client;
use crate::command::Error;
use crate::view;

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    Rejected = 4,
    TimedOut = 5,
    NotFound = 6,
    Unknown = 7,
    Missing = 10,
}

impl Exit {
    const ALL: [Self; 9] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::Rejected,
        Self::TimedOut,
        Self::NotFound,
        Self::Unknown,
        Self::Missing,
    ];

    const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done (also when the reader of the output went away, or on Ctrl-C)",
            Self::Failed => "failed: the command ran and did not work, or an internal error",
            Self::Usage => "wrong arguments, or an input that cannot be read",
            Self::Unreachable => "the server, or Kafka, cannot be reached",
            Self::Rejected => "rejected: by the agent, or by the server as invalid",
            Self::TimedOut => {
                "no answer in time; of a command: it expired, and was certainly not started"
            }
            Self::NotFound => "nothing found: no such agent or document, no records, no alert",
            Self::Unknown => "the fate of a command is unknown: it may have started",
            Self::Missing => "audit: records are missing, or an agent's books do not balance",
        }
    }

    /// The error's place in the table of exit codes.
    fn of(error: &Error) -> Self {
        match error {
            Error::Client(error) => match error {
                client::Error::Unreachable { .. } | client::Error::Lost { .. } => Self::Unreachable,
                #[cfg(feature = "kafka")]
                client::Error::Brokers { .. } => Self::Unreachable,
                #[cfg(feature = "kafka")]
                client::Error::NeedsServer => Self::Usage,
                client::Error::Rejected { .. } => Self::Rejected,
                client::Error::TimedOut { .. } => Self::TimedOut,
                client::Error::NotFound { .. } => Self::NotFound,
                client::Error::Unavailable { .. }
                | client::Error::Unsupported { .. }
                | client::Error::Failed { .. } => Self::Failed,
            },
            Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Self::Ok,
            Error::Output(_) | Error::Runtime(_) => Self::Failed,
            Error::Input { .. } | Error::Usage(_) => Self::Usage,
            Error::NotFound(_) => Self::NotFound,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Tells the error, if there is one to tell, and gives the exit code.
pub(crate) fn conclude(result: Result<Exit, Error>) -> Exit {
    let error = match result {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    let exit = Exit::of(&error);
    if exit != Exit::Ok {
        let mut line = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        view::notice(&line);
    }
    exit
}

/// The table of exit codes for the help.
pub(crate) fn table() -> String {
    let lines = Exit::ALL.map(|exit| format!("  {:<2} {}\n", exit as u8, exit.meaning()));
    format!("Exit codes:\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_scripts_rely_on() {
        let codes = Exit::ALL.map(|exit| exit as u8);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 10]);
    }

    #[test]
    fn a_closed_pipe_is_success_and_a_full_disk_is_not() {
        let exit = |kind: io::ErrorKind| Exit::of(&Error::Output(kind.into()));
        assert_eq!(exit(io::ErrorKind::BrokenPipe), Exit::Ok);
        assert_eq!(exit(io::ErrorKind::StorageFull), Exit::Failed);
    }

    #[test]
    fn the_table_names_every_code() {
        let table = table();
        for exit in Exit::ALL {
            assert!(table.contains(&format!("\n  {:<2} ", exit as u8)), "{table}");
        }
    }
}
