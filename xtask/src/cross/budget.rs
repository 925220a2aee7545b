//! How large the programs may be: `cross/budgets.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::cross::target::Target;

/// Bytes by target and program.
#[derive(Debug)]
pub(super) struct Budgets(BTreeMap<String, BTreeMap<String, u64>>);

impl Budgets {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or names a target that there is not.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let text = fs::read_to_string(path).with_context(named)?;
        Self::parse(&text).with_context(named)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let budgets: BTreeMap<String, BTreeMap<String, u64>> = toml::from_str(text)?;
        for name in budgets.keys() {
            ensure!(Target::named(name).is_some(), "{name} is no target");
        }
        Ok(Self(budgets))
    }

    /// The most bytes that `program` may have; none if nothing is said.
    pub(super) fn of(&self, target: &Target, program: &str) -> Option<u64> {
        self.0.get(target.name)?.get(program).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budgets_of_the_repository_are_of_known_targets() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cross/budgets.toml");
        let budgets = Budgets::read(&path).unwrap();
        let agent = Target::named("aarch64-unknown-linux-musl").unwrap();
        assert!(budgets.of(agent, "picket-agent").is_some());
        assert_eq!(budgets.of(agent, "picket-spy"), None);
    }

    #[test]
    fn unknown_targets_are_errors() {
        let error = Budgets::parse("[mips-unknown-none]\npicket = 1\n").unwrap_err();
        assert!(error.to_string().contains("mips-unknown-none is no target"), "{error}");
    }
}
