//! The agent's configuration file.

mod reading;
mod table;

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use agent_core::id::AgentId;
use clap::ValueEnum;
use proto::address::ServerAddresses;
use proto::config::{Document, KEYS as TABLE_KEYS};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use self::reading::Reading;
pub(crate) use self::reading::{Places, Problem};
use crate::cli::{self, LogLevel, SpoolOrder};
use crate::collector::CollectorKind;
use crate::gateway::PortAddress;
use crate::state_file;

/// The file that is read when none is named, if it is there.
pub(crate) const DEFAULT_PATH: &str = "/etc/picket/agent.toml";

/// Twice what the table `config` alone may have.
const FILE_BYTES_MAX: u64 = 128 << 10;

/// What is said of a file in one line.
const PROBLEMS_IN_ONE_LINE: usize = 3;

/// The keys beside the table `config`, in the order of the documentation.
pub(crate) const KEYS: [&str; 18] = [
    "agent_id",
    "server",
    "state_dir",
    "spool_max_bytes",
    "spool_max_age",
    "spool_after",
    "spool_order",
    "config_confirm",
    "etcd",
    "etcd_user",
    "etcd_password_file",
    "collector",
    "start_jitter",
    "serial",
    "baud",
    "nice",
    "log_level",
    table::NAME,
];

/// What the file says. Unknown keys are errors: nobody else writes this file.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) agent_id: Option<AgentId>,
    pub(crate) server: Option<ServerAddresses>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) spool_max_bytes: Option<u64>,
    pub(crate) spool_max_age: Option<Duration>,
    pub(crate) spool_after: Option<Duration>,
    pub(crate) spool_order: Option<SpoolOrder>,
    pub(crate) config_confirm: Option<Duration>,
    pub(crate) etcd: Option<String>,
    pub(crate) etcd_user: Option<String>,
    pub(crate) etcd_password_file: Option<PathBuf>,
    pub(crate) collector: Option<CollectorKind>,
    pub(crate) start_jitter: Option<bool>,
    pub(crate) serial: Option<Vec<PortAddress>>,
    pub(crate) baud: Option<u32>,
    pub(crate) nice: Option<i32>,
    pub(crate) log_level: Option<LogLevel>,
    /// What the table `config` says.
    pub(crate) config: Document,
    /// Where the keys stand.
    pub(crate) places: Places,
    /// The values of the keys beside that table, as they are written.
    pub(crate) host_keys: BTreeMap<String, String>,
    /// What cannot be used of it, in its order; the keys that it is about have no value here.
    pub(crate) problems: Vec<Problem>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// It is no TOML. In the order of the file.
    #[error("{}", in_one_line(&in_file(path, problems)))]
    Wrong { path: PathBuf, problems: Vec<Problem> },
}

impl FileError {
    /// Everything that is wrong, each with its place.
    pub(crate) fn all(&self) -> Vec<String> {
        match self {
            Self::Read { source, .. } => vec![format!("{self}: {source}")],
            Self::Wrong { path, problems } => in_file(path, problems),
        }
    }
}

fn in_file(path: &Path, problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect()
}

/// The first few of `problems`: for the log, and for whoever sent a command.
pub(crate) fn in_one_line(problems: &[String]) -> String {
    let first = &problems[..problems.len().min(PROBLEMS_IN_ONE_LINE)];
    let line = first.join("; ");
    match problems.len() - first.len() {
        0 => line,
        more => format!("{line}; and {more} more, which check-config names"),
    }
}

/// Reads the file at `path`, of an agent with these plugins of the user's own.
///
/// # Errors
///
/// When it cannot be read, as bytes or as TOML.
pub(crate) fn read(path: &Path, own: &[&str]) -> Result<File, FileError> {
    let text =
        read_text(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    parse(&text, own).map_err(|problems| FileError::Wrong { path: path.to_owned(), problems })
}

/// Where the file is, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// It was named, so it must be there.
    Named(PathBuf),
    /// It is read if it is there.
    Standard(PathBuf),
}

impl Location {
    /// The file that was named, else that of [`DEFAULT_PATH`].
    pub(crate) fn new(named: Option<PathBuf>) -> Self {
        named.map_or_else(|| Self::Standard(DEFAULT_PATH.into()), Self::Named)
    }

    pub(crate) fn path(&self) -> &Path {
        let (Self::Named(path) | Self::Standard(path)) = self;
        path
    }

