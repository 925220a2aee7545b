//! `cargo xtask fuzz`: each fuzz target for a bounded time, from the committed seeds on.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::fleet::tail;
use crate::workspace;

/// The version of cargo-fuzz that is known to work here; a newer one may.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// An input that takes longer counts as a hang. A busy machine may stall a process for seconds.
const HANG_SECONDS: u32 = 60;

/// What to fuzz, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long each target runs.
    pub duration: Duration,
    /// Of the random inputs; none takes another one each time.
    pub seed: Option<u32>,
    /// Whether to install cargo-fuzz where it is missing.
    pub install: bool,
    /// Names of targets; none means all.
    pub targets: Vec<String>,
}

/// Runs the targets one after the other, and prints how many inputs each has run.
///
/// # Errors
///
/// When cargo-fuzz is missing, a target is not known or does not build, or an input made one fail; where that input
/// is was printed then.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut out = io::stdout();
    prepare(options.install)?;
    let targets = choose(known_targets()?, &options.targets)?;
    let site = Site::new()?;
    writeln!(out, "building the fuzz targets ...")?;
    site.build()?;
    let mut runs = Vec::new();
    for target in targets {
        writeln!(out, "fuzzing {target} for {} s ...", options.duration.as_secs())?;
        runs.push(site.fuzz(target, options)?);
    }
    report(&runs, &mut out)
}

/// Sees that cargo-fuzz is there.
fn prepare(install: bool) -> anyhow::Result<()> {
    let version = workspace::cargo().args(["fuzz", "--version"]).output();
    if version.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let arguments = ["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ_VERSION];
    if !install {
        bail!("cargo-fuzz is missing: cargo {}", arguments.join(" "));
    }
    let status = workspace::cargo().args(arguments).status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo-fuzz could not be installed ({status})");
    Ok(())
}

/// The targets there are, by name.
fn known_targets() -> anyhow::Result<Vec<String>> {
    let output = cargo_fuzz("list").output().context("cannot run cargo fuzz")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Those of `known` that are `wanted`, in that order; all if none is.
fn choose(known: Vec<String>, wanted: &[String]) -> anyhow::Result<Vec<String>> {
    if wanted.is_empty() {
        return Ok(known);
    }
    for name in wanted {
        ensure!(known.contains(name), "no target is named {name}; there are: {}", known.join(", "));
    }
    Ok(wanted.to_vec())
}

/// `cargo fuzz TASK`, with a compiler that takes the flags of the sanitizers.
fn cargo_fuzz(task: &str) -> Command {
    let mut command = workspace::cargo();
    command.args(["fuzz", task]);
    let version = Command::new("rustc").arg("--version").output();
    let nightly = version.is_ok_and(|output| output.stdout.windows(7).any(|at| at == b"nightly"));
    if !nightly {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    command
}

/// Where fuzzing leaves what it makes: builds, inputs found on the way, logs.
#[derive(Debug)]
struct Site {
    directory: PathBuf,
}

impl Site {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { directory: workspace::target_directory()?.join("fuzz") })
    }

    fn build(&self) -> anyhow::Result<()> {
        let mut build = cargo_fuzz("build");
        let status = build.arg("--target-dir").arg(self.builds()).status();
        let status = status.context("cannot run cargo fuzz")?;
        ensure!(status.success(), "the build failed ({status}); its messages are above");
        Ok(())
    }

    fn fuzz(&self, target: String, options: &Options) -> anyhow::Result<Run> {
        let log = self.directory.join(format!("{target}.log"));
        let corpus = self.directory.join("corpus").join(&target);
        let seeds = workspace::root().join("fuzz/seeds").join(&target);
        fs::create_dir_all(&corpus)
            .with_context(|| format!("cannot create {}", corpus.display()))?;
        ensure!(seeds.is_dir(), "{target} has no seeds in {}", seeds.display());
        let log_file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;

        let mut command = cargo_fuzz("run");
        command.arg("--target-dir").arg(self.builds());
        // New inputs go to the first directory, so the seeds stay as they are.
        command.arg(&target).args([&corpus, &seeds]);
        command.args(["--", "-print_final_stats=1"]);
        command.arg(format!("-max_total_time={}", options.duration.as_secs()));
        command.arg(format!("-timeout={HANG_SECONDS}"));
        if let Some(seed) = options.seed {
            command.arg(format!("-seed={seed}"));
        }
        let status = command.stderr(log_file).status().context("cannot run cargo fuzz")?;
        let text = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let said = String::from_utf8_lossy(&text);
        let outcome = match Statistics::read(&said) {
            Some(statistics) if status.success() => Outcome::Passed(statistics),
            Some(_) | None => Outcome::Failed { input: failed_input(&said), log },
        };
        Ok(Run { target, outcome })
    }

    fn builds(&self) -> PathBuf {
        self.directory.join("build")
    }
}

/// What became of one target.
#[derive(Debug)]
struct Run {
    target: String,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Passed(Statistics),
    Failed { input: Option<PathBuf>, log: PathBuf },
}

/// What libFuzzer says at the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Statistics {
    executions: u64,
    per_second: u64,
}

