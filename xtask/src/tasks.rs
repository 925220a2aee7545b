//! `cargo xtask test` and `cargo xtask codegen`: cargo, with the right arguments.

use std::io::{self, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::fleet::{Binaries, Profile};
use crate::workspace;

/// Builds the binaries and runs every test there is. `arguments` go to the test programs, for instance a filter.
///
/// # Errors
///
/// When a build or a test fails; a summary was printed then, too.
pub fn test(arguments: &[String]) -> anyhow::Result<()> {
    let mut summary = Summary::default();
    summary.step("build of the binaries", || Binaries::build(Profile::Debug).map(drop));
    summary.step("tests of the workspace", || {
        let mut tests = workspace::cargo();
        tests.args(["test", "--workspace", "--no-fail-fast", "--"]).args(arguments);
        run(tests)
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
    run(test)
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo ended with {status}; its messages are above");
    Ok(())
}

/// What was done, how long it took and whether it worked.
#[derive(Debug, Default)]
struct Summary {
    steps: Vec<(&'static str, Duration, anyhow::Result<()>)>,
}

impl Summary {
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> anyhow::Result<()>) {
        let started = Instant::now();
        let result = work();
        self.steps.push((name, started.elapsed(), result));
    }

    fn finish(self, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "\nsummary")?;
        let mut failed = 0;
        for (name, elapsed, result) in &self.steps {
            let seconds = elapsed.as_secs_f64();
            match result {
                Ok(()) => writeln!(out, "  ok      {seconds:7.1} s  {name}")?,
                Err(error) => {
                    failed += 1;
                    writeln!(out, "  FAILED  {seconds:7.1} s  {name}: {error:#}")?;
                }
            }
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
        summary.step("good", || Ok(()));
        summary.step("bad", || bail!("no"));
        summary.step("after", || Ok(()));
        let mut text = Vec::new();
        let error = summary.finish(&mut text).unwrap_err();
        assert_eq!(error.to_string(), "1 of 3 steps failed");
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches("FAILED").count(), 1, "{text}");
        assert!(text.contains("bad: no"), "{text}");
    }
}
