//! `cargo xtask bench agent`: what a running agent costs its host.
//!
//! A real agent streams this host's six metrics once a second to a real server on loopback. The first seconds, in which it
//! connects, are not measured.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use super::Output;
use super::relay::{Passed, Relay};
use super::usage::{Holdings, Observed, Usage};
use crate::fleet::{Binaries, Directory, Group, Process, Site, poll};
use crate::workspace;

/// How long the agent may take to be connected.
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);

/// After that, for what is done once.
const SETTLING: Duration = Duration::from_secs(5);

const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Milliseconds on a processor a minute.
const CPU_GOAL_MS: f64 = 20.0;

/// Bytes in memory.
const RSS_GOAL: u64 = 2_936_012; // 2.8 MiB

/// The same with a spool, or with the agent's own watch of etcd.
const RSS_GOAL_WITH_MORE: u64 = 4 << 20;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long.
    pub duration: Duration,
    /// What the agent measures with; none: its default.
    pub collector: Option<String>,
    /// Whether it has a spool.
    pub with_spool: bool,
    /// The etcd that it takes its configuration from; it is built with that then.
    pub etcd: Option<String>,
    /// Where the programs are; none: they are built.
    pub binaries: Option<PathBuf>,
    /// More flags of the agent.
    pub arguments: Vec<String>,
    /// How it is printed.
    pub output: Output,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Finding {
    version: String,
    program_bytes: u64,
    seconds: f64,
    cpu_ms_per_minute: f64,
    rss_bytes: u64,
    peak_rss_bytes: u64,
    pss_bytes: u64,
    anonymous_bytes: u64,
    voluntary_switches_per_minute: f64,
    involuntary_switches_per_minute: f64,
    /// As often as a thread goes to sleep it is woken.
    wakeups_per_sample: f64,
    wire_up_bytes_per_minute: f64,
    wire_down_bytes_per_minute: f64,
    descriptors_at_begin: u64,
    descriptors_at_end: u64,
    cpu_goal_ms_per_minute: f64,
    rss_goal_bytes: u64,
}

/// What is known at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    usage: Usage,
    holdings: Holdings,
    passed: Passed,
}

impl Reading {
    fn take(agent: &Observed, relay: &Relay) -> anyhow::Result<Self> {
        let (at, usage, passed) = (Instant::now(), agent.usage()?, relay.passed());
        Ok(Self { at, usage, holdings: agent.holdings()?, passed })
    }
}

/// Runs both, measures for `options.duration`, and prints what was found.
///
/// # Errors
///
/// When a build fails, a process ends early, or the agent does not reach the server.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let binaries = match &options.binaries {
        Some(directory) => directory.clone(),
        None => build(options)?,
    };
    let target = workspace::target_directory()?;
    let directory = Directory::claim(&target.join("bench-agent"), "bench agent")?;
    let site = Site::new(Binaries::at(binaries), directory.path(), Group::Own)?;
    let mut server = site.server()?;
    let relay = Relay::start(server.address())?;
    let mut agent = site.agent("bench", relay.address(), arguments(options))?;
    wait_until_connected(&mut agent)?;
    thread::sleep(SETTLING);
    let observed = Observed::new(agent.id());
    let first = Reading::take(&observed, &relay)?;
    thread::sleep(options.duration);
    let last = Reading::take(&observed, &relay)?;
    let status = agent.terminate(STOP_WITHIN)?;
    ensure!(status.success(), "the agent ended with {status}\n{}", agent.log_tail());
    server.process().terminate(STOP_WITHIN)?;

    let program = site.binaries().agent();
    let version = Command::new(&program).arg("--version").output();
    let version = version.with_context(|| program.display().to_string())?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let has_more = options.with_spool || options.etcd.is_some();
    let finding = Finding {
        version,
        program_bytes: fs::metadata(&program)?.len(),
        rss_goal_bytes: if has_more { RSS_GOAL_WITH_MORE } else { RSS_GOAL },
        ..Finding::between(&first, &last)
    };
    let mut out = io::stdout().lock();
    match options.output {
        Output::Table => finding.write(&mut out)?,
        Output::Json => writeln!(out, "{}", serde_json::to_string(&finding)?)?,
    }
    Ok(())
}