    /// What the file says, as it is now; none when it is not there and need not be. One that is there and cannot be read is
    /// an error.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub(crate) fn read(&self, own: &[&str]) -> Result<Option<File>, FileError> {
        match (self, read(self.path(), own)) {
            (Self::Standard(_), Err(FileError::Read { source, .. }))
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            (_, result) => result.map(Some),
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    state_file::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        let reason = format!("it has more than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        let reason = format!("line {line} is not UTF-8, from byte {at} of the file on");
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

fn parse(text: &str, own: &[&str]) -> Result<File, Vec<Problem>> {
    let mut reading = Reading::new(text);
    let mut file = File::default();
    let (table, errors) = DeTable::parse_recoverable(text);
    let is_toml = errors.is_empty();
    if is_toml {
        for (key, value) in table.get_ref() {
            file.take(&mut reading, key, value, own);
            if key.get_ref() != table::NAME {
                let value = text.get(value.span()).unwrap_or_default();
                file.host_keys.insert(key.get_ref().clone().into_owned(), value.to_owned());
            }
        }
    } else {
        // What was understood in spite of them may not be what was meant.
        for error in errors {
            reading.refuse_syntax(error.span(), error.message());
        }
    }
    let (problems, places) = reading.end();
    if is_toml { Ok(File { places, problems, ..file }) } else { Err(problems) }
}

impl File {
    /// Takes one key of the file in.
    fn take(
        &mut self,
        reading: &mut Reading<'_>,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        own: &[&str],
    ) {
        let span = key.span();
        let key = key.get_ref().as_ref();
        let found = value;
        match key {
            "agent_id" => self.agent_id = reading.value(key, found, parsed),
            "server" => self.server = reading.value(key, found, parsed),
            "state_dir" => self.state_dir = reading.value(key, found, path),
            "spool_max_bytes" => {
                let parse = |value: &DeValue<'_>| text_or_number(value, cli::spool_bytes);
                self.spool_max_bytes = reading.value(key, found, parse);
            }
            "spool_max_age" => self.spool_max_age = reading.value(key, found, duration),
            "spool_after" => self.spool_after = reading.value(key, found, duration),
            "spool_order" => self.spool_order = reading.value(key, found, choice),
            "config_confirm" => {
                let parse = |value: &DeValue<'_>| text_or_number(value, cli::confirm);
                self.config_confirm = reading.value(key, found, parse);
            }
            "etcd" => self.etcd = reading.value(key, found, owned),
            "etcd_user" => self.etcd_user = reading.value(key, found, owned),
            "etcd_password_file" => self.etcd_password_file = reading.value(key, found, path),
            "collector" => self.collector = reading.value(key, found, choice),
            "start_jitter" => self.start_jitter = reading.value(key, found, truth),
            "serial" => self.serial = ports(reading, key, found),
            "baud" => {
                self.baud = reading.value(key, found, |value| number(value, cli::BAUD_RANGE));
            }
            "nice" => {
                self.nice = reading.value(key, found, |value| number(value, cli::NICE_RANGE));
            }
            "log_level" => self.log_level = reading.value(key, found, choice),
            table::NAME => self.config = table::document(reading, found, own),
            _ if TABLE_KEYS.contains(&key) => {
                let reason = format!("unknown key; `{key}` belongs below [{}]", table::NAME);
                reading.refuse_key(key, span, reason);
            }
            _ => reading.refuse_key(key, span, table::unknown(key, &KEYS)),
        }
    }
}

fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| "it must be text in quotes".to_owned())
}

fn owned(value: &DeValue<'_>) -> Result<String, String> {
    let text = text(value)?;
    if text.is_empty() { Err("it must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    owned(value).map(PathBuf::from)
}

fn parsed<T: FromStr<Err: ToString>>(value: &DeValue<'_>) -> Result<T, String> {
    text(value)?.parse().map_err(|error: T::Err| error.to_string())
}

fn duration(value: &DeValue<'_>) -> Result<Duration, String> {
    cli::duration(text(value)?)
}

fn truth(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "it must be true or false".to_owned())
}

fn whole(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn number<T: TryFrom<i64>>(value: &DeValue<'_>, range: RangeInclusive<i64>) -> Result<T, String> {
    let (least, most) = (range.start(), range.end());
    let refused = || format!("it must be a whole number from {least} to {most}, without quotes");
    let fitting = whole(value).filter(|number| range.contains(number));
    fitting.and_then(|number| T::try_from(number).ok()).ok_or_else(refused)
}

/// What `parse` makes of text, or of a number without quotes, which is taken as it would be with them.
fn text_or_number<T>(
    value: &DeValue<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, String> {
    match whole(value) {
        Some(number) => parse(&number.to_string()),
        None => parse(text(value)?),
    }
}

fn choice<T: ValueEnum>(value: &DeValue<'_>) -> Result<T, String> {
    let text = text(value)?;
    let variants = T::value_variants().iter().filter_map(T::to_possible_value);
    let names = variants.map(|value| value.get_name().to_owned()).collect::<Vec<_>>();
    T::from_str(text, false).map_err(|_| {
        let suggestion = reading::suggestion(text, names.iter().map(String::as_str));
        format!("it must be one of {}{suggestion}", names.join(", "))
    })
}

fn ports(
    reading: &mut Reading<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> Option<Vec<PortAddress>> {
    reading.found(key, value.span());
    let Some(items) = value.get_ref().as_array() else {
        reading.refuse_value(key, value.span(), "it must be a list of text".to_owned());
        return None;
    };
    let items = items.iter().enumerate();
    items.map(|(index, item)| reading.value(&format!("{key}[{index}]"), item, parsed)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn parse_at(text: &str) -> (tempfile::TempDir, Result<File, FileError>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        fs::write(&path, text).unwrap();
        let file =
            read(&path, &["own.every_nth"]).and_then(|file| match file.problems.as_slice() {
                [] => Ok(file),
                problems => Err(FileError::Wrong { path, problems: problems.to_vec() }),
            });
        (directory, file)
    }

    /// What is wrong, without the directory.
    fn wrong(text: &str) -> Vec<String> {
        let (directory, file) = parse_at(text);
        let directory = format!("{}/", directory.path().display());
        file.unwrap_err().all().iter().map(|error| error.replace(&directory, "")).collect()
    }

    #[test]
    fn the_file_has_the_keys_of_the_remote_configuration() {
        let text = "agent_id = \"edge-1\"\nserver = \"h:1\"\n[config]\ninterval = 2\n\
                    metrics = [\"cpu\"]\n[config.thresholds]\ncpu_percent = 90";
        let file = parse_at(text).1.unwrap();
        assert_eq!(file.agent_id.unwrap().as_str(), "edge-1");
        let mut keys = file.config.keys().collect::<Vec<_>>();
        keys.sort_unstable();
        assert_eq!(keys, ["interval", "metrics", "thresholds"]);
        let place = |key| file.places.get(key).map(|place| (place.line, place.value.as_str()));
        assert_eq!(place("server"), Some((2, "\"h:1\"")));
        assert_eq!(place("config.thresholds.cpu_percent"), Some((7, "90")));
        assert_eq!(place("config.window_size"), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_value() {
        let check = |text, expected: &str| {
            let said = wrong(text);
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].starts_with(expected), "{said:?}");
        };
        check("\nnick = 1", "agent.toml:2: nick: unknown key (did you mean `nice`?)");
        check("agent_name = \"x\"", "agent.toml:1: agent_name: unknown key; known are agent_id, ");
        check("agent_id = ", "agent.toml:1: ");
        check("baud = 1\nbaud = 2", "agent.toml:2: baud: duplicate key");
        check("[config]\ninterval = 1\ninterval = 2", "agent.toml:3: interval: duplicate key");
        check(
            "[config]\ninterval = \"5\"",
            "agent.toml:2: config.interval = \"5\": it must be a number, without quotes",
        );
        check(
            "interval = 5",
            "agent.toml:1: interval: unknown key; `interval` belongs below [config]",
        );
        check("nice = 20", "agent.toml:1: nice = 20: it must be a whole number from -20 to 19");
        check("nice = \"5\"", "agent.toml:1: nice = \"5\": it must be a whole number");
        check("baud = 0", "agent.toml:1: baud = 0: it must be a whole number from 1 to 4294967295");
        check("agent_id = \"a/b\"", "agent.toml:1: agent_id = \"a/b\": ");
        check(
            "spool_after = \"soon\"",
            "agent.toml:1: spool_after = \"soon\": it must be a duration such as 90s",
        );
        check(
            "spool_max_bytes = 7",
            "agent.toml:1: spool_max_bytes = 7: it must be 0, or 64K to 512M",
        );
        check(
            "log_level = \"wran\"",
            "agent.toml:1: log_level = \"wran\": it must be one of off, error, warn, info, debug, trace (did you mean `warn`?)",
        );
        check(
            "serial = [\n\"/dev/ttyS0\",\n\"tcp:host\"]",
            "agent.toml:3: serial[1] = \"tcp:host\": it must be tcp:HOST:PORT",
        );
        check("start_jitter = 1", "agent.toml:1: start_jitter = 1: it must be true or false");
        check("config = 1", "agent.toml:1: config = 1: it must be a table");
        check("state_dir = \"\"", "agent.toml:1: state_dir = \"\": it must not be empty");
        check(
            "[config]\nserver = \"h\"",
            "agent.toml:2: config.server: unknown key; `server` stands above [config]",
        );
        check(
            "[config]\ninterval = 0",
            "agent.toml:2: config.interval = 0: interval is 0 s, it must be 0.1 to 86400 s",
        );
        check(
            "[config]\ninterval = nan",
            "agent.toml:2: config.interval = nan: it must be a finite number",
        );
        check(
            "[config]\nintervall = 1",
            "agent.toml:2: config.intervall: unknown key (did you mean `interval`?)",
        );
        check(
            "[config]\nplugins = [\"filter\",\n\"agregation\"]",
            "agent.toml:3: config.plugins[1] = \"agregation\": unknown plugin",
        );
        check(
            "[config.thresholds]\ncpu_pecent = 1",
            "agent.toml:2: config.thresholds.cpu_pecent: unknown key (did you mean `cpu_percent`?)",
        );
        check(
            "[config.thresholds]\ncpu_percent = { abov = 1, above = 2 }",
            "agent.toml:2: config.thresholds.cpu_percent.abov: unknown key (did you mean `above`?)",
        );
        check(
            "[config.deduplication]\nmax_silenc = 1",
            "agent.toml:2: config.deduplication.max_silenc: unknown key (did you mean `max_silence`?)",
        );
        check(
            "[config.deduplication.tolerance]\ncpu = 1",
            "agent.toml:2: config.deduplication.tolerance.cpu: unknown key; known are cpu_percent",
        );
        check(
            "[config.own]\n\"own.every_mth\" = [1]",
            "agent.toml:2: config.own.own.every_mth = [1]: unknown plugin",
        );
    }

    #[test]
    fn a_name_that_is_right_is_not_suggested() {
        let said = wrong("[config]\nplugins = [\"filter\", \"filter\"]");
        assert!(said[0].ends_with("plugin filter is listed twice"), "{said:?}");
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_in_order() {
        let text = "agent_id = \"/\"\nbaud = 0\n[config]\ninterval = -1\nwindow_size = 0\n\
                    [config.thresholds]\ncpu_percent = -1\nmemory_percent = true\nx = 1\n\
                    [config.deduplication]\nmax_silence = 0\ntolerance = { cpu_percent = -1, net_in_mb = \"x\" }";
        let said = wrong(text);
        let lines = said.iter().map(|said| said.split(':').nth(1).unwrap()).collect::<Vec<_>>();
        assert_eq!(lines, ["1", "2", "4", "5", "7", "8", "9", "11", "12", "12"], "{said:#?}");
        let said = wrong("a = \nb = [\n[c\n");
        assert!(1 < said.len(), "{said:#?}");
    }

    #[test]
    fn a_table_that_says_nothing_decides_nothing() {
        let text = "[config]\n[config.thresholds]\n[config.deduplication.tolerance]\n[config.own]";
        assert!(parse_at(text).1.unwrap().config.is_empty());
    }

    #[test]
    fn of_a_file_that_is_wrong_throughout_the_beginning_is_told() {
        let text: String = (0..5000).map(|number| format!("nonsense{number} = 1\n")).collect();
        let said = wrong(&text);
        assert_eq!(said.len(), 101);
        assert_eq!(said[100], "agent.toml:101: and 4900 more from here on");
        let line = parse_at(&text).1.unwrap_err().to_string();
        assert!(line.ends_with("; and 98 more, which check-config names"), "{line}");
        assert!(line.len() < 3000, "{line}");
    }

    #[test]
    fn a_file_that_is_not_text_is_told_with_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        fs::write(&path, b"baud = 9600\nagent_id = \"\xff\"\n").unwrap();
        let said = read(&path, &[]).unwrap_err().all();
        assert!(said[0].ends_with("line 2 is not UTF-8, from byte 24 of the file on"), "{said:?}");
    }

    #[test]
    fn only_a_file_that_nobody_named_may_be_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        let named = Location::new(Some(path.clone()));
        let standard = Location::Standard(path.clone());
        assert!(matches!(named.read(&[]), Err(FileError::Read { .. })));
        assert!(standard.read(&[]).unwrap().is_none());
        fs::create_dir(&path).unwrap();
        assert!(matches!(standard.read(&[]), Err(FileError::Read { .. })), "it is there");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "baud = 9600\n").unwrap();
        assert_eq!(standard.read(&[]).unwrap().unwrap().baud, Some(9600));
        let endless = fs::File::create(&path).unwrap();
        endless.set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(standard.read(&[]), Err(FileError::Read { .. })));
        assert_eq!(Location::new(None).path(), Path::new("/etc/picket/agent.toml"));
    }

    /// The configuration file that is in the packages.
    const PACKAGED: &str = include_str!("../../packaging/agent.toml");

    /// The packaged file with each line that begins with `mark` uncovered.
    fn uncovered(marks: &[&str]) -> String {
        let uncover = |line: &'static str| {
            let found = marks.iter().find_map(|mark| line.strip_prefix(mark));
            found.filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())).unwrap_or(line)
        };
        PACKAGED.lines().map(|line| uncover(line).to_owned() + "\n").collect()
    }

