//! Everything that was asked for, checked: the one place where flags, variables, the file and defaults come together.

use std::path::PathBuf;
use std::time::Duration;

use agent_core::id::AgentId;
use agent_core::plugin::own::OwnPlugins;
use clap::ValueEnum;
use proto::address::{ServerAddress, ServerAddresses};
use proto::config::{Document, DocumentError};
use serde_json::{Map, Value};

use crate::cli::{Arguments, Cli, LogLevel, SpoolOrder};
use crate::collector::CollectorKind;
use crate::config::Layers;
use crate::file::{self, File, Location};
use crate::gateway::{BAUD_DEFAULT, LINES_MAX, PortAddress};
use crate::net::{ConfigStore, Servers};
use crate::origin::{Effective, Origin, Said, Sources};
use crate::reload::{HostFile, HostKeys};
use crate::{identity, spooling};

/// Longer than a server takes to start anew, and short enough for a host to be back before somebody drives to it.
const CONFIG_CONFIRM_DEFAULT: Duration = Duration::from_secs(120);

/// Longer than most outages, and shorter than metrics are kept by default.
const SPOOL_AGE: Duration = Duration::from_secs(7 * 86_400);

/// A restart of the server takes less, and wears no disk.
const SPOOL_AFTER: Duration = Duration::from_secs(30);

/// Rates that serial ports and their adapters have: those of termios(3) and of its relatives on other systems, and those
/// that devices are known by. A rate with a digit too many or too few yields nothing but garbage, in silence.
const BAUD_RATES: [u32; 44] = [
    50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 7200, 9600, 10_400, 14_400,
    19_200, 28_800, 31_250, 38_400, 56_000, 57_600, 62_500, 74_880, 76_800, 115_200, 125_000,
    128_000, 153_600, 230_400, 250_000, 256_000, 460_800, 500_000, 576_000, 921_600, 1_000_000,
    1_152_000, 1_500_000, 2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
];

/// What an agent runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) id: AgentId,
    pub(crate) server: ServerAddresses,
    pub(crate) servers: Servers,
    pub(crate) state_dir: Option<PathBuf>,
    /// Who names that directory.
    pub(crate) state_dir_from: Origin,
    pub(crate) spool: spooling::Settings,
    pub(crate) config_confirm: Duration,
    pub(crate) store: Option<ConfigStore>,
    pub(crate) collector: CollectorKind,
    pub(crate) start_jitter: bool,
    pub(crate) ports: Vec<PortAddress>,
    pub(crate) baud: u32,
    pub(crate) nice: Option<i32>,
    pub(crate) log_level: LogLevel,
    pub(crate) layers: Layers,
    pub(crate) file: HostFile,
    pub(crate) config: agent_core::config::Config,
}

/// Why there are no settings: everything that could be found wrong, one line each, at least one.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl Problems {
    pub(crate) fn in_one_line(&self) -> String {
        file::in_one_line(&self.0)
    }
}

/// What became of everything that was asked for.
#[derive(Debug)]
pub(crate) struct Resolution {
    /// The file that was read, or that could not be; none when there need not be one and is none.
    pub(crate) file: Option<PathBuf>,
    pub(crate) sources: Sources,
    /// The settings in force beside those of the configuration, in the order of the documentation, as far as they are known.
    pub(crate) effective: Vec<Effective>,
    pub(crate) settings: Result<Settings, Problems>,
}

/// What a start of this very program would find now: the flags and variables that this process has, and the file as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextStart(fn() -> Resolution);

impl NextStart {
    pub(crate) fn of<O: OwnPlugins>() -> Self {
        Self(|| match Cli::of_this_process() {
            Ok((cli, matches)) => resolve::<O>(cli.agent, Sources::new(&matches)),
            // They were right when it started.
            Err(error) => Resolution::failed(error.to_string()),
        })
    }

    /// The file.
    ///
    /// # Errors
    ///
    /// Everything for which the start would be refused.
    pub(crate) fn look(self) -> Result<HostFile, Problems> {
        let Settings { file, layers, .. } = (self.0)().settings?;
        Ok(HostFile { config: layers.into_file(), ..file })
    }
}

