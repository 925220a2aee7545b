//! Everything that was asked for, checked: the one place where flags, variables, the file and defaults come together.

use std::path::PathBuf;
use std::time::Duration;

use agent_core::id::AgentId;
use agent_core::plugin::own::OwnPlugins;
use clap::ValueEnum;
use proto::address::{ServerAddress, ServerAddresses};
use proto::config::Document;
use serde_json::Value;

use crate::cli::{Arguments, LogLevel, SpoolOrder};
use crate::collector::CollectorKind;
use crate::config::Layers;
use crate::file::{File, Location};
use crate::gateway::{BAUD_DEFAULT, LINES_MAX, PortAddress};
use crate::net::{ConfigStore, Servers};
use crate::origin::{Effective, Sources};
use crate::reload::HostKeys;
use crate::{identity, spooling};

/// Longer than a server takes to start anew, and short enough for a host to be back before somebody drives to it.
const CONFIG_CONFIRM_DEFAULT: Duration = Duration::from_secs(120);

/// Longer than most outages, and shorter than metrics are kept by default.
const SPOOL_AGE: Duration = Duration::from_secs(7 * 86_400);

/// A restart of the server takes less, and wears no disk.
const SPOOL_AFTER: Duration = Duration::from_secs(30);

/// What an agent runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) id: AgentId,
    pub(crate) server: ServerAddresses,
    pub(crate) servers: Servers,
    pub(crate) state_dir: Option<PathBuf>,
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
    /// What the file says beside the configuration.
    pub(crate) file_at_start: HostKeys,
    pub(crate) config: agent_core::config::Config,
}

/// Why there are no settings: everything that could be found wrong, one line each, at least one.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct Problems(pub(crate) Vec<String>);

/// What became of everything that was asked for.
#[derive(Debug)]
pub(crate) struct Resolution {
    /// The file that was read; none when there is none.
    pub(crate) file: Option<PathBuf>,
    pub(crate) sources: Sources,
    /// The settings in force beside those of the configuration, in the order of the documentation, as far as they are known.
    pub(crate) effective: Vec<Effective>,
    pub(crate) settings: Result<Settings, Problems>,
}

/// Puts `arguments`, whose origins are in `sources`, together with the file.
pub(crate) fn resolve<O: OwnPlugins>(arguments: Arguments, sources: Sources) -> Resolution {
    let location = Location::new(arguments.config.clone());
    let flags = Document::from_value(arguments.document());
    let mut desk = Desk { sources, effective: Vec::new(), problems: Vec::new() };
    let file = match location.read(O::NAMES) {
        Ok(file) => file,
        Err(error) => {
            let flags = flags.err().map(|error| format!("{FLAGS_WRONG}: {error}"));
            let problems = error.all().into_iter().chain(flags).collect();
            let Desk { sources, effective, .. } = desk;
            return Resolution {
                file: None,
                sources,
                effective,
                settings: Err(Problems(problems)),
            };
        }
    };
    let path = file.is_some().then(|| location.path().to_owned());
    let mut file = file.unwrap_or_default();
    if let Some(path) = &path {
        desk.sources.add_file(path, std::mem::take(&mut file.places));
    }
    let flags = desk.check(flags.map_err(|error| format!("{FLAGS_WRONG}: {error}")));
    let settings = desk.settle_all::<O>(arguments, file, location, flags);
    let Desk { sources, effective, problems } = desk;
    let settings = match settings {
        Some(settings) if problems.is_empty() => Ok(settings),
        _ => Err(Problems(problems)),
    };
    Resolution { file: path, sources, effective, settings }
}

const FLAGS_WRONG: &str = "flags or PICKET_ variables cannot be used";

/// Where settings are put together.
struct Desk {
    sources: Sources,
    effective: Vec<Effective>,
    problems: Vec<String>,
}

impl Desk {
    /// Notes what is wrong.
    fn check<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
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
        location: Location,
        flags: Option<Document>,
    ) -> Option<Settings> {
        let file_at_start = HostKeys::of(&file);
        let in_file = file.agent_id.as_ref().map(AgentId::as_str);
        let id = identity::agent_id(arguments.agent_id.as_deref().or(in_file));
        let id = self.check(id.map_err(|error| format!("{:#}", anyhow::Error::from(error))));
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
        let in_file = file.state_dir.or_else(|| arguments.systemd_state_directory.clone());
        let etcd = arguments.etcd();
        let state_dir = self.settle_optional("state_dir", [arguments.state_dir, in_file], path);
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
        if spool.bytes_max != 0 && state_dir.is_none() {
            self.problems.push("a spool needs a state directory (--state-dir)".to_owned());
        }
        let given = [arguments.config_confirm, file.config_confirm];
        let config_confirm =
            self.settle("config_confirm", given, CONFIG_CONFIRM_DEFAULT, show_duration);

        let text = |text: &String| text.as_str().into();
        let etcd = self.settle_optional("etcd", [etcd, file.etcd], text);
        let user = self.settle_optional("etcd_user", [arguments.etcd_user, file.etcd_user], text);
        let given = [arguments.etcd_password_file, file.etcd_password_file];
        let password_file = self.settle_optional("etcd_password_file", given, path);
        let store = etcd.zip(id.as_ref()).map(|(etcd, id)| {
            let store = ConfigStore::new(&etcd, user, password_file.as_deref(), id);
            store.map_err(|error| format!("etcd cannot be used: {error:#}"))
        });
        let store = self.check(store.transpose()).flatten();

        let given = [arguments.collector, file.collector];
        let collector = self.settle("collector", given, CollectorKind::DEFAULT, show_choice);
        let given = [arguments.start_jitter, file.start_jitter];
        let start_jitter = self.settle("start_jitter", given, true, |value| (*value).into());
        let ports = self.settle("serial", [arguments.serial, file.serial], Vec::new(), |ports| {
            ports.iter().map(|port| Value::from(port.to_string())).collect()
        });
        if LINES_MAX < ports.len() {
            let links = ports.len();
            self.problems.push(format!("{links} serial links, at most {LINES_MAX} are allowed"));
        }
        let baud =
            self.settle("baud", [arguments.baud, file.baud], BAUD_DEFAULT, |baud| (*baud).into());
        let nice = self.settle_optional("nice", [arguments.nice, file.nice], |nice| (*nice).into());
        let given = [arguments.log_level, file.log_level];
        let log_level = self.settle("log_level", given, LogLevel::Info, show_choice);

        let layers = Layers::new(O::NAMES, flags?, Some(location), file.config);
        let config = layers.config();
        let config = self.check(
            config.map_err(|error| format!("the file and the flags do not go together: {error}")),
        );
        Some(Settings {
            id: id?,
            server,
            servers: servers?,
            state_dir,
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
            file_at_start,
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