    #[test]
    fn the_packaged_file_has_every_key_there_is() {
        let said = parse(&uncovered(&["# e.g. ", "#"]), &["own.every_nth"]).unwrap();
        assert_eq!(said.problems, []);
        for key in KEYS {
            assert!(said.places.get(key).is_some(), "{key}");
        }
        for key in TABLE_KEYS {
            assert!(said.places.get(&format!("config.{key}")).is_some(), "config.{key}");
        }
        let nested = ["tolerance", "max_silence"].map(|key| format!("config.deduplication.{key}"));
        for key in nested {
            assert!(said.places.get(&key).is_some(), "{key}");
        }
        let text = PACKAGED.lines().all(|line| line.chars().count() <= 120);
        assert!(text, "a line is too long to read");
    }

    #[test]
    fn the_packaged_file_says_nothing_until_it_is_uncovered_and_then_the_defaults() {
        let said = parse(PACKAGED, &[]).unwrap();
        assert!(said.config.is_empty());
        assert!(KEYS.iter().all(|key| *key == table::NAME || said.places.get(key).is_none()));
        let said = parse(&uncovered(&["#"]), &[]).unwrap();
        assert_eq!(said.problems, []);
        let defaults = Document::parse(proto::config::DEFAULTS).unwrap();
        // Equal as layers, not only in what they make.
        assert_eq!(said.config, defaults);
    }

