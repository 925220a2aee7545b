//! `cargo xtask cross`: the programs for other systems, whether they are small enough, and whether they work there.

mod budget;
mod emulated;
mod program;
mod target;
mod toolchain;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::workspace;
use budget::Budgets;
use emulated::CoreTests;
pub(crate) use emulated::Emulator;
pub(crate) use program::{PROGRAMS, Program};
use target::TARGETS;
pub(crate) use target::Target;
use toolchain::Toolchain;

/// What is built when nothing is named: one static file for each kind of ARM host.
const USUAL: [&str; 2] = ["aarch64-unknown-linux-musl", "armv7-unknown-linux-musleabihf"];

/// What to build for.
#[derive(Clone, Debug)]
pub enum Choice {
    /// All targets that a toolchain from Debian's packages has.
    All,
    /// These; none: the usual ones.
    Named(Vec<String>),
}

impl Choice {
    fn targets(self) -> anyhow::Result<Vec<&'static Target>> {
        let names = match self {
            Self::All => return Ok(TARGETS.iter().filter(|target| target.is_in_debian).collect()),
            Self::Named(names) if names.is_empty() => USUAL.map(str::to_owned).to_vec(),
            Self::Named(names) => names,
        };
        let found = |name: String| {
            Target::named(&name).with_context(|| {
                let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                format!("{name} is no target; known are {}", known.join(", "))
            })
        };
        names.into_iter().map(found).collect()
    }
}

/// The targets of these names, for packages; none: the usual ones, and that of most servers where its toolchain is here.
pub(crate) fn packed_targets(names: &[String]) -> anyhow::Result<Vec<&'static Target>> {
    let mut targets = Choice::Named(names.to_vec()).targets()?;
    if names.is_empty() {
        let servers = Target::named("x86_64-unknown-linux-musl");
        targets.extend(servers.filter(|target| Toolchain::find(target).is_ok()));
    }
    Ok(targets)
}

/// The programs of these names; none: all.
pub(crate) fn programs(names: &[String]) -> anyhow::Result<Vec<&'static Program>> {
    if names.is_empty() {
        return Ok(PROGRAMS.iter().collect());
    }
    let found = |name: &String| {
        Program::named(name).with_context(|| {
            let known = PROGRAMS.map(|program| program.name).join(", ");
            format!("{name} is no program; known are {known}")
        })
    };
    names.iter().map(found).collect()
}

/// Builds the programs of these names (none: all) for each target, and prints how large they are. With `is_tested` it
/// then runs agent-core's tests, and the end-to-end tests with this agent, on an emulator of each target.
///
/// # Errors
///
/// When a target or program is not known, a toolchain or emulator is not here, a build or test fails, or a program
/// passes its budget in `cross/budgets.toml`; what was built was printed then.
pub fn run(choice: Choice, names: &[String], is_tested: bool) -> anyhow::Result<()> {
    let targets = choice.targets()?;
    let programs = programs(names)?;
    ensure!(
        !is_tested || programs.iter().any(|program| program.name == emulated::PROGRAM),
        "--test needs {}",
        emulated::PROGRAM
    );
    let budgets = Budgets::read(&workspace::root().join("cross/budgets.toml"))?;
    // What is missing is said before the first build, which takes minutes.
    let toolchains = targets
        .iter()
        .map(|target| Toolchain::find(target))
        .collect::<anyhow::Result<Vec<Toolchain>>>()?;
    let tested = targets.iter().filter(|_| is_tested);
    let emulators =
        tested.map(|target| Emulator::find(target)).collect::<anyhow::Result<Vec<Emulator>>>()?;
    let mut out = io::stdout();
    let mut built = Vec::new();
    for (target, toolchain) in targets.iter().zip(&toolchains) {
        for program in &programs {
            writeln!(
                out,
                "building {} for {} ({}) with {} ...",
                program.name,
                target.name,
                target.hosts,
                toolchain.name()
            )?;
            let path = build(target, toolchain, program)?;
            let bytes = size(&path)?;
            let budget = budgets.of(target, program.name);
            built.push(Built { target, program, path, bytes, budget });
        }
    }
    report(&built, &mut out)?;
    let with_core = targets.iter().zip(&toolchains).filter(|_| is_tested);
    let core = with_core
        .map(|(target, toolchain)| CoreTests::start(target, toolchain))
        .collect::<anyhow::Result<Vec<CoreTests>>>()?;
    // All are waited for, also when one fails. What comes after them has the processors to itself.
    let outcomes: Vec<_> = core.into_iter().map(|tests| tests.finish(&mut out)).collect();
    outcomes.into_iter().collect::<anyhow::Result<()>>()?;
    for (target, emulator) in targets.iter().zip(emulators) {
        let agent = built
            .iter()
            .find(|built| built.target == *target && built.program.name == emulated::PROGRAM);
        let agent = agent.context("the agent was not built")?;
        writeln!(out, "\ntesting on {} ({})", target.name, emulator.name())?;
        emulated::test_end_to_end(target, &emulator, &agent.path)?;
    }
    Ok(())
}

