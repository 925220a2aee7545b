//! From what the operator said to what the server is asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::str::FromStr;
use std::time::Duration;

use agent_core::id::AgentId;
use agent_core::metric::{Metric, MetricSet, MetricSwitch};
use clap::ValueEnum;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proto::command::CommandType;
use proto::subscribe_metrics_request::Start;
use proto::{
    Command, CommandState, ListCommandsRequest, StatusEvent, SubscribeMetricsRequest,
    SubscribeStatusRequest, subscribe_status_request as status,
};

use crate::cli::{self, EventKind};

/// Records shown by `get-metrics --no-follow` when neither a start nor a limit is given: a screenful.
const LAST_DEFAULT: u64 = 20;

/// How far back `alerts` and `events` look when nothing is said: a day of alerts, which are rare, and an hour of
/// everything.
const ALERTS_SINCE: Point = Point::Ago(Duration::from_secs(24 * 3600));
const EVENTS_SINCE: Point = Point::Ago(Duration::from_secs(3600));

/// How far back `commands` looks: as long as a command may wait, and a week for one that is named.
const COMMANDS_SINCE: Point = Point::Ago(Duration::from_secs(24 * 3600));
const COMMAND_SINCE: Point = Point::Ago(Duration::from_secs(7 * 24 * 3600));

/// A point in time as operators give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// So long before now.
    Ago(Duration),
    /// Unix milliseconds.
    At(i64),
}

impl Point {
    /// Unix milliseconds.
    pub(crate) fn resolve(self, now_ms: i64) -> i64 {
        match self {
            Self::Ago(duration) => {
                let duration_ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
                now_ms.saturating_sub(duration_ms)
            }
            Self::At(unix_ms) => unix_ms,
        }
    }
}

/// The text is neither a duration nor a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is neither a duration such as \"10m\" nor a time such as \"2026-03-01T08:00:00Z\"")]
pub(crate) struct PointError;

impl FromStr for Point {
    type Err = PointError;

    /// A duration (`10m`, `1h 30m`), a time with an offset, or a time of the local time zone.
    fn from_str(text: &str) -> Result<Self, PointError> {
        if let Ok(duration) = humantime::parse_duration(text) {
            return Ok(Self::Ago(duration));
        }
        let local = || text.parse::<DateTime>()?.to_zoned(TimeZone::system());
        text.parse::<Timestamp>()
            .or_else(|_| local().map(|zoned| zoned.timestamp()))
            .map(|time| Self::At(time.as_millisecond()))
            .map_err(|_| PointError)
    }
}

/// A metric by its name, or several by the name of their switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MetricName(MetricSet);

impl FromStr for MetricName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let metric = name.parse::<Metric>().map(|metric| [metric].into_iter().collect());
        let switch = || name.parse::<MetricSwitch>().map(MetricSwitch::metrics);
        metric.or_else(|_| switch()).map(Self).map_err(|_| {
            let switches = MetricSwitch::SINGLE.map(MetricSwitch::name).join(", ");
            let metrics = Metric::ALL.map(Metric::name).join(", ");
            let profile = MetricSwitch::Standard.name();
            format!("is none of {switches}, {profile}, {metrics}")
        })
    }
}

impl MetricName {
    /// All that was asked for; none when nothing was.
    pub(crate) fn union(names: &[Self]) -> Option<MetricSet> {
        names.iter().map(|name| name.0).reduce(MetricSet::union)
    }
}

/// One `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Param {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Param {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some(("", _)) => Err("has no key before \"=\""),
            Some((key, value)) => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            None => Err("is not of the form KEY=VALUE"),
        }
    }
}