/// Builds the agent as it is given to others and a server, and answers where both are.
fn build(options: &Options) -> anyhow::Result<PathBuf> {
    let target = workspace::target_directory()?;
    let mut server = workspace::cargo();
    server.args(["build", "--release", "--package", "server", "--bin", "picket-server"]);
    server.arg("--target-dir").arg(&target);
    workspace::run(server)?;
    let mut agent = workspace::cargo_with_protoc();
    agent.args(["build", "--profile", "dist", "--package", "agent-std", "--bin", "picket-agent"]);
    if options.etcd.is_some() {
        agent.args(["--features", "agent-std/etcd"]);
    }
    agent.arg("--target-dir").arg(&target);
    workspace::run(agent)?;
    // The agent of one profile and the server of another, side by side.
    let together = target.join("bench-agent").join("programs");
    fs::create_dir_all(&together).with_context(|| together.display().to_string())?;
    for (profile, program) in [("release", "picket-server"), ("dist", "picket-agent")] {
        let from = target.join(profile).join(program);
        fs::copy(&from, together.join(program)).with_context(|| from.display().to_string())?;
    }
    Ok(together)
}

fn arguments(options: &Options) -> Vec<String> {
    let mut arguments = vec!["--interval".to_owned(), "1".to_owned()];
    if let Some(collector) = &options.collector {
        arguments.extend(["--collector".to_owned(), collector.clone()]);
    }
    if options.with_spool {
        arguments.extend(["--spool-max-bytes".to_owned(), "16M".to_owned()]);
    }
    if let Some(etcd) = &options.etcd {
        arguments.extend(["--etcd".to_owned(), etcd.clone()]);
    }
    arguments.extend(options.arguments.iter().cloned());
    arguments
}

fn wait_until_connected(agent: &mut Process) -> anyhow::Result<()> {
    let connected = poll(CONNECTED_WITHIN, || {
        if let Some(status) = agent.ended()? {
            bail!("the agent ended with {status}\n{}", agent.log_tail());
        }
        let log = fs::read_to_string(agent.log())?;
        Ok(log.contains(" connected ").then_some(()))
    })?;
    connected.with_context(|| format!("the agent did not connect\n{}", agent.log_tail()))
}