/// Where cargo builds for other systems: apart from what the host's toolchain builds, so that neither throws away what
/// the other made.
pub(crate) fn directory() -> anyhow::Result<PathBuf> {
    Ok(workspace::target_directory()?.join("cross"))
}

/// Finds the toolchain and builds; the path of the built program.
///
/// # Errors
///
/// When no toolchain is here, or the build fails.
pub(crate) fn find_and_build(target: &Target, program: &Program) -> anyhow::Result<PathBuf> {
    build(target, &Toolchain::find(target)?, program)
}

/// Where the program is when it is built.
pub(crate) fn path(target: &Target, program: &Program) -> anyhow::Result<PathBuf> {
    Ok(directory()?.join(target.name).join(program.profile).join(program.name))
}

/// The path of the built program.
fn build(target: &Target, toolchain: &Toolchain, program: &Program) -> anyhow::Result<PathBuf> {
    let mut cargo = toolchain.cargo(target);
    cargo.args(["build", "--locked", "--package", program.package, "--bin", program.name]);
    cargo.args(["--profile", program.profile, "--target", target.name]);
    cargo.arg("--target-dir").arg(directory()?);
    workspace::run(cargo)?;
    path(target, program)
}

fn size(program: &Path) -> anyhow::Result<u64> {
    let metadata = fs::metadata(program).with_context(|| program.display().to_string())?;
    Ok(metadata.len())
}

/// A program that was built.
#[derive(Debug)]
struct Built {
    target: &'static Target,
    program: &'static Program,
    path: PathBuf,
    bytes: u64,
    budget: Option<u64>,
}

impl Built {
    fn is_over(&self) -> bool {
        self.budget.is_some_and(|budget| budget < self.bytes)
    }
}

fn report(built: &[Built], out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "\n{:<32}  {:<13}  {:>10}  {:>10}", "target", "program", "bytes", "budget")?;
    for one in built {
        let budget = one.budget.map_or_else(|| "-".to_owned(), |budget| budget.to_string());
        let mark = if one.is_over() { "  too large" } else { "" };
        let Built { target, program, bytes, .. } = one;
        let (target, program) = (target.name, program.name);
        writeln!(out, "{target:<32}  {program:<13}  {bytes:>10}  {budget:>10}{mark}")?;
    }
    match built.iter().filter(|built| built.is_over()).count() {
        0 => Ok(()),
        1 => bail!("a program is larger than cross/budgets.toml allows"),
        over => bail!("{over} programs are larger than cross/budgets.toml allows"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_chosen_by_name() {
        let chosen = Choice::Named(vec![]).targets().unwrap();
        assert_eq!(chosen.iter().map(|target| target.name).collect::<Vec<_>>(), USUAL);
        assert!(Choice::All.targets().unwrap().iter().all(|target| target.is_in_debian));
        let error = Choice::Named(vec!["mips".to_owned()]).targets().unwrap_err();
        assert!(error.to_string().contains("known are aarch64-unknown-linux-musl"), "{error}");
    }

    #[test]
    fn programs_are_chosen_by_name() {
        assert_eq!(programs(&[]).unwrap().len(), PROGRAMS.len());
        assert_eq!(programs(&["picket".to_owned()]).unwrap(), [&PROGRAMS[1]]);
        let error = programs(&["picket-spy".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("known are picket-agent, picket,"), "{error}");
    }

    #[test]
    fn what_is_too_large_is_named_and_an_error() {
        let built = |program, bytes, budget| Built {
            target: &TARGETS[0],
            program: &PROGRAMS[program],
            path: PathBuf::new(),
            bytes,
            budget,
        };
        let all = [built(1, 10, Some(10)), built(0, 11, Some(10)), built(2, 9, None)];
        let mut out = Vec::new();
        let error = report(&all, &mut out).unwrap_err();
        assert_eq!(error.to_string(), "a program is larger than cross/budgets.toml allows");
        let text = String::from_utf8(out).unwrap();
        let marked: Vec<&str> = text.lines().filter(|line| line.ends_with("too large")).collect();
        assert!(marked.len() == 1 && marked[0].contains("picket-agent"), "{text}");
        report(&all[..1], &mut Vec::new()).unwrap();
    }
}
