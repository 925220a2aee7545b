//! What the program does beside being an agent: recording a host, replaying what was recorded, looking into the spool,
//! checking the settings, measuring once, saying what it will take of memory.

#[cfg_attr(not(feature = "spool"), path = "tool/spool_absent.rs")]
mod spool;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::thread;
use std::time::Duration;

use agent_core::metric::MetricSet;
use agent_core::plugin::own::OwnPlugins;
use anyhow::{Context as _, ensure};
use clap::ArgMatches;
use proto::config::Document;

use crate::cli::{BudgetArguments, OutputForm, Record, Replay, Tool};
use crate::clock::Clock;
use crate::collector::{CollectorKind, unix_ms};
use crate::origin::Sources;
use crate::replay::{stages, write_table};
use crate::{check_config, once, trace};

pub(crate) use self::spool::NoLook;

/// Runs `tool`. A reader that has seen enough is no error.
pub(crate) fn run<O: OwnPlugins>(tool: Tool, matches: &ArgMatches) -> anyhow::Result<()> {
    match tool {
        Tool::CheckConfig(arguments) => {
            pass_closed_pipe(check_config::run::<O>(*arguments, Sources::new(matches)))
        }
        Tool::Once(arguments) => pass_closed_pipe(once::run(&arguments)),
        Tool::Record(record) => run_record(&record),
        Tool::Replay(replay) => pass_closed_pipe(run_replay::<O>(replay)),
        Tool::Budget(arguments) => {
            pass_closed_pipe(run_budget::<O>(arguments, Sources::new(matches)))
        }
        Tool::Spool(tool) => pass_closed_pipe(spool::run(tool)),
    }
}

fn pass_closed_pipe(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if is_closed_pipe(&error) => Ok(()),
        result => result,
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run_record(arguments: &Record) -> anyhow::Result<()> {
    let interval = Duration::try_from_secs_f64(arguments.interval)
        .ok()
        .filter(|interval| Duration::from_millis(100) <= *interval)
        .context("the interval must be at least 0.1 s")?;
    let kind = arguments.collector.unwrap_or(CollectorKind::DEFAULT);
    let mut collector = kind.open().context("cannot measure this system")?;
    let path = arguments.file.display();
    let mut file =
        File::create_new(&arguments.file).with_context(|| format!("cannot create {path}"))?;
    trace::write_header(&mut file, &arguments.source)?;
    let clock = Clock::start();
    // The first snapshot has no rates, so it is not part of the trace.
    collector.collect(MetricSet::ALL);
    for number in 1..=arguments.snapshots {
        let due = interval * number;
        let now = Duration::from_millis(clock.now().as_ms());
        thread::sleep(due.saturating_sub(now));
        let values = collector.collect(MetricSet::ALL);
        let taken_at = clock.now();
        let snapshot = agent_core::record::Snapshot { taken_at, wall_ms: unix_ms(), values };
        trace::write_row(&mut file, &snapshot).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

fn run_replay<O: OwnPlugins>(arguments: Replay) -> anyhow::Result<()> {
    let trace = trace::read(&arguments.trace)?;
    let mut params = HashMap::from([("plugins".to_owned(), "[]".to_owned())]);
    if !arguments.plugins.is_empty() {
        params.insert("plugins".to_owned(), arguments.plugins);
    }
    for setting in arguments.set {
        ensure!(setting.key != "plugins", "the plugins are named with --plugins");
        params.insert(setting.key, setting.value);
    }
    let config = Document::from_params(&params)?.config_for(O::NAMES)?;
    let stages = stages::<O>(&trace, &config);
    let mut out = io::stdout().lock();
    match arguments.output {
        OutputForm::Table => write_table(&mut out, &stages)?,
        OutputForm::Json => {
            for stage in &stages {
                writeln!(out, "{}", serde_json::to_string(stage)?)?;
            }
        }
    }
    Ok(())
}

fn run_budget<O: OwnPlugins>(arguments: BudgetArguments, sources: Sources) -> anyhow::Result<()> {
    let BudgetArguments { agent, json } = arguments;
    let budget = crate::budget::<O>(*agent, sources)?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&budget)?)?;
    } else {
        budget.write(&mut out)?;
    }
    Ok(())
}