impl Finding {
    fn between(first: &Reading, last: &Reading) -> Self {
        let took = last.at.duration_since(first.at);
        let per_minute = |amount: f64| amount * 60.0 / took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let counted = |first: u64, last: u64| last.saturating_sub(first) as f64;
        let switches = counted(first.usage.voluntary_switches, last.usage.voluntary_switches);
        let (from, to) = (first.usage.involuntary_switches, last.usage.involuntary_switches);
        let involuntary = counted(from, to);
        let cpu = last.usage.cpu.saturating_sub(first.usage.cpu);
        Self {
            version: String::new(),
            program_bytes: 0,
            seconds: took.as_secs_f64(),
            cpu_ms_per_minute: per_minute(cpu.as_secs_f64() * 1000.0),
            rss_bytes: last.holdings.rss,
            peak_rss_bytes: last.holdings.peak_rss,
            pss_bytes: last.holdings.pss,
            anonymous_bytes: last.holdings.anonymous,
            voluntary_switches_per_minute: per_minute(switches),
            involuntary_switches_per_minute: per_minute(involuntary),
            // One sample a second.
            wakeups_per_sample: switches / took.as_secs_f64(),
            wire_up_bytes_per_minute: per_minute(counted(first.passed.up, last.passed.up)),
            wire_down_bytes_per_minute: per_minute(counted(first.passed.down, last.passed.down)),
            descriptors_at_begin: first.holdings.descriptors,
            descriptors_at_end: last.holdings.descriptors,
            cpu_goal_ms_per_minute: CPU_GOAL_MS,
            rss_goal_bytes: RSS_GOAL,
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let met = |is_met: bool| if is_met { "met" } else { "MISSED" };
        let cpu = met(self.cpu_ms_per_minute <= self.cpu_goal_ms_per_minute);
        let rss = met(self.rss_bytes < self.rss_goal_bytes);
        writeln!(out, "{}, {} bytes", self.version, self.program_bytes)?;
        writeln!(out, "6 metrics once a second, for {:.0} s\n", self.seconds)?;
        let goal = self.cpu_goal_ms_per_minute;
        writeln!(
            out,
            "CPU            {:>10.1} ms/min   goal {goal:.0}: {cpu}",
            self.cpu_ms_per_minute
        )?;
        let goal = mib(self.rss_goal_bytes);
        writeln!(
            out,
            "RSS            {:>10.2} MiB      goal {goal:.2}: {rss}",
            mib(self.rss_bytes)
        )?;
        writeln!(out, "RSS, highest   {:>10.2} MiB", mib(self.peak_rss_bytes))?;
        writeln!(out, "PSS            {:>10.2} MiB", mib(self.pss_bytes))?;
        writeln!(out, "anonymous      {:>10.2} MiB", mib(self.anonymous_bytes))?;
        let (slept, preempted) =
            (self.voluntary_switches_per_minute, self.involuntary_switches_per_minute);
        writeln!(out, "switches       {slept:>10.0} /min     voluntary")?;
        writeln!(out, "               {preempted:>10.0} /min     involuntary")?;
        writeln!(out, "wake-ups       {:>10.1} /sample", self.wakeups_per_sample)?;
        let (up, down) = (self.wire_up_bytes_per_minute, self.wire_down_bytes_per_minute);
        writeln!(out, "wire           {up:>10.0} B/min    to the server")?;
        writeln!(out, "               {down:>10.0} B/min    from it")?;
        let (begin, end) = (self.descriptors_at_begin, self.descriptors_at_end);
        writeln!(out, "descriptors    {begin:>10} at first, {end} at the end")
    }
}

fn mib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, factor: u64) -> Reading {
        Reading {
            at,
            usage: Usage {
                cpu: Duration::from_millis(100 + 10 * factor),
                voluntary_switches: 7 + 60 * factor,
                involuntary_switches: 3 + factor,
            },
            holdings: Holdings {
                rss: 3 << 20,
                pss: 2 << 20,
                anonymous: 1 << 20,
                peak_rss: 4 << 20,
                descriptors: 10 + factor,
            },
            passed: Passed { up: 1000 * factor, down: 10 * factor },
        }
    }

    #[test]
    fn figures_are_what_came_between_two_readings_by_the_minute() {
        let start = Instant::now();
        let first = reading(start, 0);
        let last = reading(start + Duration::from_secs(30), 1);
        let finding = Finding::between(&first, &last);
        let close = |value: f64, expected: f64| {
            assert!((value - expected).abs() < 1e-6, "{value} is not {expected}");
        };
        close(finding.cpu_ms_per_minute, 20.0);
        close(finding.voluntary_switches_per_minute, 120.0);
        close(finding.wakeups_per_sample, 2.0);
        close(finding.wire_up_bytes_per_minute, 2000.0);
        assert_eq!((finding.descriptors_at_begin, finding.descriptors_at_end), (10, 11));
        let mut text = Vec::new();
        finding.write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("20.0 ms/min   goal 20: met"), "{text}");
        assert!(text.contains("3.00 MiB      goal 2.80: MISSED"), "{text}");
    }

    #[test]
    fn flags_are_those_of_what_is_asked_for() {
        let options = Options {
            duration: Duration::from_secs(1),
            collector: Some("sysinfo".to_owned()),
            with_spool: true,
            etcd: Some("h:1".to_owned()),
            binaries: None,
            arguments: vec!["--serial=tcp:h:1".to_owned()],
            output: Output::Table,
        };
        let expected = "--interval 1 --collector sysinfo --spool-max-bytes 16M --etcd h:1 \
                        --serial=tcp:h:1";
        assert_eq!(arguments(&options).join(" "), expected);
    }
}