impl Resolution {
    fn failed(problem: String) -> Self {
        let settings = Err(Problems(vec![problem]));
        Self { file: None, sources: Sources::default(), effective: Vec::new(), settings }
    }
}

/// Puts `arguments`, whose origins are in `sources`, together with the file.
pub(crate) fn resolve<O: OwnPlugins>(arguments: Arguments, sources: Sources) -> Resolution {
    let location = Location::new(arguments.config.clone());
    let mut desk = Desk { sources, effective: Vec::new(), problems: Vec::new() };
    let flags = desk.check_flags(arguments.document(), O::NAMES);
    let path = location.path().to_owned();
    let file = match location.read(O::NAMES) {
        Ok(file) => file,
        Err(error) => {
            let Desk { sources, effective, problems } = desk;
            let flags = problems.into_iter().map(|(_, problem)| problem);
            let settings = Err(Problems(error.all().into_iter().chain(flags).collect()));
            return Resolution { file: Some(path), sources, effective, settings };
        }
    };
    let found = file.is_some();
    let mut file = file.unwrap_or_default();
    if found {
        desk.sources.add_file(&path, std::mem::take(&mut file.places));
        let problems = std::mem::take(&mut file.problems).into_iter();
        desk.problems.extend(
            problems.map(|problem| (Some(problem.line), format!("{}:{problem}", path.display()))),
        );
    }
    let host_file = HostFile {
        path: path.clone(),
        is_there: found,
        keys: HostKeys::of(&file),
        config: Document::default(),
    };
    let settings = desk.settle_all::<O>(arguments, file, host_file, flags);
    let Desk { sources, effective, mut problems } = desk;
    // Those in the file in its order, before the others.
    problems.sort_by_key(|(line, _)| line.unwrap_or(usize::MAX));
    let problems = problems.into_iter().map(|(_, problem)| problem).collect::<Vec<_>>();
    let settings = match settings {
        Some(settings) if problems.is_empty() => Ok(settings),
        _ => Err(Problems(problems)),
    };
    Resolution { file: found.then_some(path), sources, effective, settings }
}

/// Where settings are put together.
struct Desk {
    sources: Sources,
    effective: Vec<Effective>,
    /// With their lines, where they are in the file.
    problems: Vec<(Option<usize>, String)>,
}

