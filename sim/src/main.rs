//! `sim`: plays many worlds on all cores, and says what they showed.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use sim::{NAMES, Options, Report, Tally};

/// A world keeps its agents on the heap; this is for the ring that an agent is made from.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// From so many agent-hours on a run meets every kind of fault.
const WHOLE_AGENT_HOURS: u64 = 10_000;

/// Plays simulated worlds through and checks every promise in them
///
/// The exit code is 0 when all promises held and, in a run of 10,000 agent-hours or more, every kind of fault was met; else 1.
#[derive(Debug, Parser)]
#[command(name = "sim", max_term_width = 100)]
struct Arguments {
    /// How many worlds
    #[arg(long, default_value_t = 280, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Agents in each world
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=64))]
    agents: u16,
    /// Simulated hours of each world
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    hours: u16,
    /// Play only the world of this seed
    #[arg(long)]
    seed: Option<u64>,
    /// The seed of the first world
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    first: u64,
    /// What goes wrong, in place of what each seed has
    #[arg(long, value_parser = PossibleValuesParser::new(NAMES))]
    plan: Option<String>,
    /// Print the end of what happened, also when nothing is wrong
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Nobody reads any more.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(arguments: &Arguments) -> io::Result<bool> {
    let started = Instant::now();
    let options = Options {
        agents: arguments.agents.into(),
        hours: arguments.hours.into(),
        plan: NAMES.into_iter().find(|name| arguments.plan.as_deref() == Some(*name)),
        trace_lines: if arguments.trace { 100_000 } else { 60 },
    };
    let (first, count) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.first, arguments.seeds),
    };
    let reports = play_all(first, count, options)?;
    let mut out = io::stdout().lock();
    let mut total = Tally::default();
    let mut digest = 0_u64;
    for report in &reports {
        total.add(&report.tally);
        digest = digest.rotate_left(1) ^ report.digest;
        if arguments.trace {
            writeln!(out, "{}", report.trace)?;
        }
    }
    writeln!(out, "worlds                   {:>12}", reports.len())?;
    write!(out, "{total}")?;
    writeln!(out, "digest                   {digest:016x}")?;
    writeln!(out, "wall time                {:>10.1} s", started.elapsed().as_secs_f64())?;
    let failures: Vec<&Report> = reports.iter().filter(|r| r.broken.is_some()).collect();
    for report in failures.iter().take(3) {
        let text = report.broken.as_deref().unwrap_or_default();
        writeln!(out, "\nFAILED: seed {} (plan {}): {text}", report.seed, report.plan)?;
        if !arguments.trace {
            writeln!(out, "{}", report.trace)?;
        }
        let plan = match &arguments.plan {
            Some(plan) => format!(" --plan {plan}"),
            None => String::new(),
        };
        writeln!(
            out,
            "see it again: cargo xtask sim --seed {} --agents {} --hours {}{plan} --trace",
            report.seed, arguments.agents, arguments.hours
        )?;
    }
    for report in &failures {
        let text = report.broken.as_deref().unwrap_or_default();
        writeln!(out, "failed: seed {} (plan {}): {text}", report.seed, report.plan)?;
    }
    // One world, one plan or a few short worlds cannot have everything.
    let is_one = arguments.seed.is_some() || arguments.plan.is_some();
    let unmet: Vec<_> = total.unmet().filter(|_| !is_one).collect();
    for fault in &unmet {
        writeln!(out, "the fault \"{}\" was never met", fault.name())?;
    }
    let is_whole = WHOLE_AGENT_HOURS <= total.agent_ms / 3_600_000;
    match (failures.len(), unmet.len()) {
        (0, 0) => writeln!(out, "passed: every promise held")?,
        (0, few) if !is_whole => {
            writeln!(
                out,
                "passed: every promise held; {few} faults were not met, which more worlds would"
            )?;
        }
        (0, _) => writeln!(out, "failed: every promise held, but not against every fault")?,
        (worlds, _) => writeln!(out, "failed: {worlds} worlds")?,
    }
    Ok(failures.is_empty() && (unmet.is_empty() || !is_whole))
}

/// The reports of all worlds, in the order of their seeds.
fn play_all(first: u64, count: u64, options: Options) -> io::Result<Vec<Report>> {
    let next = AtomicU64::new(0);
    let is_enough = AtomicBool::new(false);
    let reports = Mutex::new(Vec::new());
    let workers = thread::available_parallelism()?.get();
    let work = || {
        while !is_enough.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if count <= index {
                return;
            }
            let report = sim::run(first + index, options);
            if let Ok(mut reports) = reports.lock() {
                reports.push(report);
                let failed = reports.iter().filter(|report| report.broken.is_some()).count();
                // More of them say no more.
                is_enough.store(20 <= failed, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)?;
        }
        io::Result::Ok(())
    })?;
    let mut reports = reports.into_inner().unwrap_or_default();
    reports.sort_unstable_by_key(|report| report.seed);
    Ok(reports)
}
