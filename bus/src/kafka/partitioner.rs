//! Which partition a key belongs to, by the rules that Kafka clients have in common.

use agent_core::id::AgentId;
use crc::{CRC_32_ISO_HDLC, Crc};

use crate::contract::Partition;

/// Where keyed records of `key` are in a topic of `count` partitions.
///
/// The first is where we put them, and where the Java client and most others do (murmur2). The second is where
/// clients on librdkafka put them unless told otherwise (CRC-32), confluent-kafka for Python among them.
pub(super) fn partitions_of(key: &AgentId, count: u32) -> [Partition; 2] {
    let key = key.as_str().as_bytes();
    let crc = Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(key);
    [murmur2(key) & 0x7fff_ffff, crc].map(|hash| Partition(hash % count.max(1)))
}

/// MurmurHash2, 32 bits, with the seed of Kafka (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const MULTIPLIER: u32 = 0x5bd1_e995;

    let (words, tail) = bytes.as_chunks::<4>();
    #[expect(clippy::cast_possible_truncation, reason = "the hash takes the low 32 bits")]
    let mut hash = SEED ^ bytes.len() as u32;
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        word ^= word >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ word.wrapping_mul(MULTIPLIER);
    }
    if !tail.is_empty() {
        let mut word = [0; 4];
        word[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u32::from_le_bytes(word)).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_java_client() {
        // The vectors of librdkafka's own test (rdmurmur2.c), computed by the Java client.
        let vectors: [(&str, u32); 10] = [
            ("kafka", 0xd067_cf64),
            ("giberish123456789", 0x8f55_2b0c),
            ("1234", 0x9fc9_7b14),
            ("234", 0xe7c0_09ca),
            ("34", 0x8739_30da),
            ("4", 0x5a4b_5ca1),
            ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x7842_4f1c),
            ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x4a62_b377),
            ("eAmbleWillBeRemoved,ThePrePartThatIs", 0xe0e4_e09e),
            ("", 0x106e_08d9),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key:?}");
        }
    }

    #[test]
    fn partitions_are_within_the_topic() {
        for count in [0, 1, 2, 12, 97] {
            for name in ["a", "edge-1", "A.b_c-9"] {
                for partition in partitions_of(&name.parse().unwrap(), count) {
                    assert!(partition.0 < count.max(1));
                }
            }
        }
    }
}
