//! The ledger of what damage took: kept in the database until retention has passed it, told until someone says
//! that it was heard.

use agent_core::id::AgentId;
use prost::Message;
use proto::Boot;

use super::PARTITION;
use super::layout::Malformed;
use super::ranges::RangeSet;
use super::storage::{Failure, Storage};
use crate::contract::{Damage, LostRecords, Offset};
use crate::topic::Topic;

/// In the keyspace `state`: this, and then the number.
const KEY: &[u8] = b"damage.";

/// Ranges of offsets that one entry names; more are joined across the smallest gaps.
pub(super) const RANGES_MAX: usize = 1024;

/// Ranges of sequences that one entry names, of all boots together; more are not named.
pub(super) const RECORDS_MAX: usize = 16_384;

/// What one repair could not bring back of one topic.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Lost {
    /// As `Topic::ALL`.
    #[prost(uint32, tag = "1")]
    topic: u32,
    /// First and last offset of each range, one after the other.
    #[prost(uint64, repeated, tag = "2")]
    offsets: Vec<u64>,
    #[prost(message, repeated, tag = "3")]
    records: Vec<Records>,
    /// Offsets whose record nothing names for certain.
    #[prost(uint64, tag = "4")]
    unnamed: u64,
    /// Whoever publishes losses has heard of it.
    #[prost(bool, tag = "5")]
    pub(super) told: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Records {
    #[prost(string, tag = "1")]
    agent: String,
    #[prost(uint64, tag = "2")]
    boot_counter: u64,
    #[prost(fixed64, tag = "3")]
    boot_nonce: u64,
    #[prost(uint64, tag = "4")]
    first: u64,
    #[prost(uint64, tag = "5")]
    last: u64,
}

impl Lost {
    pub(super) fn new(
        topic: Topic,
        mut offsets: RangeSet,
        records: Vec<LostRecords>,
        unnamed: u64,
    ) -> Self {
        offsets.coarsen(RANGES_MAX);
        let records = records.into_iter().take(RECORDS_MAX).map(|lost| Records {
            agent: lost.agent.as_str().to_owned(),
            boot_counter: lost.boot.counter,
            boot_nonce: lost.boot.nonce,
            first: lost.first,
            last: lost.last,
        });
        Self {
            topic: topic as u32,
            offsets: offsets.iter().flat_map(|range| [range.start, range.end - 1]).collect(),
            records: records.collect(),
            unnamed,
            told: false,
        }
    }

    pub(super) fn topic(&self) -> Result<Topic, Malformed> {
        Topic::ALL.into_iter().find(|topic| *topic as u32 == self.topic).ok_or(Malformed)
    }

    pub(super) fn offsets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.offsets.chunks_exact(2).map(|pair| (pair[0], pair[1]))
    }

    fn into_damage(self, number: u64) -> Result<Damage, Malformed> {
        let records = self.records.iter().map(|lost| {
            let agent: AgentId = lost.agent.parse().map_err(|_| Malformed)?;
            let boot = Boot { counter: lost.boot_counter, nonce: lost.boot_nonce };
            Ok(LostRecords { agent, boot, first: lost.first, last: lost.last })
        });
        Ok(Damage {
            number,
            topic: self.topic()?,
            partition: PARTITION,
            offsets: self.offsets().map(|(first, last)| (Offset(first), Offset(last))).collect(),
            records: records.collect::<Result<_, Malformed>>()?,
            unnamed: self.unnamed,
        })
    }
}

fn key(number: u64) -> Vec<u8> {
    [KEY, &number.to_be_bytes()].concat()
}

/// Whether a key of the keyspace `state` is one of the ledger's.
pub(super) fn is_key(bytes: &[u8]) -> bool {
    bytes.starts_with(KEY) && bytes.len() == KEY.len() + size_of::<u64>()
}

/// All entries, by number.
pub(super) fn entries(storage: &Storage) -> Result<Vec<(u64, Lost)>, Failure> {
    let entries = storage.state.prefix(KEY).map(|entry| {
        let (key, value) = entry.into_inner()?;
        let number = key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes)).ok_or(Malformed)?;
        Ok((number, Lost::decode(&*value).map_err(|_| Malformed)?))
    });
    entries.collect()
}

/// What nobody has heard of yet.
pub(super) fn untold(storage: &Storage) -> Result<Vec<Damage>, Failure> {
    let untold = entries(storage)?.into_iter().filter(|(_, lost)| !lost.told);
    untold.map(|(number, lost)| Ok(lost.into_damage(number)?)).collect()
}

/// What of `topic` is known to be gone.
pub(super) fn known(storage: &Storage, topic: Topic) -> Result<RangeSet, Failure> {
    let mut known = RangeSet::default();
    for (_, lost) in entries(storage)? {
        if lost.topic()? == topic {
            lost.offsets().for_each(|(first, last)| known.insert(first..last.saturating_add(1)));
        }
    }
    Ok(known)
}

/// Adds entries, and removes those that lie wholly before `first` of their topic. Not durable by itself.
pub(super) fn record(
    storage: &Storage,
    lost: Vec<Lost>,
    first: impl Fn(Topic) -> u64,
) -> Result<(), Failure> {
    let mut batch = storage.batch(lost.len());
    let old = entries(storage)?;
    let next = old.last().map_or(0, |(number, _)| number + 1);
    for (number, entry) in &old {
        let topic = entry.topic()?;
        if entry.told && entry.offsets().all(|(_, last)| last < first(topic)) {
            batch.remove(&storage.state, key(*number));
        }
    }
    for (number, lost) in (next..).zip(lost) {
        batch.insert(&storage.state, key(number), lost.encode_to_vec());
    }
    Ok(batch.commit()?)
}

/// Notes durably that everything up to `number` was heard.
pub(super) fn mark_told(storage: &Storage, number: u64) -> Result<(), Failure> {
    let mut batch = storage.batch(1);
    for (entry, mut lost) in entries(storage)? {
        if entry <= number && !lost.told {
            lost.told = true;
            batch.insert(&storage.state, key(entry), lost.encode_to_vec());
        }
    }
    Ok(batch.commit()?)
}
