//! What kind of world a seed makes: how many servers and what bus, how its network is, and which faults come how often.

use agent_std::spool::Order;

use crate::random::Random;

/// Mean times between faults, in simulated milliseconds; 0: never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// One stream is reset.
    pub(crate) reset: u64,
    /// One path is closed, in one direction or both.
    pub(crate) block: u64,
    /// All paths of a server are closed.
    pub(crate) isolation: u64,
    pub(crate) agent_kill: u64,
    pub(crate) agent_stop: u64,
    pub(crate) agent_freeze: u64,
    pub(crate) server_kill: u64,
    pub(crate) server_stop: u64,
    pub(crate) server_freeze: u64,
    /// The bus takes nothing.
    pub(crate) store_full: u64,
    /// The bus takes seconds.
    pub(crate) store_slow: u64,
    /// A wall clock jumps.
    pub(crate) clock_step: u64,
    /// Messages damaged, of a million.
    pub(crate) damage_per_million: u64,
    /// The disk of a host takes nothing.
    pub(crate) disk_full: u64,
}

/// A world before it begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) agents: usize,
    pub(crate) servers: usize,
    /// One bus for all servers, as Kafka is; else one of the only server's own.
    pub(crate) is_shared: bool,
    /// How long faults come, in milliseconds.
    pub(crate) duration_ms: u64,
    /// Time between snapshots.
    pub(crate) interval_ms: u64,
    /// Least and greatest time that a message takes one way.
    pub(crate) latency_ms: (u64, u64),
    pub(crate) faults: Faults,
    /// Longest time that a block, a freeze, a full disk or an absence lasts.
    pub(crate) trouble_ms: u64,
    /// Mean time between commands to all agents together; 0: none.
    pub(crate) command_ms: u64,
    /// Mean time between pushed configurations.
    pub(crate) config_ms: u64,
    /// Whether a pushed configuration is on trial first.
    pub(crate) has_trials: bool,
    /// Bytes of each agent's ring.
    pub(crate) ring: RingSize,
    /// What the hosts' agents keep on their disks.
    pub(crate) keeping: Keeping,
}

/// What outlives the process of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// Nothing.
    Nothing,
    /// Commands that have begun, and how far the boot can have come.
    Books,
    /// Records as well.
    Spool { bytes: u64, after_ms: u64, order: Order },
}

/// How many bytes of records an agent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingSize {
    /// 4 KiB: about a hundred records.
    Small,
    /// 16 KiB.
    Medium,
    /// As on a host.
    Full,
}

/// The names of plans, for `--plan`.
pub const NAMES: [&str; 7] =
    ["everything", "network", "failover", "servers", "agents", "storage", "outage"];

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;

impl Plan {
    /// The plan `name` with what the seed makes of it.
    pub(crate) fn draw(name: &'static str, agents: usize, hours: u64, random: &mut Random) -> Self {
        let per_agent = |mean: u64| mean / agents.max(1) as u64;
        let network = Faults {
            reset: per_agent(8 * MINUTE),
            block: per_agent(12 * MINUTE),
            isolation: 25 * MINUTE,
            damage_per_million: 500,
            ..Faults::default()
        };
        let agents_only = Faults {
            agent_kill: per_agent(30 * MINUTE),
            agent_stop: per_agent(60 * MINUTE),
            agent_freeze: per_agent(30 * MINUTE),
            clock_step: per_agent(60 * MINUTE),
            disk_full: per_agent(90 * MINUTE),
            ..Faults::default()
        };
        let servers_only = Faults {
            server_kill: 12 * MINUTE,
            server_stop: 30 * MINUTE,
            server_freeze: 15 * MINUTE,
            clock_step: 60 * MINUTE,
            ..Faults::default()
        };
        let storage = Faults {
            store_full: 10 * MINUTE,
            store_slow: 10 * MINUTE,
            server_kill: 20 * MINUTE,
            ..Faults::default()
        };
        let faults = match name {
            "network" => network,
            "agents" => Faults { reset: network.reset * 2, ..agents_only },
            "servers" => servers_only,
            "storage" => storage,
            "failover" => Faults {
                block: network.block,
                isolation: 10 * MINUTE,
                store_slow: 15 * MINUTE,
                ..servers_only
            },
            "outage" => Faults {
                agent_kill: per_agent(120 * MINUTE),
                disk_full: per_agent(240 * MINUTE),
                isolation: 60 * MINUTE,
                server_kill: 90 * MINUTE,
                store_full: 60 * MINUTE,
                ..Faults::default()
            },
            _ => Faults {
                reset: network.reset * 2,
                block: network.block * 2,
                isolation: network.isolation * 2,
                agent_kill: agents_only.agent_kill * 2,
                agent_stop: agents_only.agent_stop * 2,
                agent_freeze: agents_only.agent_freeze * 2,
                clock_step: 30 * MINUTE,
                server_kill: 25 * MINUTE,
                server_stop: 60 * MINUTE,
                server_freeze: 30 * MINUTE,
                store_full: 30 * MINUTE,
                store_slow: 30 * MINUTE,
                damage_per_million: 200,
                disk_full: agents_only.disk_full * 2,
            },
        };
        let is_shared = name == "failover" || random.happens(600_000);
        let servers = if is_shared { 2 } else { 1 };
        let trouble_ms = match name {
            "outage" => 120 * MINUTE,
            _ => *random.pick(&[5 * SECOND, 30 * SECOND, 90 * SECOND, 5 * MINUTE, 15 * MINUTE]),
        };
        let ring = match random.between(0, 9) {
            0 => RingSize::Full,
            1..=4 => RingSize::Medium,
            _ => RingSize::Small,
        };
        let keeping = match random.between(0, 9) {
            0 | 1 => Keeping::Nothing,
            2 | 3 => Keeping::Books,
            _ => Keeping::Spool {
                bytes: *random.pick(&[64 << 10, 64 << 10, 256 << 10]),
                after_ms: *random.pick(&[0, 10 * SECOND, MINUTE]),
                order: *random.pick(&[Order::OldestFirst, Order::OldestFirst, Order::NewestFirst]),
            },
        };
        // Only an outage of hours fills a spool, and only with records every second.
        let interval_ms = match name {
            "outage" => *random.pick(&[SECOND, 5 * SECOND, 10 * SECOND]),
            _ => *random.pick(&[2000, 5000, 5000, 10_000, 10_000, 15_000, 30_000]),
        };
        let fastest = random.between(0, 40);
        let slowest = match random.between(0, 9) {
            0 => fastest + 3000,
            1 | 2 => fastest + 400,
            _ => fastest + 20,
        };
        Self {
            name,
            agents,
            servers,
            is_shared,
            duration_ms: hours * 60 * MINUTE,
            interval_ms,
            latency_ms: (fastest, slowest),
            faults,
            trouble_ms,
            command_ms: *random.pick(&[10 * SECOND, MINUTE, 3 * MINUTE]),
            config_ms: *random.pick(&[3 * MINUTE, 10 * MINUTE]),
            has_trials: random.happens(200_000),
            ring,
            keeping,
        }
    }
}