impl Statistics {
    fn read(said: &str) -> Option<Self> {
        let number =
            |name| said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Some(Self {
            executions: number("stat::number_of_executed_units:")?,
            per_second: number("stat::average_exec_per_sec:")?,
        })
    }
}

/// The file to which libFuzzer says it wrote the input that failed.
fn failed_input(said: &str) -> Option<PathBuf> {
    let path = said.lines().find_map(|line| line.split_once("Test unit written to "));
    path.map(|(_, path)| PathBuf::from(path.trim()))
}

fn report(runs: &[Run], out: &mut impl Write) -> anyhow::Result<()> {
    let failed = runs.iter().filter(|run| matches!(run.outcome, Outcome::Failed { .. })).count();
    for run in runs {
        if let Outcome::Failed { log, .. } = &run.outcome {
            writeln!(out, "\n{}", tail(log))?;
        }
    }
    writeln!(out, "\n{:<12} {:>12} {:>12}", "target", "executions", "per second")?;
    for run in runs {
        writeln!(out, "{run}")?;
    }
    ensure!(failed == 0, "{failed} of {} fuzz targets failed", runs.len());
    Ok(())
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = &self.target;
        match &self.outcome {
            Outcome::Passed(Statistics { executions, per_second }) => {
                write!(f, "{target:<12} {executions:>12} {per_second:>12}")
            }
            Outcome::Failed { input: Some(input), .. } => {
                let input = input.strip_prefix(workspace::root()).unwrap_or(input).display();
                write!(f, "{target:<12}       FAILED on {input}; to see it again: ")?;
                write!(f, "RUSTC_BOOTSTRAP=1 cargo fuzz run {target} {input}")
            }
            Outcome::Failed { input: None, log } => {
                write!(f, "{target:<12}       FAILED, see {}", log.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What libFuzzer prints at the end of a run that found nothing.
    const PASSED: &str = "\
#524288\tpulse  cov: 312 ft: 900 corp: 88/2kb lim: 4096 exec/s: 74898 rss: 412Mb
Done 1234567 runs in 16 second(s)
stat::number_of_executed_units: 1234567
stat::average_exec_per_sec:     77160
stat::new_units_added:          41
";

    /// What it prints when an input failed.
    const FAILED: &str = "\
==100== ERROR: libFuzzer: deadly signal
artifact_prefix='/repo/fuzz/artifacts/frame/'; Test unit written to /repo/fuzz/artifacts/frame/crash-da39a3
Base64: AA==
";

    fn passed(target: &str) -> Run {
        let outcome = Outcome::Passed(Statistics::read(PASSED).unwrap());
        Run { target: target.into(), outcome }
    }

    fn written(runs: &[Run]) -> (String, anyhow::Result<()>) {
        let mut text = Vec::new();
        let result = report(runs, &mut text);
        (String::from_utf8(text).unwrap(), result)
    }

    #[test]
    fn executions_are_read_from_the_final_statistics() {
        assert_eq!(Statistics::read(FAILED), None);
        let (text, result) = written(&[passed("frame")]);
        result.unwrap();
        assert!(text.contains("frame             1234567        77160"), "{text}");
    }

    #[test]
    fn a_failure_fails_the_whole_and_names_the_input() {
        let input = failed_input(FAILED);
        assert_eq!(input.as_deref(), Some(Path::new("/repo/fuzz/artifacts/frame/crash-da39a3")));
        let outcome = Outcome::Failed { input, log: PathBuf::from("/no/such.log") };
        let failed = Run { target: "frame".into(), outcome };
        let (text, result) = written(&[passed("block"), failed]);
        assert_eq!(result.unwrap_err().to_string(), "1 of 2 fuzz targets failed");
        assert!(text.contains("FAILED on /repo/fuzz/artifacts/frame/crash-da39a3"), "{text}");
    }

    #[test]
    fn targets_are_chosen_by_name() {
        let known = || vec!["block".to_owned(), "frame".to_owned()];
        assert_eq!(choose(known(), &[]).unwrap(), known());
        assert_eq!(choose(known(), &["frame".to_owned()]).unwrap(), ["frame"]);
        assert!(choose(known(), &["frames".to_owned()]).is_err());
    }
}
