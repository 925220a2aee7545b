//! The command line: what can be said to `picket`, and the help.

use std::path::PathBuf;
use std::time::Duration;

use agent_core::id::{AgentId, CommandId};
use agent_core::limits::COMMAND_TTL_MAX;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use proto::command::CommandType;
use proto::{AlertSeverity, CommandState, StatusEvent};

use crate::client::ServerAddress;
use crate::exit;
use crate::request::{MetricName, Param, Point};

/// What every command takes stands below what is its own.
const GLOBAL: &str = "Options of every command";

/// Looks at a fleet of picket agents, commands and configures them.
#[derive(Debug, Parser)]
#[command(
    name = "picket",
    version,
    arg_required_else_help = true,
    long_about = "\
Looks at a fleet of picket agents, commands and configures them.

Examples:
  picket get-metrics                           live metrics of every agent
  picket get-metrics --since 10m --agent web-1 the last ten minutes of one agent, then live
  picket get-metrics --no-follow -o json       the last 20 records as JSON lines
  picket monitor --duration 30s                a live view, and a summary after 30 seconds
  picket alerts --active                       which alerts stand
  picket events --since 1day                   connects, losses and the like of the last day
  picket audit                                 whether every record is there, or declared lost
  picket agents                                who is there
  picket send-command web-1 STATUS             ask an agent for its state and its books
  picket commands list --state unknown         which commands nobody knows the end of
  picket config set web-1 web-1.json           change what an agent collects, at once",
    after_long_help = exit::table(),
)]
pub(crate) struct Cli {
    /// The server to talk to [default: localhost:50051, or GRPC_SERVER_HOST and GRPC_SERVER_PORT]
    #[arg(
        long,
        global = true,
        env = "PICKET_SERVER",
        value_name = "HOST:PORT",
        help_heading = GLOBAL
    )]
    pub(crate) server: Option<ServerAddress>,

    #[command(flatten)]
    pub(crate) kafka: Kafka,

    /// The form of the output
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table, help_heading = GLOBAL)]
    pub(crate) output: Output,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Kafka in place of a server.
#[derive(Debug, Args)]
pub(crate) struct Kafka {
    /// Read from Kafka itself, and send commands over it, whatever --server says; HOST:PORT with commas between
    /// [default: KAFKA_BOOTSTRAP_SERVERS, unless --server is given]
    #[arg(long, global = true, value_name = "HOST:PORT", help_heading = GLOBAL)]
    pub(crate) kafka: Option<String>,

    /// A file of Kafka client settings, KEY=VALUE on each line: security.protocol, sasl.username and the like
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) kafka_config: Option<PathBuf>,
}

/// The form of what goes to standard output. Remarks and errors go to standard error in every form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people; not stable
    Table,
    /// One JSON object a line; field names are stable, what is absent is left out
    Json,
    /// Comma-separated values with a header; for get-metrics, monitor, alerts, events, commands list, audit
    /// and agents
    Csv,
}

