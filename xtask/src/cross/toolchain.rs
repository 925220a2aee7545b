//! The Rust toolchain that builds for a target, and what it needs around it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::cross::target::{CONFIGURATION, Target};
use crate::workspace;

/// A Rust toolchain that has the standard library of a target.
#[derive(Debug)]
pub(super) enum Toolchain {
    /// The one that builds this program; `rustup target add` has given it the target.
    Current,
    /// One that `cross/setup.sh` made: its directory has `bin` with linkers, and `usr/bin` with cargo and rustc.
    Unpacked(PathBuf),
}

impl Toolchain {
    /// The first that has the target.
    ///
    /// # Errors
    ///
    /// When none has, or the linker is missing; with what to install.
    pub(super) fn find(target: &Target) -> anyhow::Result<Self> {
        let name = target.name;
        // The default is that of cross/setup.sh.
        let prefix = env::var_os("CROSS_PREFIX").unwrap_or_else(|| "/opt/debian-cross".into());
        let known = [Self::Current, Self::Unpacked(prefix.into())];
        let Some(found) = known.into_iter().find(|toolchain| toolchain.has(target)) else {
            let or_else = if target.is_in_debian {
                format!(
                    ", or, where rustup cannot download, `cross/setup.sh {name}` as root on Debian 12"
                )
            } else {
                String::new()
            };
            bail!(
                "no Rust toolchain here has the standard library of {name}: `rustup target add {name}`{or_else}"
            );
        };
        let linker = match found.own_linker(target) {
            Some(linker) => linker,
            None => target.tools()?.linker.into(),
        };
        if !linker.is_file() && workspace::on_path(&linker.to_string_lossy()).is_none() {
            let (linker, package) = (linker.display(), target.package);
            bail!("{linker} is missing, which links for {name} (Debian: {package})");
        }
        Ok(found)
    }

    fn has(&self, target: &Target) -> bool {
        let mut rustc = match self {
            Self::Current => Command::new("rustc"),
            Self::Unpacked(prefix) => Command::new(prefix.join("usr/bin/rustc")),
        };
        rustc.env_remove("LD_LIBRARY_PATH");
        let output = rustc.args(["--print", "target-libdir", "--target", target.name]).output();
        output.is_ok_and(|output| {
            let directory = String::from_utf8_lossy(&output.stdout);
            // Where a target was removed, its directory may be left.
            let is_whole = Path::new(directory.trim()).read_dir();
            output.status.success() && is_whole.is_ok_and(|mut files| files.next().is_some())
        })
    }

    /// GCC with the headers of musl, which links and compiles in place of the one in cargo's configuration.
    fn own_linker(&self, target: &Target) -> Option<PathBuf> {
        match (self, target.musl_prefix) {
            (Self::Unpacked(prefix), Some(musl)) => Some(prefix.join(format!("bin/{musl}-gcc"))),
            _ => None,
        }
    }

    /// Cargo, with what it is to be told of the targets; its command is to be added.
    pub(super) fn cargo(&self, target: &Target) -> Command {
        let mut cargo = match self {
            Self::Current => workspace::cargo(),
            Self::Unpacked(prefix) => {
                let mut cargo = Command::new(prefix.join("usr/bin/cargo"));
                cargo.env("RUSTC", prefix.join("usr/bin/rustc"));
                cargo.env("RUSTDOC", prefix.join("usr/bin/rustdoc"));
                // Cargo sets these for what it runs; they are of another toolchain.
                cargo.env_remove("LD_LIBRARY_PATH").env_remove("RUSTUP_TOOLCHAIN");
                cargo.current_dir(workspace::root());
                cargo
            }
        };
        cargo.args(["--config", CONFIGURATION]);
        if let Some(linker) = self.own_linker(target) {
            // A later one wins over an earlier, and the environment over the table `env`.
            let linker = linker.display();
            cargo.arg("--config").arg(format!("target.{}.linker = '{linker}'", target.name));
            cargo.env(format!("CC_{}", target.name.replace('-', "_")), linker.to_string());
        }
        cargo
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Current => "the toolchain in use".to_owned(),
            Self::Unpacked(prefix) => prefix.display().to_string(),
        }
    }
}
