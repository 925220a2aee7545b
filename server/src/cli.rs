//! The command line of `picket-server`, with the variables that stand for flags.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches as _, Parser, ValueEnum};

/// The central server of picket: takes metrics from agents, keeps them, and passes commands on.
///
/// It needs nothing else: the bus and the configuration store live in the data directory, unless --kafka or --etcd is
/// given. When it is ready it prints one line, `listening on ADDRESS`, on standard output; everything else goes to standard error.
/// SIGTERM and SIGINT end it cleanly: what was acknowledged to an agent is on disk.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "picket-server",
    version,
    after_help = "Exit codes: 0 ended by a signal, 1 could not start or failed, 2 refused the command line or a variable.\n\n\
        Examples:\n  \
        picket-server\n  \
        picket-server --listen 127.0.0.1:0 --data /tmp/picket-try\n  \
        picket-server --listen 0.0.0.0:50051 --insecure --data /var/lib/picket\n  \
        picket-server --kafka kafka-1:9092,kafka-2:9092 --etcd etcd-1:2379,etcd-2:2379"
)]
pub struct Args {
    /// Address and port to listen on; port 0 takes any free one.
    ///
    /// An address beyond loopback needs --insecure, because there is no encryption and no authentication yet.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,

    /// Directory for metrics, commands and configurations; made if it is not there.
    ///
    /// One server at a time uses it. Under systemd StateDirectory= sets the default.
    #[arg(long, value_name = "DIR", env = "STATE_DIRECTORY", default_value = "./picket-data")]
    pub data: PathBuf,

    /// Serve beyond loopback without encryption or authentication.
    ///
    /// Everyone who reaches the port can read all metrics and command all agents.
    #[arg(long)]
    pub insecure: bool,

    /// Put everything on Kafka, which several servers share, in place of the data directory; HOST:PORT with commas
    /// between.
    ///
    /// Topics that are absent are created. The data directory still keeps the configurations.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "KAFKA_BOOTSTRAP_SERVERS",
        value_parser = parse_brokers
    )]
    pub kafka: Option<String>,

    /// A file of Kafka client settings, KEY=VALUE on each line: security.protocol, sasl.username and the like.
    #[arg(long, value_name = "FILE", env = "PICKET_KAFKA_CONFIG")]
    pub kafka_config: Option<PathBuf>,

    /// Partitions of a topic that is created; all servers must say the same [default: 12].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub kafka_partitions: Option<u32>,

    /// Replicas of a topic that is created [default: as the brokers are set].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub kafka_replication: Option<u16>,

    /// Keep configurations in etcd, which several servers share, in place of the data directory; HOST:PORT with commas
    /// between.
    ///
    /// Agents get from this server whatever is changed there, by whomever. It need not be there yet.
    #[arg(long, value_name = "HOST:PORT")]
    pub etcd: Option<String>,

    /// The host of etcd, when --etcd is not given.
    #[arg(long, value_name = "HOST", env = "ETCD_HOST")]
    pub etcd_host: Option<String>,

    /// The port of etcd, with --etcd-host.
    #[arg(long, value_name = "PORT", env = "ETCD_PORT", default_value_t = 2379)]
    pub etcd_port: u16,

    /// The user to be in etcd, where it asks for one.
    ///
    /// The password is in the file of --etcd-password-file, or in the variable PICKET_ETCD_PASSWORD.
    #[arg(long, value_name = "NAME", env = "PICKET_ETCD_USER")]
    pub etcd_user: Option<String>,

    /// A file with the password of --etcd-user; a line end after it is not part of it.
    #[arg(long, value_name = "FILE", env = "PICKET_ETCD_PASSWORD_FILE", requires = "etcd_user")]
    pub etcd_password_file: Option<PathBuf>,

    /// Bytes of metrics to keep; the oldest go first. Suffixes K, M, G and T count in 1024. Default 1G.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub retention_bytes: Option<u64>,

    /// Age of metrics to keep, such as 12h or 30d. Default 7d.
    #[arg(long, value_name = "DURATION", value_parser = parse_age)]
    pub retention_age: Option<Duration>,

    /// Bytes of messages that may be on their way to the bus, over all agents; the next ones wait. Suffixes K, M and G count
    /// in 1024.
    ///
    /// Agents are told how much of it is theirs, and keep what does not fit.
    #[arg(
        long,
        value_name = "BYTES",
        env = "PICKET_IN_FLIGHT_BYTES",
        default_value = "64M",
        value_parser = parse_in_flight
    )]
    pub in_flight_bytes: u32,

    /// Connections that are let in; one more is closed at once [default: as the limit on open files allows, at most 100000].
    #[arg(
        long,
        value_name = "COUNT",
        env = "PICKET_CONNECTIONS_MAX",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub connections_max: Option<u32>,

    /// Least important level to log.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "PICKET_LOG",
        default_value = "info",
        ignore_case = true
    )]
    pub log_level: LogLevel,

    /// Form of log lines.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The command line, for what is generated from it.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