impl Command {
    /// Whether what it asks for is on the bus.
    pub(crate) const fn can_read_kafka(&self) -> bool {
        match self {
            Self::GetMetrics(_)
            | Self::Monitor(_)
            | Self::Alerts(_)
            | Self::Events(_)
            | Self::Commands(_)
            | Self::Audit(_)
            | Self::SendCommand(_) => true,
            Self::Agents(_) | Self::Config(_) | Self::ServerStatus | Self::Completions { .. } => {
                false
            }
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows metrics: live, from history, or both
    #[command(long_about = "\
Shows metrics: live, from history, or both.

Without options it shows live metrics until Ctrl-C. With --since it begins in the past and goes on
live. It ends after the history when --no-follow, --limit or --until is given, unless --follow is
given too. Without --since, --no-follow shows the last 20 records, or the last --limit of them.

When the server goes away while following, it says so and goes on where it stopped as soon as the
server is back. Records that are delivered twice are shown once.

The table has the usual eight metrics, and of those beyond them what comes and fits on the screen;
--metric chooses others, such as --metric load,temperature.

Examples:
  picket get-metrics --agent web-1 --metric cpu,memory
  picket get-metrics --since 2h --until 1h -o csv > hour.csv
  picket get-metrics --since 2026-03-01T08:00:00Z --limit 100
  picket get-metrics -o json | jq 'select(.metrics.cpu_percent > 90) | .agent_id'")]
    GetMetrics(GetMetrics),

    /// Watches agents for a while and sums up: count, min, mean, max, p95
    #[command(long_about = "\
Watches agents for a while and sums up: count, min, mean, max and p95 by agent and metric.

On a terminal it shows the latest values of each agent meanwhile; q or Ctrl-C ends it. The p95 is
exact to 1 %, the other figures are exact. At most 1000 agents are watched at once.

Examples:
  picket monitor --duration 30s
  picket monitor --agent web-1 --agent web-2
  picket monitor --duration 5m -o csv > summary.csv")]
    Monitor(Monitor),

    /// Shows when alerts began and ended, or which stand now
    #[command(long_about = "\
Shows when alerts began and ended, or which stand now.

It shows the alerts of the last day, or since --since, and ends. With --follow it goes on live;
without --since it then begins now. Times are those of the agents' clocks. LASTED says how long a
value had been wrong when its alert was RAISED, and how long the alert stood when it was CLEARED,
or WITHDRAWN because its rule was changed or the metric is no longer collected.

With --active it shows the alerts that were raised and have not ended, the worst first. It looks at
all that the server keeps, or back to --since, and says so. What was raised before an agent's
latest start does not stand any more. An agent that is away may have alerts that stand.

Examples:
  picket alerts --since 1h web-1
  picket alerts --follow --severity warning
  picket alerts --active
  picket alerts --since 7days -o json | jq 'select(.transition == \"RAISED\") | .metric'")]
    Alerts(Alerts),

    /// Shows what happened to agents: connects, losses, configurations and the like
    #[command(long_about = "\
Shows what happened to agents: connects, losses, configurations and the like.

It shows what the server noted in the last hour, or since --since, and ends. With --follow it goes
on live; without --since it then begins now. Times are those of the server's clock. Heartbeats are
shown only when --event asks for them.

Examples:
  picket events web-1 --since 1day
  picket events --follow --event connected,disconnected
  picket events --event all -o json")]
    Events(Events),

    /// Checks that every record is there or declared lost, against the books of the agents
    #[command(long_about = "\
Checks that every record is there or declared lost, against the books of the agents.

It reads all records and all that happened, and finds for each boot of each agent which
sequences were stored, which were declared lost and why, which are still to come, and which are
missing: neither stored, nor declared lost, nor held by the agent as it last said. Alerts are
checked likewise, and whether the agent's own books balance. The exit code is 0 when nothing is
missing, and 10 when something is; what is missing is named below the table.

LOST is an upper bound where it says \"at most\": a process that ended without a word had
reserved so many sequences, and need not have used all. What the store no longer keeps is told as
before the history, and not judged.

Examples:
  picket audit
  picket audit web-1 --boots
  picket audit --since 1day -o json | jq 'select(.difference > 0)'
  picket audit --wait 60s                      until nothing is held any more")]
    Audit(Audit),

    /// Sends a command to an agent and waits for its answer
    #[command(long_about = "\
Sends a command to an agent, waits for its answer and prints it. The exit code says the outcome.

  STATUS         report state, configuration and books
  STOP           stop collecting; the agent stays connected
  START          collect again
  UPDATE_CONFIG  apply --param and --config; without any, read the configuration again
  RESTART        restart the process; answered by the new one

An agent that is away is waited for until the time is up. A command may be handed to the agent
several times, over a broken connection for instance; the agent runs it once, also through a
crash if it has a state directory. A command whose fate is unknown may have started, or start
still for up to 20 seconds: so long it takes to notice that a connection is dead. picket commands
show tells what became of it since. With --kafka a server may need some seconds beyond --timeout
to say that an agent did not get it.

Examples:
  picket send-command web-1 STATUS
  picket send-command web-1 UPDATE_CONFIG --param interval=1 --param 'metrics=[\"cpu\"]'
  picket send-command web-1 UPDATE_CONFIG --config - < web-1.json
  picket send-command web-1 restart --timeout 2m")]
    SendCommand(SendCommand),

    /// Shows what became of commands
    #[command(
        subcommand,
        arg_required_else_help = true,
        long_about = "\
Shows what became of commands.

A command is QUEUED when it is on the bus, DELIVERED when a server has put it on the agent's
stream, and RUNNING when the agent says that it has begun one that takes a while. It ends once,
as one of SUCCEEDED, FAILED, REJECTED (nothing changed), EXPIRED (certainly not started) or
UNKNOWN (it may have started). What an agent says after that is shown as an amendment, and the
command is then found by --state as what the amendment says.

Examples:
  picket commands list --since 1h
  picket commands list web-1 --state unknown --state expired
  picket commands show 6f1c7bb2a5d94f0e9a57e1f2c3b4d5e6"
    )]
    Commands(Commands),