impl Desk {
    /// Notes what is wrong and has no key.
    fn check<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.problems.push((None, problem))).ok()
    }

    /// What is in force of `key` cannot be; it is named by what decides it.
    fn refuse(&mut self, key: &str, reason: &str) {
        let (line, subject) = match self.sources.decisive(key) {
            Some(Said { origin: Origin::File { path, line }, value }) => {
                (Some(line), format!("{}:{line}: {key} = {value}", path.display()))
            }
            Some(Said { origin: Origin::Flag { name } | Origin::Variable { name }, value }) => {
                (None, format!("{name} = {value}"))
            }
            Some(Said { origin: Origin::Remote { .. } | Origin::Default, .. }) | None => {
                (None, key.to_owned())
            }
        };
        self.problems.push((line, format!("{subject}: {reason}")));
    }

    /// The keys are of a part that this program does not have.
    fn refuse_absent(&mut self, feature: &str, keys: &[&str]) {
        let reason =
            format!("this program was built without {feature}; build with --features {feature}");
        for key in keys {
            if self.sources.decisive(key).is_some() {
                self.refuse(key, &reason);
            }
        }
    }

    /// The layer that flags and variables make.
    fn check_flags(&mut self, object: Value, own: &[&str]) -> Option<Document> {
        let layer = |value: Value| {
            let document = Document::from_value(value)?;
            document.config_for(own)?;
            Ok::<_, DocumentError>(document)
        };
        let keys = object.as_object().into_iter().flatten();
        let errors = keys.filter_map(|(key, value)| {
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            Some((key, layer(alone.into()).err()?))
        });
        let errors = errors.collect::<Vec<_>>();
        for (key, error) in &errors {
            self.refuse(&format!("config.{key}"), &error.reason);
        }
        if !errors.is_empty() {
            return None;
        }
        let document = layer(object);
        self.check(document.map_err(|error| format!("flags and variables: {error}")))
    }

    /// Whether the file has a value of `key` that cannot be used.
    fn is_wrong_in_file<T>(&self, key: &str, value: Option<&T>) -> bool {
        value.is_none() && self.sources.is_in_file(key)
    }

    /// The precedence of all keys: what was given with flag or variable, else in the file, else the default.
    fn settle<T>(
        &mut self,
        key: &str,
        [given, in_file]: [Option<T>; 2],
        default: T,
        show: impl Fn(&T) -> Value,
    ) -> T {
        let value = given.or(in_file).unwrap_or(default);
        self.effective.push(self.sources.effective(key, show(&value)));
        value
    }

    /// As [`Desk::settle`], where there is none by default.
    fn settle_optional<T>(
        &mut self,
        key: &str,
        given: [Option<T>; 2],
        show: impl Fn(&T) -> Value,
    ) -> Option<T> {
        let show = |value: &Option<T>| value.as_ref().map_or(Value::Null, &show);
        self.settle(key, given.map(|given| given.map(Some)), None, show)
    }

    /// All settings in the order of the documentation. None when something was found wrong.
    fn settle_all<O: OwnPlugins>(
        &mut self,
        arguments: Arguments,
        file: File,
        host_file: HostFile,
        flags: Option<Document>,
    ) -> Option<Settings> {
        let in_file = file.agent_id.as_ref().map(AgentId::as_str);
        let given = arguments.agent_id.as_deref();
        let id = match identity::agent_id(given.or(in_file)) {
            // What the file has instead was refused already.
            _ if given.is_none() && self.is_wrong_in_file("agent_id", in_file.as_ref()) => None,
            Ok(id) => Some(id),
            Err(error) => {
                self.refuse("agent_id", &format!("{:#}", anyhow::Error::from(error)));
                None
            }
        };
        let shown = id.as_ref().map_or(Value::Null, |id| id.as_str().into());
        self.effective.push(self.sources.effective("agent_id", shown));

        let server = self.check(arguments.server().map_err(|error| format!("{error:#}"))).flatten();
        let default = ServerAddress::default().into();
        let server = self
            .settle("server", [server, file.server], default, |server| server.to_string().into());
        let servers = Servers::new(&server);
        let servers = self
            .check(servers.map_err(|error| format!("the server's address makes no URI: {error}")));

        let path = |path: &PathBuf| path.display().to_string().into();
        let in_file = file.state_dir.or_else(|| arguments.systemd_state_directory());
        let etcd = arguments.etcd();
        let has_state_dir = arguments.state_dir.is_some()
            || self.is_wrong_in_file("state_dir", in_file.as_ref())
            || in_file.is_some();
        let state_dir = self.settle_optional("state_dir", [arguments.state_dir, in_file], path);
        let state_dir_from =
            self.sources.decisive("state_dir").map_or(Origin::Default, |said| said.origin);
        let of_flags = arguments.spool;
        let given = [of_flags.spool_max_bytes, file.spool_max_bytes];
        let bytes_max = self.settle("spool_max_bytes", given, 0, |bytes| (*bytes).into());
        let given = [of_flags.spool_max_age, file.spool_max_age];
        let age_max = self.settle("spool_max_age", given, SPOOL_AGE, show_duration);
        let given = [of_flags.spool_after, file.spool_after];
        let after = self.settle("spool_after", given, SPOOL_AFTER, show_duration);
        let given = [of_flags.spool_order, file.spool_order];
        let order = self.settle("spool_order", given, SpoolOrder::OldestFirst, show_choice);
        let spool = spooling::Settings { bytes_max, age_max, after, order: order.into() };
        if spool.bytes_max != 0 && !has_state_dir {
            let reason = "a spool needs a state directory: set state_dir, or --state-dir, as well";
            self.refuse("spool_max_bytes", reason);
        }
        if cfg!(not(feature = "spool")) {
            self.refuse_absent("spool", &["spool_max_age", "spool_after", "spool_order"]);
        }
        let given = [arguments.config_confirm, file.config_confirm];
        let config_confirm =
            self.settle("config_confirm", given, CONFIG_CONFIRM_DEFAULT, show_duration);

        let text = |text: &String| text.as_str().into();
        let etcd = self.settle_optional("etcd", [etcd, file.etcd], text);
        let user = self.settle_optional("etcd_user", [arguments.etcd_user, file.etcd_user], text);
        let given = [arguments.etcd_password_file, file.etcd_password_file];
        let password_file = self.settle_optional("etcd_password_file", given, path);
        if cfg!(not(feature = "etcd")) {
            self.refuse_absent("etcd", &["etcd", "etcd_user", "etcd_password_file"]);
        }
        let etcd = etcd.filter(|_| cfg!(feature = "etcd"));
        let store = etcd.zip(id.as_ref()).and_then(|(etcd, id)| {
            let store = ConfigStore::new(&etcd, user, password_file.as_deref(), id);
            store.map_err(|error| self.refuse("etcd", &format!("{error:#}"))).ok()
        });

        let given = [arguments.collector, file.collector];
        let collector = self.settle("collector", given, CollectorKind::DEFAULT, show_choice);
        if collector == CollectorKind::Sysinfo && !CollectorKind::HAS_SYSINFO {
            self.refuse_absent("sysinfo", &["collector"]);
        }
        let given = [arguments.start_jitter, file.start_jitter];
        let start_jitter = self.settle("start_jitter", given, true, |value| (*value).into());
        let ports = self.settle("serial", [arguments.serial, file.serial], Vec::new(), |ports| {
            ports.iter().map(|port| Value::from(port.to_string())).collect()
        });
        if LINES_MAX < ports.len() {
            let links = ports.len();
            let reason = format!("{links} serial links, at most {LINES_MAX} are allowed");
            self.refuse("serial", &reason);
        }
        let texts = ports.iter().map(PortAddress::to_string).collect::<Vec<_>>();
        let again = texts.iter().enumerate().find(|(index, port)| texts[..*index].contains(port));
        if let Some((_, port)) = again {
            self.refuse("serial", &format!("{port} is listed twice"));
        }
        let baud =
            self.settle("baud", [arguments.baud, file.baud], BAUD_DEFAULT, |baud| (*baud).into());
        if cfg!(not(feature = "serial")) {
            self.refuse_absent("serial", &["baud"]);
        } else if !BAUD_RATES.contains(&baud) && !self.is_wrong_in_file("baud", file.baud.as_ref())
        {
            let usual = BAUD_RATES.map(|rate| rate.to_string()).join(", ");
            self.refuse("baud", &format!("it must be a rate that serial ports have: {usual}"));
        }
        let nice = self.settle_optional("nice", [arguments.nice, file.nice], |nice| (*nice).into());
        let given = [arguments.log_level, file.log_level];
        let log_level = self.settle("log_level", given, LogLevel::Info, show_choice);

        let layers = Layers::new(O::NAMES, flags?, file.config);
        let config = layers.config();
        let config = self.check(
            config.map_err(|error| format!("the file and the flags do not go together: {error}")),
        );
        Some(Settings {
            id: id?,
            server,
            servers: servers?,
            state_dir,
            state_dir_from,
            spool,
            config_confirm,
            store,
            collector,
            start_jitter,
            ports,
            baud,
            nice,
            log_level,
            layers,
            file: host_file,
            config: config?,
        })
    }
}

fn show_duration(duration: &Duration) -> Value {
    humantime::format_duration(*duration).to_string().into()
}

fn show_choice<T: ValueEnum>(value: &T) -> Value {
    value.to_possible_value().map_or(Value::Null, |value| value.get_name().into())
}