/// What `get-metrics` asks for.
///
/// The limit is not among it: the server would count repeats, so the tool counts what it shows.
pub(crate) fn metrics(
    args: &cli::GetMetrics,
    now_ms: i64,
) -> Result<SubscribeMetricsRequest, SpanError> {
    let until_ms = args.until.map(|point| point.resolve(now_ms));
    let since_ms = args.since.map(|point| point.resolve(now_ms));
    if let (Some(since_ms), Some(until_ms)) = (since_ms, until_ms)
        && until_ms < since_ms
    {
        return Err(SpanError);
    }
    let ends_by_itself = args.no_follow || args.limit.is_some() || args.until.is_some();
    let follow = args.follow || !ends_by_itself;
    let start = match since_ms {
        Some(since_ms) => Some(Start::SinceMs(since_ms)),
        None if follow => None,
        None => Some(Start::Last(args.limit.unwrap_or(LAST_DEFAULT))),
    };
    Ok(SubscribeMetricsRequest {
        agents: names(&args.agents),
        start,
        follow,
        limit: 0,
        until_ms: until_ms.unwrap_or(0),
    })
}

/// The end comes before the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--until is before --since; durations count back from now, so --since takes the longer one"
)]
pub(crate) struct SpanError;

/// What `monitor` asks for: everything from now on.
pub(crate) fn live(agents: &[AgentId]) -> SubscribeMetricsRequest {
    SubscribeMetricsRequest {
        agents: names(agents),
        follow: true,
        ..SubscribeMetricsRequest::default()
    }
}

/// What `alerts` asks for.
///
/// What stands now may have been raised long ago, so with `--active` it is everything that the server keeps. A
/// connect tells of a new boot, in which what stood before does not stand any more.
pub(crate) fn alerts(args: &cli::Alerts, now_ms: i64) -> SubscribeStatusRequest {
    let mut events = vec![StatusEvent::Alert, StatusEvent::AlertLoss];
    if args.active {
        events.push(StatusEvent::Connected);
    }
    let since = if args.active { Point::At(0) } else { ALERTS_SINCE };
    SubscribeStatusRequest {
        agents: names(args.agents.iter()),
        start: status_start(args.since, args.follow, since, now_ms),
        follow: args.follow,
        events: numbers(events),
    }
}

/// What `events` asks for: unless said otherwise everything but heartbeats, among which one would find nothing else.
pub(crate) fn events(args: &cli::Events, now_ms: i64) -> SubscribeStatusRequest {
    let asked: Vec<EventKind> = if args.events.is_empty() {
        let all = EventKind::value_variants().iter().copied();
        all.filter(|kind| !kind.is_frequent()).collect()
    } else {
        args.events.clone()
    };
    // One that stands for all of them makes it none, which is how the wire says all.
    let asked: Option<BTreeSet<StatusEvent>> = asked.into_iter().map(EventKind::event).collect();
    SubscribeStatusRequest {
        agents: names(args.agents.iter()),
        start: status_start(args.since, args.follow, EVENTS_SINCE, now_ms),
        follow: args.follow,
        events: numbers(asked.unwrap_or_default()),
    }
}

/// Where to begin: as said; else with what comes from now on when there is no end; else at `default`.
fn status_start(
    since: Option<Point>,
    follow: bool,
    default: Point,
    now_ms: i64,
) -> Option<status::Start> {
    let since = since.or_else(|| (!follow).then_some(default))?;
    Some(status::Start::SinceMs(since.resolve(now_ms)))
}

fn numbers(events: impl IntoIterator<Item = StatusEvent>) -> Vec<i32> {
    events.into_iter().map(i32::from).collect()
}

/// The names of agents for the wire.
pub(crate) fn names<'a>(agents: impl IntoIterator<Item = &'a AgentId>) -> Vec<String> {
    agents.into_iter().map(AgentId::to_string).collect()
}

/// The command to send. `--param` goes before a key of the same name in `--config`.
pub(crate) fn command(
    args: &cli::SendCommand,
    config: BTreeMap<String, String>,
    command_id: String,
    now_ms: i64,
) -> Command {
    let mut params: HashMap<String, String> = config.into_iter().collect();
    params.extend(args.params.iter().map(|param| (param.key.clone(), param.value.clone())));
    Command {
        command_id,
        agent_id: args.agent.to_string(),
        r#type: CommandType::from(args.kind).into(),
        timestamp: now_ms.div_euclid(1000),
        params,
        ttl_ms: u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX),
        force: args.force,
        ..Command::default()
    }
}

