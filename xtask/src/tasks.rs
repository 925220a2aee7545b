//! `cargo xtask test`, `codegen` and `sim`: cargo, with the right arguments.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use signal_hook::consts::SIGINT;

use crate::fleet::{Binaries, Profile};
use crate::services::Session;
use crate::{interrupt, workspace};

/// Names the file to which a test that is skipped, for want of a tool, adds a line that says so.
const SKIPPED: &str = "PICKET_SKIPPED";

/// Builds the binaries and runs every test there is, those of the firmware and those with a real etcd and Kafka
/// included. `arguments` go to the test programs, for instance a filter.
///
/// A service that is up already, or that the environment names, is used and left as it is; one that this starts, it
/// stops.
///
/// # Errors
///
/// When a build or a test fails; a summary was printed then, too. A test whose tools are missing here fails only
/// with `PICKET_REQUIRE_ARM=1`, one whose service does not come up only with `PICKET_REQUIRE_SERVICES=1`; else the
/// summary says that it was skipped.
pub fn test(arguments: &[String]) -> anyhow::Result<()> {
    let skipped = workspace::target_directory()?.join("skipped-tests");
    // Ctrl-C reaches cargo and the tests themselves; this program lives on to stop the services.
    let interrupted = interrupt::flag([SIGINT])?;
    let mut services = Session::new()?;
    let mut summary = Summary::default();
    summary.step("build of the binaries", || {
        Binaries::build(Profile::Debug)?;
        Ok(Skipped::default())
    });
    summary.step("start of the services", || {
        go_on_unless(&interrupted)?;
        services.begin(&interrupted).map(Skipped)
    });
    summary.step("tests of the workspace", || {
        go_on_unless(&interrupted)?;
        let mut tests = workspace::cargo_with_protoc();
        tests.args([
            "test",
            "--workspace",
            "--features",
            workspace::FEATURES,
            "--no-fail-fast",
            "--",
        ]);
        tests.args(arguments).envs(services.variables());
        run_tests(tests, &skipped)
    });
    summary.step("end of the services", || services.end().map(|()| Skipped::default()));
    // A workspace of its own, which cargo does not reach from the root.
    summary.step("tests of the firmware and of the core on bare metal", || {
        go_on_unless(&interrupted)?;
        let mut tests = workspace::cargo();
        tests.args(["test", "--locked", "--no-fail-fast", "--manifest-path"]);
        tests.arg("cross/firmware/Cargo.toml").arg("--").args(arguments);
        run_tests(tests, &skipped)
    });
    summary.finish(&mut io::stdout())
}

/// Writes `proto/src/generated` anew from `proto/proto/monitoring.proto`.
///
/// # Errors
///
/// When the generator cannot be built or the file has an error.
pub fn codegen() -> anyhow::Result<()> {
    // The generator is a test, so that only those who need it build it.
    let mut test = workspace::cargo();
    test.args(["test", "--quiet", "--package", "xtask", "--test", "it", "codegen::"])
        .env("PICKET_CODEGEN", "write");
    workspace::run(test)
}

/// Builds `sim` and plays simulated worlds through; it takes `arguments`.
///
/// # Errors
///
/// When it cannot be built, or says that a promise was broken.
pub fn simulate(arguments: &[String]) -> anyhow::Result<()> {
    let mut sim = workspace::cargo();
    sim.args(["run", "--release", "--quiet", "--package", "sim", "--"]).args(arguments);
    workspace::run(sim)
}

fn go_on_unless(interrupted: &AtomicBool) -> anyhow::Result<()> {
    ensure!(!interrupted.load(Ordering::Relaxed), "not run: interrupted");
    Ok(())
}

/// The tests that did nothing, each as a line that says why.
#[derive(Debug, Default)]
struct Skipped(Vec<String>);

/// Runs `tests`, which tell of themselves in the file at `skipped`.
fn run_tests(mut tests: Command, skipped: &Path) -> anyhow::Result<Skipped> {
    fs::write(skipped, "").with_context(|| format!("cannot write {}", skipped.display()))?;
    tests.env(SKIPPED, skipped);
    workspace::run(tests)?;
    let lines = fs::read_to_string(skipped)
        .with_context(|| format!("cannot read {}", skipped.display()))?;
    Ok(Skipped(lines.lines().map(str::to_owned).collect()))
}

/// What was done, how long it took and whether it worked.
#[derive(Debug, Default)]
struct Summary {
    steps: Vec<(&'static str, Duration, anyhow::Result<Skipped>)>,
}

impl Summary {
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> anyhow::Result<Skipped>) {
        let started = Instant::now();
        let result = work();
        self.steps.push((name, started.elapsed(), result));
    }

    fn finish(self, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "\nsummary")?;
        let mut failed = 0;
        let mut skipped = 0;
        for (name, elapsed, result) in &self.steps {
            let seconds = elapsed.as_secs_f64();
            match result {
                Ok(Skipped(tests)) => {
                    writeln!(out, "  ok      {seconds:7.1} s  {name}")?;
                    for test in tests {
                        writeln!(out, "  SKIPPED            {test}")?;
                    }
                    skipped += tests.len();
                }
                Err(error) => {
                    failed += 1;
                    writeln!(out, "  FAILED  {seconds:7.1} s  {name}: {error:#}")?;
                }
            }
        }
        if 0 < skipped {
            writeln!(out, "{skipped} SKIPPED: what they need is not here")?;
        }
        match failed {
            0 => Ok(()),
            _ => bail!("{failed} of {} steps failed", self.steps.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_whole() {
        let mut summary = Summary::default();
        summary.step("good", || Ok(Skipped::default()));
        summary.step("bad", || bail!("no"));
        summary.step("after", || Ok(Skipped::default()));
        let mut text = Vec::new();
        let error = summary.finish(&mut text).unwrap_err();
        assert_eq!(error.to_string(), "1 of 3 steps failed");
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches("FAILED").count(), 1, "{text}");
        assert!(text.contains("bad: no"), "{text}");
    }

    #[test]
    fn what_was_skipped_is_named_and_counted_and_fails_nothing() {
        let mut summary = Summary::default();
        summary.step("tests", || Ok(Skipped(vec!["a: no tool".into(), "b: no tool".into()])));
        let mut text = Vec::new();
        summary.finish(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("a: no tool"), "{text}");
        assert!(text.contains("2 SKIPPED"), "{text}");
    }

    #[test]
    fn tests_tell_of_themselves_in_a_file_that_is_emptied_for_each_run() {
        let directory = tempfile::tempdir().unwrap();
        let skipped = directory.path().join("skipped");
        let tells = || {
            let mut command = Command::new("sh");
            command.args(["-c", r#"echo "a: no tool" >> "$PICKET_SKIPPED""#]);
            command
        };
        for _ in 0..2 {
            let Skipped(tests) = run_tests(tells(), &skipped).unwrap();
            assert_eq!(tests, ["a: no tool"]);
        }
    }
}
