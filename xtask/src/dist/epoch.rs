//! The time that all files of a package bear, so that the same sources make the same packages.

use std::env;
use std::fmt;
use std::process::Command;

use anyhow::Context as _;

use crate::dist::output;
use crate::workspace;

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

impl Epoch {
    /// `SOURCE_DATE_EPOCH` if it is set (<https://reproducible-builds.org/specs/source-date-epoch/>), else the time of
    /// the commit that is checked out.
    ///
    /// # Errors
    ///
    /// When the variable is no number, or there is neither it nor a repository.
    pub(super) fn find() -> anyhow::Result<Self> {
        if let Ok(variable) = env::var("SOURCE_DATE_EPOCH") {
            return Self::parse(&variable).context("SOURCE_DATE_EPOCH");
        }
        let mut git = Command::new("git");
        git.current_dir(workspace::root()).args(["log", "-1", "--format=%ct"]);
        let time = output(&mut git)
            .context("packages bear the time of the commit; without git, set SOURCE_DATE_EPOCH")?;
        Self::parse(&String::from_utf8_lossy(&time))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        text.parse().map(Self).with_context(|| format!("{text} is no time in seconds"))
    }

    /// For the changelog of Debian: `Mon, 23 Nov 2026 13:00:00 +0000`.
    pub(super) fn rfc_2822(self) -> anyhow::Result<String> {
        let mut date = Command::new("date");
        date.env("LC_ALL", "C").args(["--utc", "--rfc-email", "--date", &format!("@{self}")]);
        Ok(String::from_utf8_lossy(&output(&mut date)?).trim().to_owned())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds() {
        assert_eq!(Epoch::parse("1700000000\n").unwrap(), Epoch(1_700_000_000));
        for bad in ["", "-1", "yesterday"] {
            assert!(Epoch::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_changelog_has_the_time_in_words() {
        assert_eq!(Epoch(0).rfc_2822().unwrap(), "Thu, 01 Jan 1970 00:00:00 +0000");
    }
}