/// What `commands list` asks for.
pub(crate) fn commands(args: &cli::CommandsList, now_ms: i64) -> ListCommandsRequest {
    ListCommandsRequest {
        agents: names(&args.agents),
        since_ms: args.since.unwrap_or(COMMANDS_SINCE).resolve(now_ms),
        states: args.states.iter().map(|state| CommandState::from(*state).into()).collect(),
        limit: args.limit,
        ..ListCommandsRequest::default()
    }
}

/// What `commands show` asks for.
pub(crate) fn command_history(args: &cli::CommandsShow, now_ms: i64) -> ListCommandsRequest {
    ListCommandsRequest {
        since_ms: args.since.unwrap_or(COMMAND_SINCE).resolve(now_ms),
        command_id: args.id.to_string(),
        limit: 1,
        ..ListCommandsRequest::default()
    }
}

/// The top-level keys of a JSON object as parameters, each value as JSON text.
pub(crate) fn params_from_json(text: &str) -> Result<BTreeMap<String, String>, ParamsError> {
    let value: serde_json::Value = serde_json::from_str(text)?;
    let serde_json::Value::Object(entries) = value else {
        return Err(ParamsError::NoObject);
    };
    Ok(entries.into_iter().map(|(key, value)| (key, value.to_string())).collect())
}