    #[test]
    fn whatever_has_a_flag_has_a_key() {
        use clap::CommandFactory as _;
        let not_settings = ["config", "systemd_state_directory", "help", "version"];
        for argument in cli::Cli::command().get_arguments() {
            let id = argument.get_id().as_str();
            let is_key = KEYS.contains(&id) || TABLE_KEYS.contains(&id);
            assert_eq!(is_key, !not_settings.contains(&id) || id == table::NAME, "{id}");
            assert!(!is_key || argument.get_env().is_some(), "{id} has no variable");
        }
    }

    #[test]
    fn the_documentation_has_a_row_for_each_flag_with_its_variable_and_key() {
        use clap::CommandFactory as _;
        let page = include_str!("../../docs/agent.md");
        for argument in cli::Cli::command().get_arguments().filter(|it| !it.is_hide_set()) {
            let (Some(long), Some(variable)) = (argument.get_long(), argument.get_env()) else {
                continue;
            };
            let id = argument.get_id().as_str();
            let key = if TABLE_KEYS.contains(&id) { format!("config.{id}") } else { id.to_owned() };
            let row = page.lines().find(|line| line.starts_with(&format!("| `--{long} ")));
            let row = row.unwrap_or_else(|| panic!("--{long} has no row"));
            assert!(row.contains(&format!("`{}`", variable.to_string_lossy())), "{row}");
            assert!(id == table::NAME || row.contains(&format!("| `{key}`")), "{row}");
        }
    }
}
