//! The Rust toolchain that builds for a target, and what it needs around it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::cross::target::Target;
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
        // The default is that of cross/setup.sh.
        let prefix = env::var_os("CROSS_PREFIX").unwrap_or_else(|| "/opt/debian-cross".into());
        let known = [Self::Current, Self::Unpacked(prefix.into())];
        let Some(found) = known.into_iter().find(|toolchain| toolchain.has(target)) else {
            bail!(
                "no Rust toolchain here has the standard library of {name}: `rustup target add {name}`, or, where rustup cannot \
                 download, `cross/setup.sh {name}` as root on Debian 12",
                name = target.name
            );
        };
        let linker = found.linker(target);
        if !linker.is_file() && workspace::on_path(&linker.to_string_lossy()).is_none() {
            bail!(
                "{} is missing, which links for {} (Debian: {})",
                linker.display(),
                target.name,
                target.package
            );
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

    /// What links, and compiles what crates have of C.
    fn linker(&self, target: &Target) -> PathBuf {
        match (self, target.musl_prefix) {
            // GCC with the headers of musl.
            (Self::Unpacked(prefix), Some(musl)) => prefix.join(format!("bin/{musl}-gcc")),
            _ => target.gcc.into(),
        }
    }

    /// Cargo, with what the target needs in its environment.
    pub(super) fn cargo(&self, target: &Target) -> Command {
        let mut cargo = match self {
            Self::Current => workspace::cargo(),
            Self::Unpacked(prefix) => {
                let mut cargo = Command::new(prefix.join("usr/bin/cargo"));
                cargo.env("RUSTC", prefix.join("usr/bin/rustc"));
                // Cargo sets these for what it runs; they are of another toolchain.
                cargo.env_remove("LD_LIBRARY_PATH").env_remove("RUSTUP_TOOLCHAIN");
                cargo.current_dir(workspace::root());
                cargo
            }
        };
        let linker = self.linker(target);
        let shouted = target.name.to_uppercase().replace('-', "_");
        let quiet = target.name.replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{shouted}_LINKER"), &linker);
        cargo.env(format!("CC_{quiet}"), &linker);
        if let Some(emulator) = target.emulator {
            cargo.env(format!("CARGO_TARGET_{shouted}_RUNNER"), emulator);
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
