//! The faults there are, and what each of them needs.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::Bus;

/// A class of faults. Rows are those of docs/reliability.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Row 1: an agent is killed (SIGKILL), and started again.
    AgentKill,
    /// Row 4: an agent stands still (SIGSTOP) and goes on.
    AgentFreeze,
    /// An agent is stopped in order (SIGTERM), and started again.
    AgentRestart,
    /// Row 2: a server is killed, and started again.
    ServerKill,
    /// Row 3: a server stands still and goes on.
    ServerFreeze,
    /// A server is stopped in order, and started again.
    ServerRestart,
    /// Row 5: a connection is half-open: either side never hears of the other again.
    HalfOpen,
    /// Row 6, and 28 with less room than an agent needs: delay, jitter, and a limit of speed.
    Slow,
    /// Row 7: a connection is cut with data under way, by FIN or RST.
    Cut,
    /// Row 8: bits are flipped on the way.
    Damage,
    /// Rows 9 and 29: one direction passes nothing, and takes nothing once its buffers are full.
    OneWay,
    /// An agent and all servers are parted in both directions.
    Partition,
    /// Row 27: the connections of all agents are cut at once.
    Herd,
    /// Row 17: configurations that are refused, and some that are not.
    Config,
    /// Row 30: a second process with the id of an agent, and a state of its own.
    Twin,
    /// Row 30: a second process with a copy of an agent's state.
    Clone,
    /// Row 18: the disk with an agent's state is full, while the agent has no server.
    AgentDisk,
    /// Row 19: the disk with a server's data is full.
    ServerDisk,
    /// Row 22: an agent is killed, its spool is damaged, and it is started again.
    SpoolDamage,
    /// Rows 10 and 11: Kafka is killed, and started again.
    KafkaKill,
    /// Rows 10 and 11: Kafka is stopped in order, and started again.
    KafkaStop,
    /// Row 13 while all runs: etcd is killed, and started again.
    EtcdKill,
}

/// What a fault takes for itself while it lasts: no other fault has the same part of the same thing then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    AgentProcess,
    /// All links of one agent.
    AgentLinks,
    /// Process and links.
    WholeAgent,
    /// Of the one agent that has a small disk, process and links.
    AgentWithDisk,
    /// Process and disk.
    Server,
    Fleet,
    Kafka,
    Etcd,
}

impl Fault {
    /// All there are.
    pub const ALL: [Self; 22] = [
        Self::AgentKill,
        Self::AgentFreeze,
        Self::AgentRestart,
        Self::ServerKill,
        Self::ServerFreeze,
        Self::ServerRestart,
        Self::HalfOpen,
        Self::Slow,
        Self::Cut,
        Self::Damage,
        Self::OneWay,
        Self::Partition,
        Self::Herd,
        Self::Config,
        Self::Twin,
        Self::Clone,
        Self::AgentDisk,
        Self::ServerDisk,
        Self::SpoolDamage,
        Self::KafkaKill,
        Self::KafkaStop,
        Self::EtcdKill,
    ];

    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentKill => "agent-kill",
            Self::AgentFreeze => "agent-freeze",
            Self::AgentRestart => "agent-restart",
            Self::ServerKill => "server-kill",
            Self::ServerFreeze => "server-freeze",
            Self::ServerRestart => "server-restart",
            Self::HalfOpen => "half-open",
            Self::Slow => "slow",
            Self::Cut => "cut",
            Self::Damage => "damage",
            Self::OneWay => "one-way",
            Self::Partition => "partition",
            Self::Herd => "herd",
            Self::Config => "config",
            Self::Twin => "twin",
            Self::Clone => "clone",
            Self::AgentDisk => "agent-disk",
            Self::ServerDisk => "server-disk",
            Self::SpoolDamage => "spool-damage",
            Self::KafkaKill => "kafka-kill",
            Self::KafkaStop => "kafka-stop",
            Self::EtcdKill => "etcd-kill",
        }
    }

    /// Whether it can happen in a fleet with this bus.
    pub(super) fn fits(self, bus: Bus) -> bool {
        match (self, bus) {
            (Self::KafkaKill | Self::KafkaStop | Self::EtcdKill, Bus::Embedded) => false,
            // What it keeps there beside Kafka and etcd is little and changes seldom.
            (Self::ServerDisk, Bus::Kafka) => false,
            (_, Bus::Embedded | Bus::Kafka) => true,
        }
    }

    pub(super) fn domain(self) -> Domain {
        match self {
            Self::AgentKill | Self::AgentFreeze | Self::AgentRestart => Domain::AgentProcess,
            Self::Twin | Self::Clone | Self::SpoolDamage => Domain::WholeAgent,
            Self::AgentDisk => Domain::AgentWithDisk,
            Self::ServerKill | Self::ServerFreeze | Self::ServerRestart | Self::ServerDisk => {
                Domain::Server
            }
            Self::HalfOpen
            | Self::Slow
            | Self::Cut
            | Self::Damage
            | Self::OneWay
            | Self::Partition => Domain::AgentLinks,
            Self::Config => Domain::AgentLinks,
            Self::Herd => Domain::Fleet,
            Self::KafkaKill | Self::KafkaStop => Domain::Kafka,
            Self::EtcdKill => Domain::Etcd,
        }
    }

    /// How long it lasts: what is down comes back then, what is held flows on.
    pub(super) fn lasts(self) -> RangeInclusive<Duration> {
        let milliseconds = |from, to| Duration::from_millis(from)..=Duration::from_millis(to);
        match self {
            Self::AgentKill | Self::AgentRestart => milliseconds(200, 3_000),
            Self::ServerKill | Self::ServerRestart => milliseconds(200, 5_000),
            Self::AgentFreeze => milliseconds(2_000, 25_000),
            // A peer is taken for dead after 20 s at most: some wake up before, and some as zombies.
            Self::ServerFreeze => milliseconds(2_000, 25_000),
            Self::Slow => milliseconds(3_000, 12_000),
            Self::OneWay | Self::Partition => milliseconds(3_000, 25_000),
            // They are over at once; what follows from them takes its time.
            Self::HalfOpen | Self::Cut | Self::Herd | Self::Damage | Self::Config => {
                milliseconds(1_000, 2_000)
            }
            Self::Twin | Self::Clone => milliseconds(4_000, 10_000),
            // What is left of the last page of a file takes records of some seconds.
            Self::AgentDisk => milliseconds(14_000, 20_000),
            Self::ServerDisk => milliseconds(4_000, 10_000),
            Self::SpoolDamage => milliseconds(4_000, 7_000),
            Self::KafkaKill | Self::KafkaStop | Self::EtcdKill => milliseconds(2_000, 10_000),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|fault| fault.name() == name);
        named.ok_or_else(|| format!("the faults are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
        }
        assert!("flood".parse::<Fault>().unwrap_err().contains("agent-kill"));
    }
}
