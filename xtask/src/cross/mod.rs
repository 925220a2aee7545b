//! `cargo xtask cross`: the programs for other systems, and whether they are small enough.

mod budget;
mod target;
mod toolchain;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::workspace;
use budget::Budgets;
use target::{TARGETS, Target};
use toolchain::Toolchain;

/// The cargo profile of what is given to others.
const PROFILE: &str = "dist";

/// The packages and their programs. The server has no Kafka there: its client is C, and would need a C library for each target.
const PROGRAMS: [(&str, &str); 3] =
    [("agent-std", "picket-agent"), ("analysis", "picket"), ("server", "picket-server")];

/// What is built when nothing is named: one static file for each kind of ARM host.
const USUAL: [&str; 2] = ["aarch64-unknown-linux-musl", "armv7-unknown-linux-musleabihf"];

/// What to build for.
#[derive(Clone, Debug)]
pub enum Choice {
    /// All targets that are known.
    All,
    /// These; none: the usual ones.
    Named(Vec<String>),
}

impl Choice {
    fn targets(self) -> anyhow::Result<Vec<&'static Target>> {
        let names = match self {
            Self::All => return Ok(TARGETS.iter().collect()),
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

/// Builds all programs for each target, and prints how large they are.
///
/// # Errors
///
/// When a target is not known, its toolchain is not here, a build fails, or a program passes its budget in
/// `cross/budgets.toml`; what was built was printed then.
pub fn run(choice: Choice) -> anyhow::Result<()> {
    let targets = choice.targets()?;
    let budgets = Budgets::read(&workspace::root().join("cross/budgets.toml"))?;
    // What is missing is said before the first build, which takes minutes.
    let toolchains = targets
        .iter()
        .map(|target| Toolchain::find(target))
        .collect::<anyhow::Result<Vec<Toolchain>>>()?;
    let mut out = io::stdout();
    let mut sizes = Vec::new();
    for (target, toolchain) in targets.into_iter().zip(toolchains) {
        writeln!(
            out,
            "building for {} ({}) with {} ...",
            target.name,
            target.hosts,
            toolchain.name()
        )?;
        let directory = build(target, &toolchain)?;
        for (_, program) in PROGRAMS {
            let bytes = size(&directory.join(program))?;
            sizes.push(Size { target, program, bytes, budget: budgets.of(target, program) });
        }
    }
    report(&sizes, &mut out)
}

fn build(target: &Target, toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    // Apart from what the host's toolchain builds, so that neither throws away what the other made.
    let directory = workspace::target_directory()?.join("cross");
    let mut cargo = toolchain.cargo(target);
    cargo.args(["build", "--locked", "--bins", "--profile", PROFILE, "--target", target.name]);
    cargo.arg("--target-dir").arg(&directory);
    for (package, _) in PROGRAMS {
        cargo.args(["--package", package]);
    }
    workspace::run(cargo)?;
    Ok(directory.join(target.name).join(PROFILE))
}

fn size(program: &Path) -> anyhow::Result<u64> {
    let metadata = fs::metadata(program).with_context(|| program.display().to_string())?;
    Ok(metadata.len())
}

/// How large a program has become.
#[derive(Debug)]
struct Size {
    target: &'static Target,
    program: &'static str,
    bytes: u64,
    budget: Option<u64>,
}

impl Size {
    fn is_over(&self) -> bool {
        self.budget.is_some_and(|budget| budget < self.bytes)
    }
}

fn report(sizes: &[Size], out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "\n{:<32}  {:<13}  {:>10}  {:>10}", "target", "program", "bytes", "budget")?;
    for size in sizes {
        let budget = size.budget.map_or_else(|| "-".to_owned(), |budget| budget.to_string());
        let mark = if size.is_over() { "  too large" } else { "" };
        let Size { target, program, bytes, .. } = size;
        writeln!(out, "{:<32}  {program:<13}  {bytes:>10}  {budget:>10}{mark}", target.name)?;
    }
    let over = sizes.iter().filter(|size| size.is_over()).count();
    if 0 < over {
        bail!("{over} programs are larger than cross/budgets.toml allows");
    }
    ensure!(!sizes.is_empty(), "nothing was built");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_chosen_by_name() {
        let chosen = Choice::Named(vec![]).targets().unwrap();
        assert_eq!(chosen.iter().map(|target| target.name).collect::<Vec<_>>(), USUAL);
        assert_eq!(Choice::All.targets().unwrap().len(), TARGETS.len());
        let error = Choice::Named(vec!["mips".to_owned()]).targets().unwrap_err();
        assert!(error.to_string().contains("known are aarch64-unknown-linux-musl"), "{error}");
    }

    #[test]
    fn what_is_too_large_is_named_and_an_error() {
        let size = |program, bytes, budget| Size { target: &TARGETS[0], program, bytes, budget };
        let sizes = [
            size("picket", 10, Some(10)),
            size("picket-agent", 11, Some(10)),
            size("picket-server", 9, None),
        ];
        let mut out = Vec::new();
        let error = report(&sizes, &mut out).unwrap_err();
        assert_eq!(error.to_string(), "1 programs are larger than cross/budgets.toml allows");
        let text = String::from_utf8(out).unwrap();
        let marked: Vec<&str> = text.lines().filter(|line| line.ends_with("too large")).collect();
        assert!(marked.len() == 1 && marked[0].contains("picket-agent"), "{text}");
        report(&sizes[..1], &mut Vec::new()).unwrap();
    }
}
