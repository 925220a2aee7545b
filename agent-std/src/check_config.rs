//! `picket-agent check-config`: what a start would run with, and where each setting is from.

use std::io::{self, Write};
use std::path::PathBuf;

use agent_core::plugin::own::OwnPlugins;
use serde::Serialize;
use serde_json::Value;

use crate::cli::CheckConfig;
use crate::config::{Keeper, Version, look};
use crate::file::DEFAULT_PATH;
use crate::origin::{Effective, Sources};
use crate::settings::{self, Problems, Resolution, Settings};

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    valid: bool,
    /// None where there is none.
    file: Option<PathBuf>,
    /// What makes it not valid.
    problems: Vec<String>,
    /// What an agent would complain of in its log and go on without.
    warnings: Vec<String>,
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
    let mut warnings = Vec::new();
    let problems = match settings {
        Err(Problems(problems)) => problems,
        Ok(Settings { id, state_dir, config_confirm, mut layers, .. }) => {
            let version = match state_dir {
                None => Version::default(),
                Some(directory) => {
                    let looked = look(&mut layers, &Keeper::new(&directory, id), config_confirm);
                    warnings = looked.troubles;
                    looked.version
                }
            };
            effective.extend(sources.effective_config(layers.all(), &version));
            Vec::new()
        }
    };
    Findings { valid: problems.is_empty(), file, problems, warnings, settings: effective }
}

fn write_text(out: &mut impl Write, findings: &Findings, with_origin: bool) -> io::Result<()> {
    let Findings { valid, file, warnings, settings, .. } = findings;
    match file {
        Some(path) => writeln!(out, "# configuration file {}", path.display())?,
        None if *valid => writeln!(out, "# no configuration file ({DEFAULT_PATH} is not there)")?,
        None => {}
    }
    for warning in warnings {
        writeln!(out, "# warning: {warning}")?;
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