    /// Lists the agents that the server has seen
    #[command(long_about = "\
Lists the agents that the server has seen: state, version, boot, configuration and books.

TROUBLES says what is wrong with an identity: two live agents with one id, or a boot counter that
does not rise as one host's does. CONFIG is the revision applied, and the one wanted where it is
another. DELIVERED, LOST and HELD are records of the current boot, as the agent last reported
them; SPOOLED are records of all its boots on its disk, where an agent has a spool.

Examples:
  picket agents
  picket agents web-1 web-2
  picket agents -o json | jq 'select(.connected | not) | .agent_id'")]
    Agents(Agents),

    /// Reads and changes the configuration of agents
    #[command(
        subcommand,
        arg_required_else_help = true,
        long_about = "\
Reads and changes the configuration of agents.

A configuration is a JSON object. What holds for an agent is its own document over the one of
\"_default\", key by key; what neither says has a default. A change goes to the agents at once,
and each applies it without a restart, or rejects it and keeps what it had.

Examples:
  picket config show web-1
  picket config set _default fleet.json
  echo '{\"interval\": 1}' | picket config set web-1
  picket config get web-1 > web-1.json
  picket config unset web-1"
    )]
    Config(Config),

    /// Shows the server's own figures
    ServerStatus,

    /// Prints completions for a shell
    #[command(long_about = "\
Prints completions for a shell.

Examples:
  picket completions bash > ~/.local/share/bash-completion/completions/picket
  picket completions fish > ~/.config/fish/completions/picket.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GetMetrics {
    /// Begin at this time: so long ago ("10m", "1h 30m", "2days") or a time ("2026-03-01T08:00:00Z")
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Point>,

    /// End at this time, given like --since
    #[arg(long, value_name = "TIME", requires = "since")]
    pub(crate) until: Option<Point>,

    /// Only this agent; may be repeated
    #[arg(long = "agent", value_name = "AGENT")]
    pub(crate) agents: Vec<AgentId>,

    /// Only this metric ("cpu_percent") or group ("cpu", "disk read"); may be repeated
    #[arg(long = "metric", value_name = "METRIC", value_delimiter = ',')]
    pub(crate) metrics: Vec<MetricName>,

    /// End after so many records
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,

    /// Go on with live records after the history
    #[arg(long, overrides_with = "no_follow")]
    pub(crate) follow: bool,

    /// End with the history
    #[arg(long, overrides_with = "follow")]
    pub(crate) no_follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Monitor {
    /// End after this time, such as "30s" [default: on Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,

    /// Only this agent; may be repeated
    #[arg(long = "agent", value_name = "AGENT")]
    pub(crate) agents: Vec<AgentId>,
}

/// Agents, named as `get-metrics` wants it or without a flag.
#[derive(Debug, Args)]
pub(crate) struct OnlyAgents {
    /// Only these agents
    #[arg(value_name = "AGENT")]
    agents: Vec<AgentId>,

    /// The same as AGENT alone; may be repeated
    #[arg(long = "agent", value_name = "AGENT")]
    flagged: Vec<AgentId>,
}

impl OnlyAgents {
    /// All that were named, in any way.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &AgentId> {
        self.agents.iter().chain(&self.flagged)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Alerts {
    #[command(flatten)]
    pub(crate) agents: OnlyAgents,

    /// Begin at this time: so long ago ("10m", "1h 30m", "2days") or a time ("2026-03-01T08:00:00Z")
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Point>,

    /// Go on with live alerts after the history
    #[arg(long)]
    pub(crate) follow: bool,

    /// Only alerts that are at least this bad
    #[arg(long, value_enum, ignore_case = true)]
    pub(crate) severity: Option<Severity>,

    /// Only alerts that stand now
    #[arg(long, conflicts_with = "follow")]
    pub(crate) active: bool,
}

/// How bad an alert is, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Severity {
    Info,
    Warning,
    Critical,
}

impl Severity {
    /// The number on the wire, where worse is greater.
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::Info => AlertSeverity::Info as i32,
            Self::Warning => AlertSeverity::Warning as i32,
            Self::Critical => AlertSeverity::Critical as i32,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) agents: OnlyAgents,

    /// Begin at this time: so long ago ("10m", "1h 30m", "2days") or a time ("2026-03-01T08:00:00Z")
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Point>,

    /// Go on with live events after the history
    #[arg(long)]
    pub(crate) follow: bool,

    /// Only this kind of event; may be repeated [default: all but heartbeat, command_delivered,
    /// command_running and command_closed]
    #[arg(
        long = "event",
        value_name = "EVENT",
        value_enum,
        value_delimiter = ',',
        ignore_case = true
    )]
    pub(crate) events: Vec<EventKind>,
}

