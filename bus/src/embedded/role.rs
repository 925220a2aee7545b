//! The keyspaces of the storage library, by what they are to us.

use crate::topic::Topic;

/// What a keyspace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Role {
    /// The floors of the topics, the revision of the documents, and what damage took.
    State,
    Documents,
    History,
    /// Records by offset.
    Log(Topic),
    /// Which record is whose.
    Index(Topic),
}

impl Role {
    pub(super) const COUNT: usize = 3 + 2 * Topic::ALL.len();

    /// All of them, in the order in which the mark names them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let of_topics =
            Topic::ALL.into_iter().flat_map(|topic| [Self::Log(topic), Self::Index(topic)]);
        of_topics.chain([Self::State, Self::Documents, Self::History])
    }

    /// As the library knows it.
    pub(super) fn name(self) -> String {
        match self {
            Self::State => "state".to_owned(),
            Self::Documents => "documents".to_owned(),
            Self::History => "document-history".to_owned(),
            Self::Log(topic) => format!("{topic}.log"),
            Self::Index(topic) => format!("{topic}.index"),
        }
    }

    /// The number that the library gives it in a new database, where it numbers keyspaces from 1 as they are made.
    pub(super) fn usual_number(self) -> u64 {
        Self::all().zip(1..).find(|(role, _)| *role == self).map_or(0, |(_, number)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_numbered_from_one() {
        assert_eq!(Role::all().count(), Role::COUNT);
        let numbers: Vec<u64> = Role::all().map(Role::usual_number).collect();
        assert_eq!(numbers, (1..=Role::COUNT as u64).collect::<Vec<_>>());
    }
}