impl Args {
    /// What the command line of this process and its variables say; ends the process where that cannot be read, or was a question.
    #[must_use]
    pub fn of_process() -> Self {
        Self::read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// A variable that is empty counts as one that is not set, as `/etc/picket/server.env` may have it.
    fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let is_empty = |argument: &clap::Arg| {
            argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty())
        };
        let command = Self::command().mut_args(|argument| {
            if is_empty(&argument) { argument.env(None::<&str>) } else { argument }
        });
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    /// The brokers of Kafka, when it is asked for.
    pub fn kafka(&self) -> Option<&str> {
        self.kafka.as_deref().filter(|brokers| !brokers.is_empty())
    }

    /// Where etcd is, when it is asked for.
    pub fn etcd(&self) -> Option<String> {
        let host = self.etcd_host.as_ref().filter(|host| !host.is_empty());
        self.etcd.clone().or_else(|| Some(format!("{}:{}", host?, self.etcd_port)))
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What went wrong and was given up.
    Error,
    /// What went wrong and goes on.
    Warn,
    /// One line for each connect, disconnect and change.
    Info,
    /// Single commands and messages.
    Debug,
    /// Everything, that of the libraries included.
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Brokers, `HOST:PORT` with commas between. An empty text stands for none, as variables that are set and empty do.
fn parse_brokers(text: &str) -> Result<String, String> {
    let is_broker = |broker: &str| {
        let port = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0))
    };
    let brokers = text.split(',').map(str::trim).collect::<Vec<_>>();
    if text.is_empty() || brokers.iter().all(|broker| is_broker(broker)) {
        return Ok(brokers.join(","));
    }
    Err("must be HOST:PORT, with commas between several".to_owned())
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    match proto::bytes::parse(text)? {
        bytes if bytes < RETENTION_BYTES_MIN => Err("must be at least 1M".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Room for two of the largest messages, and what still fits in 32 bits.
fn parse_in_flight(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    u32::try_from(bytes).map_err(|_| "must be below 4G".to_owned())
}

/// Less would lose records before the slowest reader has them.
const RETENTION_BYTES_MIN: u64 = 1 << 20;

fn parse_age(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if age < RETENTION_AGE_MIN {
        return Err("must be at least 1m".to_owned());
    }
    Ok(age)
}

/// See [`RETENTION_BYTES_MIN`].
const RETENTION_AGE_MIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn etcd_is_used_when_it_is_asked_for() {
        let check = |args: &[&str], expected: Option<&str>| {
            let args = Args::parse_from(["picket-server"].iter().chain(args));
            assert_eq!(args.etcd().as_deref(), expected, "{args:?}");
        };
        check(&[], None);
        check(&["--etcd-port", "1"], None);
        check(&["--etcd-host", ""], None);
        check(&["--etcd-host", "a"], Some("a:2379"));
        check(&["--etcd-host", "a", "--etcd-port", "1"], Some("a:1"));
        check(&["--etcd-host", "a", "--etcd", "b:2,c:3"], Some("b:2,c:3"));
    }

    #[test]
    fn brokers_have_hosts_and_ports() {
        assert_eq!(parse_brokers("a:9092, [::1]:1"), Ok("a:9092,[::1]:1".to_owned()));
        assert_eq!(parse_brokers(""), Ok(String::new()));
        for bad in ["a", "a:", ":9092", "a:1,", "a:1,,b:2", "a:0", "a:65536"] {
            assert!(parse_brokers(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bytes_take_suffixes() {
        assert_eq!(parse_bytes("1048576"), Ok(1 << 20));
        assert_eq!(parse_bytes("512M"), Ok(512 << 20));
        assert_eq!(parse_bytes("2gib"), Ok(2 << 30));
        for bad in ["", "G", "1X", "-1", "1.5G", "1K", "99999999999T"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bytes_in_flight_have_a_least_and_a_most() {
        assert_eq!(parse_in_flight("64M"), Ok(64 << 20));
        assert_eq!(parse_in_flight("1M"), Ok(1 << 20));
        assert!(parse_in_flight("512K").is_err());
        assert!(parse_in_flight("4G").is_err());
    }

    #[test]
    fn ages_are_durations() {
        assert_eq!(parse_age("7d"), Ok(Duration::from_secs(604_800)));
        assert!(parse_age("1s").is_err());
        assert!(parse_age("soon").is_err());
    }
}
