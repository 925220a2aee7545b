//! `cargo xtask dist`: packages of the programs, and whether they are sound.
//!
//! What a package holds stands in `[package.metadata.deb]` of its crate. The archive has what the .deb has.

mod bill;
mod check;
mod epoch;
mod package;
mod share;
mod tool;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::cross::{self, Program, Target};
use crate::workspace;
use epoch::Epoch;
use tool::Tool;

/// What to pack, and what with it.
#[derive(Clone, Debug)]
pub struct Options {
    /// For which systems; none: the usual ones.
    pub targets: Vec<String>,
    /// Which programs; none: all.
    pub programs: Vec<String>,
    /// Whether the programs are there from `cargo xtask cross`.
    pub is_built: bool,
    /// Whether the packages are then made once more and compared, installed, run, removed and purged.
    pub is_checked: bool,
}

/// What was made of one program for one target.
#[derive(Debug)]
struct Made {
    target: &'static Target,
    program: &'static Program,
    deb: PathBuf,
    archive: PathBuf,
    bill: PathBuf,
}

impl Made {
    fn files(&self) -> [&Path; 3] {
        [&self.deb, &self.archive, &self.bill]
    }
}

/// Makes for each target and program a .deb, a tar.gz and a bill of materials, and the checksums of them all, in
/// `target/dist`, which then has nothing else.
///
/// # Errors
///
/// When a target or program is not known, a toolchain or tool is not to be had, a build fails, or a package is not as it
/// must be.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let targets = cross::packed_targets(&options.targets)?;
    let programs = cross::programs(&options.programs)?;
    let mut out = io::stdout();
    if options.is_checked {
        check::find_tools(&targets)?;
    }
    let tools =
        Tools { deb: Tool::DEB.installed(&mut out)?, bill: Tool::BILL.installed(&mut out)? };
    let epoch = Epoch::find()?;
    let mut binaries = Vec::new();
    for target in targets {
        for program in &programs {
            let path = if options.is_built {
                cross::path(target, program)?
            } else {
                writeln!(out, "building {} for {} ...", program.name, target.name)?;
                cross::find_and_build(target, program)?
            };
            ensure!(path.is_file(), "{} is not there: cargo xtask cross", path.display());
            binaries.push(Binary { target, program, path });
        }
    }
    let shared = share::generate(epoch)?;
    let site = workspace::target_directory()?.join("dist");
    let made = make(&binaries, &shared, &tools, epoch, &site)?;
    report(&made, &mut out)?;
    if options.is_checked {
        let again = workspace::target_directory()?.join("dist-work/again");
        let second = make(&binaries, &shared, &tools, epoch, &again)?;
        check::run(&made, &second, &site, &mut out)?;
    }
    writeln!(out, "\nin {}", site.display())?;
    Ok(())
}

/// The tools that make packages, by their paths.
#[derive(Debug)]
struct Tools {
    deb: PathBuf,
    bill: PathBuf,
}

/// A program that was built.
#[derive(Debug)]
struct Binary {
    target: &'static Target,
    program: &'static Program,
    path: PathBuf,
}

fn make(
    binaries: &[Binary],
    shared: &Path,
    tools: &Tools,
    epoch: Epoch,
    site: &Path,
) -> anyhow::Result<Vec<Made>> {
    renew(site)?;
    let mut made = Vec::new();
    for Binary { target, program, path } in binaries {
        let directory = site.join(target.name);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        share::put_beside(path, program.name, shared)?;
        let deb = package::deb(target, program, &tools.deb, epoch, &directory)?;
        let archive = package::archive(target, program, &deb, epoch, &directory)?;
        let bill = bill::write(target, program, &tools.bill, epoch, &directory)?;
        made.push(Made { target, program, deb, archive, bill });
    }
    write_sums(site, &made)?;
    Ok(made)
}

/// An empty directory at `path`, whatever was there.
fn renew(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// The name of a file of a release, without what tells its form.
fn stem(target: &Target, program: &Program) -> String {
    format!("{}-{}-{}", program.name, env!("CARGO_PKG_VERSION"), target.name)
}

fn write_sums(site: &Path, made: &[Made]) -> anyhow::Result<()> {
    let mut command = Command::new("sha256sum");
    command.current_dir(site).arg("--");
    for file in made.iter().flat_map(Made::files) {
        command.arg(file.strip_prefix(site)?);
    }
    let sums = output(&mut command)?;
    fs::write(site.join("SHA256SUMS"), sums).context("cannot write SHA256SUMS")
}

/// What `command` writes to standard output.
///
/// # Errors
///
/// When it does not run, or fails; what it wrote to standard error is told then.
fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

fn report(made: &[Made], out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "\n{:>10}  file", "bytes")?;
    for one in made {
        for file in one.files() {
            let bytes = fs::metadata(file).with_context(|| file.display().to_string())?.len();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            writeln!(out, "{bytes:>10}  {}/{name}", one.target.name)?;
        }
    }
    Ok(())
}
