//! `picket-agent check-config`: what a start would run with, and where each setting is from.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use agent_core::config::{AlertRule, Config};
use agent_core::metric::Metric;
use agent_core::plugin::own::OwnPlugins;
use agent_core::record::Direction;
use serde::Serialize;
use serde_json::Value;

use crate::cli::CheckConfig;
use crate::config::{Keeper, Version, look};
use crate::file::DEFAULT_PATH;
use crate::origin::{Effective, Origin, Sources};
use crate::settings::{self, Problems, Resolution, Settings};

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    valid: bool,
    /// The file that was read, or that could not be. None where there is none.
    file: Option<PathBuf>,
    /// What named it; none for the standard place.
    file_from: Option<Origin>,
    /// What makes it not valid.
    problems: Vec<String>,
    /// What an agent would complain of in its log and go on without.
    warnings: Vec<String>,
    /// What was not looked at.
    notes: Vec<String>,
    settings: Vec<Effective>,
}

/// Prints what is found.
///
/// # Errors
///
/// [`Problems`], or what the system says.
pub(crate) fn run<O: OwnPlugins>(arguments: CheckConfig, sources: Sources) -> anyhow::Result<()> {
    let CheckConfig { origin, json, agent } = arguments;
    let findings = find(settings::resolve::<O>(agent, sources));
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&findings)?)?;
    } else {
        write_text(&mut out, &findings, origin)?;
    }
    if findings.valid { Ok(()) } else { Err(Problems(findings.problems).into()) }
}

fn find(resolution: Resolution) -> Findings {
    let Resolution { file, sources, mut effective, settings } = resolution;
    let file_from = sources.decisive("config").map(|said| said.origin);
    let (mut warnings, mut notes) = (Vec::new(), Vec::new());
    let problems = match settings {
        Err(Problems(problems)) => problems,
        Ok(Settings { id, state_dir, config_confirm, mut layers, .. }) => {
            notes.extend(note_of_unit(Path::new(UNIT_STATE_DIR), state_dir.as_deref()));
            let version = match state_dir {
                None => Version::default(),
                Some(directory) => {
                    let looked = look(&mut layers, &Keeper::new(&directory, id), config_confirm);
                    warnings = looked.troubles;
                    looked.version
                }
            };
            let config = layers.config().map(|config| never_fires(&config, &sources));
            warnings.extend(config.unwrap_or_default());
            effective.extend(sources.effective_config(layers.all(), &version));
            Vec::new()
        }
    };
    let valid = problems.is_empty();
    Findings { valid, file, file_from, problems, warnings, notes, settings: effective }
}

/// The state directory of the unit for systemd, which that names to its service alone.
const UNIT_STATE_DIR: &str = "/var/lib/picket-agent";

/// What a look from outside the service does not see, where one is installed whose directory is `unit_dir`.
fn note_of_unit(unit_dir: &Path, state_dir: Option<&Path>) -> Option<String> {
    // A link to a place that only root may enter is there as well.
    if state_dir == Some(unit_dir) || unit_dir.symlink_metadata().is_err() {
        return None;
    }
    let unit_dir = unit_dir.display();
    Some(format!(
        "the directory of the installed service, {unit_dir}, and the configuration that it keeps there were not looked at; \
         this does: sudo STATE_DIRECTORY={unit_dir} picket-agent check-config --origin (variables in /etc/picket/agent.env \
         are read by systemd only)"
    ))
}

/// The thresholds that no value can pass. They are no mistakes for the existing system, so they stay valid.
fn never_fires(config: &Config, sources: &Sources) -> Vec<String> {
    let is_idle = |metric: Metric, rule: AlertRule| match rule.direction {
        Direction::Above => metric.greatest() <= rule.limit,
        Direction::Below => rule.limit <= metric.least(),
    };
    let idle = config.settings().thresholds.iter().filter(|(metric, rule)| is_idle(*metric, *rule));
    let warning = |(metric, _)| {
        let key = format!("config.thresholds.{metric}");
        let place = match sources.decisive(&key).map(|said| said.origin) {
            Some(Origin::File { path, line }) => format!("{}:{line}: ", path.display()),
            _ => String::new(),
        };
        format!(
            "{place}{key}: no value of {metric} can pass this limit, so there will be no alert (false says so)"
        )
    };
    idle.map(warning).collect()
}

fn write_text(out: &mut impl Write, findings: &Findings, with_origin: bool) -> io::Result<()> {
    let Findings { valid, file, file_from, warnings, notes, settings, .. } = findings;
    match (file, file_from) {
        (Some(path), Some(from)) => {
            writeln!(out, "# configuration file {} ({from})", path.display())?;
        }
        (Some(path), None) => writeln!(out, "# configuration file {}", path.display())?,
        (None, _) if *valid => {
            writeln!(out, "# no configuration file ({DEFAULT_PATH} is not there)")?
        }
        (None, _) => {}
    }
    for warning in warnings {
        writeln!(out, "# warning: {warning}")?;
    }
    for note in notes {
        writeln!(out, "# note: {note}")?;
    }
    if !valid {
        // Half of what would be in force helps nobody.
        return Ok(());
    }
    let rows = settings.iter().map(|setting| (setting, shown(&setting.value))).collect::<Vec<_>>();
    let key_width = rows.iter().map(|(setting, _)| setting.key.len()).max().unwrap_or(0);
    let value_width = rows.iter().map(|(_, value)| value.chars().count()).max().unwrap_or(0);
    let value_width = value_width.min(VALUE_WIDTH_MAX);
    for (Effective { key, origin, shadows, .. }, value) in &rows {
        if !with_origin {
            writeln!(out, "{key:key_width$}  {value}")?;
            continue;
        }
        write!(out, "{key:key_width$}  {value:value_width$}  {origin}")?;
        for (index, said) in shadows.iter().enumerate() {
            let before = if index == 0 { "; shadows" } else { "," };
            write!(out, "{before} {}: {}", said.origin, said.value)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Longer ones push the rest of their line aside.
const VALUE_WIDTH_MAX: usize = 40;

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_an_installed_service_is_named_when_it_was_not_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let unit = directory.path();
        let note = note_of_unit(unit, None).unwrap();
        let command =
            format!("sudo STATE_DIRECTORY={} picket-agent check-config --origin", unit.display());
        assert!(note.contains(&command) && note.contains("agent.env"), "{note}");
        assert!(note_of_unit(unit, Some(Path::new("/elsewhere"))).is_some());
        assert_eq!(note_of_unit(unit, Some(unit)), None);
        assert_eq!(note_of_unit(&unit.join("gone"), None), None);
    }
}