/// Why a text gives no parameters.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParamsError {
    #[error("it is not JSON")]
    Json(#[from] serde_json::Error),
    #[error("it is JSON, but not an object")]
    NoObject,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn asked(line: &str) -> Result<SubscribeMetricsRequest, SpanError> {
        let cli = cli::Cli::try_parse_from(line.split_whitespace()).unwrap();
        let cli::Command::GetMetrics(args) = cli.command else {
            panic!("another command");
        };
        metrics(&args, NOW_MS)
    }

    fn check(line: &str, start: Option<Start>, follow: bool, until_ms: i64) {
        let request = asked(line).unwrap();
        assert_eq!(
            (request.start, request.follow, request.until_ms),
            (start, follow, until_ms),
            "{line}"
        );
        assert_eq!(request.limit, 0, "{line}");
    }

    #[test]
    fn following_is_the_default_until_an_end_is_given() {
        let hour_ago = NOW_MS - 3_600_000;
        check("picket get-metrics", None, true, 0);
        check("picket get-metrics --since 1h", Some(Start::SinceMs(hour_ago)), true, 0);
        check(
            "picket get-metrics --since 1h --no-follow",
            Some(Start::SinceMs(hour_ago)),
            false,
            0,
        );
        check(
            "picket get-metrics --since 2h --until 1h",
            Some(Start::SinceMs(NOW_MS - 7_200_000)),
            false,
            hour_ago,
        );
        check("picket get-metrics --no-follow", Some(Start::Last(20)), false, 0);
        check("picket get-metrics --limit 5", Some(Start::Last(5)), false, 0);
        check("picket get-metrics --limit 5 --follow", None, true, 0);
    }

    #[test]
    fn the_end_must_not_come_before_the_beginning() {
        assert_eq!(asked("picket get-metrics --since 1m --until 1h"), Err(SpanError));
        assert!(asked("picket get-metrics --since 1h --until 1h").is_ok());
    }

    fn status_asked(line: &str) -> SubscribeStatusRequest {
        match cli::Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            cli::Command::Alerts(args) => alerts(&args, NOW_MS),
            cli::Command::Events(args) => events(&args, NOW_MS),
            other => panic!("another command: {other:?}"),
        }
    }

    #[test]
    fn alerts_and_events_begin_in_the_past_or_follow() {
        let check = |line: &str, ago_ms: Option<i64>, follow| {
            let request = status_asked(line);
            let start = ago_ms.map(|ago_ms| status::Start::SinceMs(NOW_MS - ago_ms));
            assert_eq!((request.start, request.follow), (start, follow), "{line}");
        };
        let hour = 3_600_000;
        check("picket alerts", Some(24 * hour), false);
        check("picket alerts --since 2h", Some(2 * hour), false);
        check("picket alerts --follow", None, true);
        check("picket alerts --since 2h --follow", Some(2 * hour), true);
        check("picket alerts --active", Some(NOW_MS), false);
        check("picket alerts --active --since 2h", Some(2 * hour), false);
        check("picket events", Some(hour), false);
        check("picket events --follow", None, true);
        check("picket events web-1 --since 2h", Some(2 * hour), false);
    }

    #[test]
    fn events_are_chosen_and_heartbeats_only_by_name() {
        let check = |line: &str, expected: &[StatusEvent]| {
            assert_eq!(status_asked(line).events, numbers(expected.iter().copied()), "{line}");
        };
        use StatusEvent as E;
        check("picket alerts", &[E::Alert, E::AlertLoss]);
        check("picket alerts --active", &[E::Alert, E::AlertLoss, E::Connected]);
        check("picket events --event loss,connected --event loss", &[E::Connected, E::Loss]);
        check("picket events --event heartbeat", &[E::Heartbeat]);
        check("picket events --event all", &[]);
        check("picket events --event loss,all", &[]);
        let by_default = status_asked("picket events").events;
        assert_eq!(by_default.len(), 10);
        assert!(!by_default.contains(&E::Heartbeat.into()));
    }

    #[test]
    fn points_are_durations_or_times() {
        let check = |text: &str, expected| assert_eq!(text.parse::<Point>(), expected, "{text}");
        check("10m", Ok(Point::Ago(Duration::from_secs(600))));
        check("2023-11-14T22:13:20Z", Ok(Point::At(NOW_MS)));
        check("2023-11-14T23:13:20+01:00", Ok(Point::At(NOW_MS)));
        check("yesterday", Err(PointError));
        check("", Err(PointError));
        assert!("2023-11-14T22:13:20".parse::<Point>().is_ok(), "local time");
        let age = "500000000years".parse::<Point>();
        assert!(age.is_err() || age.unwrap().resolve(NOW_MS) < 0);
    }

    #[test]
    fn metrics_are_named_singly_or_by_switch() {
        let set = |names: &[&str]| {
            let names: Vec<MetricName> = names.iter().map(|name| name.parse().unwrap()).collect();
            MetricName::union(&names)
        };
        assert_eq!(set(&[]), None);
        assert_eq!(set(&["memory"]).unwrap().len(), 3);
        assert_eq!(set(&["disk read", "cpu_percent"]).unwrap().len(), 2);
        assert_eq!(set(&["load", "temperature_celsius"]).unwrap().len(), 4);
        assert_eq!(set(&["standard"]), Some(MetricSet::ALL));
        let error = "gpu".parse::<MetricName>().unwrap_err();
        assert!(error.starts_with("is none of cpu, "), "{error}");
    }

    #[test]
    fn params_are_split_at_the_first_equals_sign() {
        let param: Param = "a=b=c".parse().unwrap();
        assert_eq!((param.key.as_str(), param.value.as_str()), ("a", "b=c"));
        assert!("=b".parse::<Param>().is_err());
        assert!("a".parse::<Param>().is_err());
    }

    #[test]
    fn a_document_becomes_params_of_json_text() {
        let params = params_from_json(r#"{"interval": 1, "metrics": ["cpu"], "a": "b"}"#).unwrap();
        let expected = [("a", "\"b\""), ("interval", "1"), ("metrics", "[\"cpu\"]")];
        assert_eq!(
            params,
            expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect()
        );
        assert!(matches!(params_from_json("[]"), Err(ParamsError::NoObject)));
        assert!(matches!(params_from_json("{"), Err(ParamsError::Json(_))));
    }
}
