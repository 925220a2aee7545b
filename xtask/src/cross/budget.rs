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
    use crate::cross::PROGRAMS;
    use crate::cross::target::TARGETS;

    #[test]
    fn every_program_has_a_budget_on_every_target_that_can_be_tried() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cross/budgets.toml");
        let budgets = Budgets::read(&path).unwrap();
        for target in TARGETS.iter().filter(|target| target.is_in_debian) {
            for program in &PROGRAMS {
                let budget = budgets.of(target, program.name);
                assert!(budget.is_some(), "{} for {}", program.name, target.name);
            }
            // What README.md says of it.
            assert!(budgets.of(target, "picket-agent") < Some(3_000_000), "{}", target.name);
            assert_eq!(budgets.of(target, "picket-spy"), None);
        }
    }

    #[test]
    fn unknown_targets_are_errors() {
        let error = Budgets::parse("[mips-unknown-none]\npicket = 1\n").unwrap_err();
        assert!(error.to_string().contains("mips-unknown-none is no target"), "{error}");
    }
}