/// Events by their names on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum EventKind {
    Connected,
    Disconnected,
    Heartbeat,
    ConfigApplied,
    ConfigRejected,
    ConfigRolledBack,
    CommandDelivered,
    CommandRunning,
    CommandClosed,
    Loss,
    DuplicateId,
    CloneSuspected,
    Alert,
    AlertLoss,
    All,
}

impl EventKind {
    /// Whether it is shown only when it is asked for by name.
    pub(crate) const fn is_frequent(self) -> bool {
        matches!(
            self,
            Self::Heartbeat
                | Self::CommandDelivered
                | Self::CommandRunning
                | Self::CommandClosed
                | Self::All
        )
    }

    /// The one on the wire; none stands for all of them.
    pub(crate) const fn event(self) -> Option<StatusEvent> {
        Some(match self {
            Self::Connected => StatusEvent::Connected,
            Self::Disconnected => StatusEvent::Disconnected,
            Self::Heartbeat => StatusEvent::Heartbeat,
            Self::ConfigApplied => StatusEvent::ConfigApplied,
            Self::ConfigRejected => StatusEvent::ConfigRejected,
            Self::ConfigRolledBack => StatusEvent::ConfigRolledBack,
            Self::CommandDelivered => StatusEvent::CommandDelivered,
            Self::CommandRunning => StatusEvent::CommandRunning,
            Self::CommandClosed => StatusEvent::CommandClosed,
            Self::Loss => StatusEvent::Loss,
            Self::DuplicateId => StatusEvent::DuplicateId,
            Self::CloneSuspected => StatusEvent::CloneSuspected,
            Self::Alert => StatusEvent::Alert,
            Self::AlertLoss => StatusEvent::AlertLoss,
            Self::All => return None,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only these agents
    #[arg(value_name = "AGENT")]
    pub(crate) agents: Vec<AgentId>,

    /// Judge only what was stored since: so long ago ("10m", "1h 30m", "2days") or a time ("2026-03-01T08:00:00Z")
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Point>,

    /// A row for each boot in place of each agent
    #[arg(long)]
    pub(crate) boots: bool,

    /// Check again and again until nothing is missing and nothing is still to come, at most so long: "90" (seconds),
    /// "2m"
    #[arg(long, value_name = "TIME", value_parser = patience)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct SendCommand {
    /// The agent
    pub(crate) agent: AgentId,

    /// What it shall do
    #[arg(value_name = "TYPE", value_enum, ignore_case = true)]
    pub(crate) kind: CommandKind,

    /// With UPDATE_CONFIG: a key of the configuration and its value, JSON or text; may be repeated
    #[arg(long = "param", value_name = "KEY=VALUE")]
    pub(crate) params: Vec<Param>,

    /// With UPDATE_CONFIG: a JSON object whose keys are the parameters; "-" reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Send it also to an agent whose identity is in doubt
    #[arg(long)]
    pub(crate) force: bool,

    /// How long the agent has to answer
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    pub(crate) timeout: Duration,
}

/// The commands by their names on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum CommandKind {
    Status,
    Stop,
    Start,
    #[value(alias = "UPDATE-CONFIG")]
    UpdateConfig,
    Restart,
}

impl From<CommandKind> for CommandType {
    fn from(kind: CommandKind) -> Self {
        match kind {
            CommandKind::Status => Self::Status,
            CommandKind::Stop => Self::Stop,
            CommandKind::Start => Self::Start,
            CommandKind::UpdateConfig => Self::UpdateConfig,
            CommandKind::Restart => Self::Restart,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Commands {
    /// Lists commands, the newest last
    List(CommandsList),
    /// Shows one command with its times, servers and boots
    Show(CommandsShow),
}

#[derive(Debug, Args)]
pub(crate) struct CommandsList {
    /// Only to these agents
    #[arg(value_name = "AGENT")]
    pub(crate) agents: Vec<AgentId>,

    /// Begin at this time: so long ago ("10m", "1h 30m", "2days") or a time ("2026-03-01T08:00:00Z") [default: a day ago]
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Point>,

    /// Only those that stand so; may be repeated
    #[arg(
        long = "state",
        value_name = "STATE",
        value_enum,
        value_delimiter = ',',
        ignore_case = true
    )]
    pub(crate) states: Vec<State>,

    /// At most so many, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct CommandsShow {
    /// The command
    #[arg(value_name = "ID")]
    pub(crate) id: CommandId,

    /// How far back to look, given like --since of list [default: a week]
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Point>,
}

/// Where a command stands, by its name on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Queued,
    Delivered,
    Running,
    Succeeded,
    Failed,
    Rejected,
    Expired,
    Unknown,
}

impl From<State> for CommandState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Delivered => Self::Delivered,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Rejected => Self::Rejected,
            State::Expired => Self::Expired,
            State::Unknown => Self::Unknown,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Agents {
    /// Only these agents
    #[arg(value_name = "AGENT")]
    pub(crate) agents: Vec<AgentId>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Prints the document of one agent or of _default alone
    Get {
        /// An agent, or _default
        #[arg(value_name = "AGENT")]
        layer: Layer,
    },
    /// Stores a document and sends it to the agents it concerns
    #[command(long_about = "\
Stores a document and sends it to the agents it concerns. The server validates it first.

Examples:
  picket config set web-1 web-1.json
  echo '{\"interval\": 1}' | picket config set web-1
  picket config set web-1 web-1.json --expected-revision 7")]
    Set {
        /// An agent, or _default
        #[arg(value_name = "AGENT")]
        layer: Layer,
        /// A file with a JSON object; "-" reads standard input
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Refuse when the stored document has another revision; 0: when there is one
        #[arg(long, value_name = "REVISION")]
        expected_revision: Option<u64>,
    },
    /// Removes a document, so that what is below it counts again
    Unset {
        /// An agent, or _default
        #[arg(value_name = "AGENT")]
        layer: Layer,
    },
    /// Prints what holds for an agent, all layers merged
    Show {
        /// An agent, or _default
        #[arg(value_name = "AGENT")]
        layer: Layer,
        /// Print each value with where it is from: default, _default, the agent's own layer, or the agent itself
        #[arg(long)]
        origin: bool,
    },
    /// Prints the versions of a document, newest first
    History {
        /// An agent, or _default
        #[arg(value_name = "AGENT")]
        layer: Layer,
        /// At most so many
        #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Stores an earlier version of a document again, as a new revision
    #[command(long_about = "\
Stores an earlier version of a document again, as a new revision, and sends it to the agents it
concerns. Prints which keys that changes, and what the agent said. Refused when somebody changed
the document meanwhile.")]
    Rollback {
        /// An agent, or _default
        #[arg(value_name = "AGENT")]
        layer: Layer,
        /// The version to go back to; the one before the stored one if not given
        #[arg(long, value_name = "REVISION")]
        to: Option<u64>,
    },
}

/// Whose configuration: an agent's, or the one below every agent's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Default,
    Agent(AgentId),
}

impl Layer {
    const DEFAULT_NAME: &str = "_default";

    /// The name on the wire.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Default => Self::DEFAULT_NAME,
            Self::Agent(id) => id.as_str(),
        }
    }
}

