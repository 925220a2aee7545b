//! What a start would make of the remote configuration that was kept, without starting and without writing.

use std::time::Duration;

use agent_core::time::Instant;

use super::trial::{Memory, Trial, Version};
use super::{Keeper, Layers};

/// What a start would begin with.
#[derive(Debug)]
pub(crate) struct Look {
    /// The remote document that would be in force; revision 0 is none.
    pub(crate) version: Version,
    /// What a start would say in the log, and go on without.
    pub(crate) troubles: Vec<String>,
}

/// Puts what `keeper` has kept into `layers`, as [`Configuration::open`](super::Configuration::open) would with the same
/// `window`.
pub(crate) fn look(layers: &mut Layers, keeper: &Keeper, window: Duration) -> Look {
    let mut troubles = Vec::new();
    let memory = keeper.read().unwrap_or_else(|error| {
        let path = keeper.path();
        troubles.push(format!("{}: {:#}", path.display(), anyhow::Error::from(error)));
        Memory::default()
    });
    let (mut trial, rolled_back) = Trial::start(memory, window, Instant::default());
    if let Some(rolled_back) = rolled_back {
        let (revision, reason) = (rolled_back.revision, rolled_back.reason);
        troubles.push(format!("revision {revision} would be rolled back: {reason}"));
    }
    loop {
        let version = trial.in_force().clone();
        match layers.push(&version.text) {
            Ok(candidate) => {
                layers.adopt(candidate);
                return Look { version, troubles };
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                troubles.push(format!("kept revision {}: {error:#}", version.revision));
                trial.handle_unusable();
                // Without a document the host's layers stand alone, as they do already.
                if version == Version::default() {
                    return Look { version, troubles };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::config::Document;

    use super::*;
    use crate::config::trial::Source;
    use crate::config::{Configuration, Offer};

    #[test]
    fn a_look_finds_what_a_start_would_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let window = Duration::from_secs(120);
        let layers = || Layers::new(&[], Document::default(), Document::default());
        let keeper = || Keeper::new(directory.path(), "edge-01".parse().unwrap());
        let looked = look(&mut layers(), &keeper(), window);
        assert_eq!((looked.version, looked.troubles), (Version::default(), Vec::new()));
        let now = Instant::default();
        let (mut configuration, _) = Configuration::open(layers(), Some(keeper()), window, now);
        let text = r#"{"interval": 9}"#.to_owned();
        let version = Version { source: Source::Server, revision: 3, text };
        let Offer::New(Ok(candidate)) = configuration.offer(&version) else { panic!("refused") };
        configuration.adopt(now, version.clone(), candidate);
        // On trial: each start counts, but a look does not, however often.
        for _ in 0..5 {
            let mut layers = layers();
            let looked = look(&mut layers, &keeper(), window);
            assert_eq!((looked.version, looked.troubles), (version.clone(), Vec::new()));
            assert_eq!(layers.config().unwrap().settings().interval, Duration::from_secs(9));
        }
        std::fs::write(keeper().path(), "spoilt").unwrap();
        let looked = look(&mut layers(), &keeper(), window);
        assert_eq!(looked.version, Version::default());
        assert!(looked.troubles[0].contains("configuration"), "{:?}", looked.troubles);
        assert_eq!(std::fs::read(keeper().path()).unwrap(), b"spoilt");
    }
}
