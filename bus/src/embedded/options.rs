//! What can be set on the embedded bus, and the clock it reads.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::topic::Topic;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const DAY: Duration = Duration::from_secs(86_400);

/// How much of a topic is kept. Both limits hold, approximately: they are looked at every
/// [`Options::retention_interval`], and at once when a topic is over its bytes by more than a sixteenth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of records, counted before compression.
    pub bytes: u64,
    /// Age of a record: the time that the bus has lived since it took it. No step of the system's clock ages a record.
    /// Time while the bus was closed counts up to a day, as the clock tells it.
    pub age: Duration,
}

/// How an embedded database behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is kept of `monitoring-data`. Default: 1 GiB, 7 days.
    pub monitoring_data: Retention,
    /// What is kept of `commands`. Default: 64 MiB, 30 days.
    pub commands: Retention,
    /// What is kept of `command-responses`. Default: 64 MiB, 30 days.
    pub command_responses: Retention,
    /// What is kept of `agent-status`. Default: 64 MiB, 30 days.
    pub agent_status: Retention,
    /// How often retention is looked at. Default: 30 s.
    pub retention_interval: Duration,

    /// Memory for block cache and write buffers together. Default: 32 MiB; at least 8 MiB.
    ///
    /// A quarter is block cache. A write buffer is sealed and written out when it reaches an eighth
    /// (`monitoring-data`), a sixteenth (its index) or a thirty-second (each of the others) of it, and the
    /// writer waits while all buffers, sealed ones included, exceed three quarters. The storage library counts
    /// about 70 bytes of its own per record and not the slack of the allocator, so that the process takes
    /// somewhat more; `docs/decisions/0001-embedded-storage.md` has figures.
    pub memory_bytes: u64,
    /// Bytes of records that wait for the writer. When they are reached, `publish` waits. Default: 8 MiB.
    pub queue_bytes: u32,
    /// Largest encoded payload. Default: 256 KiB.
    pub record_bytes_max: usize,

    /// Where the time comes from. Default: the system's clock.
    pub clock: Clock,

    /// Makes a commit fail, for tests of what happens then.
    #[cfg(test)]
    pub(super) fault: Fault,
}

#[cfg(test)]
pub(super) type Fault = Arc<std::sync::atomic::AtomicBool>;

impl Default for Options {
    fn default() -> Self {
        let small = Retention { bytes: 64 * MIB, age: 30 * DAY };
        Self {
            monitoring_data: Retention { bytes: 1024 * MIB, age: 7 * DAY },
            commands: small,
            command_responses: small,
            agent_status: small,
            retention_interval: Duration::from_secs(30),
            memory_bytes: 32 * MIB,
            queue_bytes: 8 * 1024 * 1024,
            record_bytes_max: 256 * 1024,
            clock: Clock::system(),
            #[cfg(test)]
            fault: Fault::default(),
        }
    }
}

impl Options {
    pub(super) fn retention(&self, topic: Topic) -> Retention {
        match topic {
            Topic::MonitoringData => self.monitoring_data,
            Topic::Commands => self.commands,
            Topic::CommandResponses => self.command_responses,
            Topic::AgentStatus => self.agent_status,
        }
    }

    fn memory(&self) -> u64 {
        self.memory_bytes.max(8 * MIB)
    }

    pub(super) fn cache_bytes(&self) -> u64 {
        self.memory() / 4
    }

    /// Of all write buffers together. More than the shares below add up to, or the writer would wait for
    /// buffers that nobody empties.
    pub(super) fn write_buffers_bytes(&self) -> u64 {
        self.memory() / 4 * 3
    }

    pub(super) fn log_buffer_bytes(&self, topic: Topic) -> u64 {
        match topic {
            Topic::MonitoringData => self.memory() / 8,
            Topic::Commands | Topic::CommandResponses | Topic::AgentStatus => {
                self.small_buffer_bytes()
            }
        }
    }

    pub(super) fn index_buffer_bytes(&self, topic: Topic) -> u64 {
        match topic {
            Topic::MonitoringData => self.memory() / 16,
            Topic::Commands | Topic::CommandResponses | Topic::AgentStatus => {
                self.small_buffer_bytes()
            }
        }
    }

    pub(super) fn small_buffer_bytes(&self) -> u64 {
        self.memory() / 32
    }
}

/// A source of time: of the wall clock, which may step either way, and of a clock that only ever runs.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> i64 + Send + Sync>,
    running: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Clock {
    /// A clock that reads `unix_ms`, which gives Unix milliseconds and may step, and `running_ms`, which gives
    /// milliseconds since any moment and must not.
    pub fn new(
        unix_ms: impl Fn() -> i64 + Send + Sync + 'static,
        running_ms: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { wall: Arc::new(unix_ms), running: Arc::new(running_ms) }
    }

    /// The system's clocks.
    pub fn system() -> Self {
        let started = Instant::now();
        let unix_ms = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        };
        Self::new(unix_ms, move || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn unix_ms(&self) -> i64 {
        (self.wall)()
    }

    pub(super) fn running_ms(&self) -> u64 {
        (self.running)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_the_write_buffers_leave_room_for_sealed_ones() {
        let options = Options::default();
        let documents_history_and_state = 3 * options.small_buffer_bytes();
        let active: u64 = Topic::ALL
            .into_iter()
            .map(|topic| options.log_buffer_bytes(topic) + options.index_buffer_bytes(topic))
            .sum();
        let sealed = options.log_buffer_bytes(Topic::MonitoringData)
            + options.index_buffer_bytes(Topic::MonitoringData);
        let all = active + documents_history_and_state + sealed;
        assert!(all <= options.write_buffers_bytes());
    }
}