impl std::str::FromStr for Layer {
    type Err = agent_core::id::AgentIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == Self::DEFAULT_NAME {
            return Ok(Self::Default);
        }
        text.parse().map(Self::Agent)
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if timeout < Duration::from_millis(1) || timeout > COMMAND_TTL_MAX {
        return Err("must be from 1ms to 24h".to_owned());
    }
    Ok(timeout)
}

/// A duration; a number alone is in seconds.
fn patience(text: &str) -> Result<Duration, humantime::DurationError> {
    text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Each command with what the help says of it, below one of the name `path`.
    fn long_texts(path: &str, command: &clap::Command) -> Vec<(String, String)> {
        let name = format!("{path} {}", command.get_name());
        let own = [command.get_long_about(), command.get_after_long_help()];
        let mut texts: Vec<_> =
            own.into_iter().flatten().map(|text| (name.clone(), text.to_string())).collect();
        texts.extend(command.get_subcommands().flat_map(|below| long_texts(&name, below)));
        texts
    }

    #[test]
    fn no_line_of_the_help_that_we_broke_is_broken_again() {
        let texts = long_texts("", &Cli::command());
        assert!(texts.len() > 10, "{}", texts.len());
        for (command, text) in texts {
            // Without a terminal help is wrapped at 100 columns.
            for line in text.lines() {
                assert!(line.chars().count() <= 100, "{command}: {line}");
            }
        }
    }

    #[test]
    fn the_help_names_what_there_is() {
        let mut command = Cli::command();
        let events = command.find_subcommand_mut("events").unwrap();
        let help = events.clone().term_width(1000).render_long_help().to_string();
        let unnamed = EventKind::value_variants().iter().filter(|kind| kind.is_frequent());
        let default = help.split("[default: all but ").nth(1).unwrap().split(']').next().unwrap();
        for kind in unnamed.filter(|kind| **kind != EventKind::All) {
            let name = kind.to_possible_value().unwrap();
            assert!(default.contains(name.get_name()), "{default}");
        }
        let named = ["get-metrics", "monitor", "alerts", "events", "commands", "audit", "agents"];
        let forms = Output::Csv.to_possible_value().unwrap();
        let forms = forms.get_help().unwrap().to_string();
        for name in named {
            assert!(forms.contains(name) && command.find_subcommand(name).is_some(), "{name}");
        }
    }

    fn check(line: &str, accepted: bool) {
        let parsed = Cli::try_parse_from(line.split_whitespace());
        assert_eq!(parsed.is_ok(), accepted, "{line}: {parsed:?}");
    }

    #[test]
    fn arguments_are_checked() {
        check("picket get-metrics --since 10m --agent web-1 --agent b", true);
        check("picket get-metrics --metric disk_read,cpu -o json", true);
        check("picket get-metrics --metric gpu", false);
        check("picket get-metrics --agent ../x", false);
        check("picket get-metrics --until 5m", false);
        check("picket get-metrics --limit 0", false);
        check("picket get-metrics --metric load,disk_percent,standard", true);
        check("picket alerts web-1 db.2 --since 1h --severity warning --follow", true);
        check("picket alerts --active --since 2026-03-01T08:00:00Z", true);
        check("picket alerts --active --follow", false);
        check("picket alerts --agent web-1 --agent db.2 x", true);
        check("picket alerts --agent ../x", false);
        check("picket events --agent web-1", true);
        check("picket alerts --severity bad", false);
        check("picket alerts ../x", false);
        check("picket events --event connected,config_applied --event LOSS", true);
        check("picket events --event gone", false);
        check("picket events --since yesterday", false);
        check("picket audit web-1 db.2 --since 1day --boots --wait 90", true);
        check("picket audit --wait 2m -o csv", true);
        check("picket audit --wait soon", false);
        check("picket send-command web-1 status", true);
        check("picket send-command web-1 UPDATE_CONFIG --param a=b", true);
        check("picket send-command web-1 update-config", true);
        check("picket send-command web-1 EXPLODE", false);
        check("picket send-command web-1 STATUS --timeout 25h", false);
        check("picket send-command web-1 STATUS --param a", false);
        check("picket send-command web-1 STOP --force", true);
        check("picket commands list", true);
        check("picket commands list web-1 --since 1h --state unknown,EXPIRED", true);
        check("picket commands list --state gone", false);
        check("picket commands list --limit 1001", false);
        check("picket commands show c-1", true);
        check("picket commands show", false);
        check("picket config get _default", true);
        check("picket config get _other", false);
        check("picket config set web-1 --expected-revision 0", true);
        check("picket --server nowhere:port agents", false);
        check("picket agents --server 10.0.0.1:50051", true);
    }

    #[test]
    fn the_last_of_follow_and_no_follow_counts() {
        let cli = Cli::try_parse_from(["picket", "get-metrics", "--no-follow", "--follow"]);
        let Command::GetMetrics(args) = cli.unwrap().command else {
            panic!("another command");
        };
        assert_eq!((args.follow, args.no_follow), (true, false));
    }
}
