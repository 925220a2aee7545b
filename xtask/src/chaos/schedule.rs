//! When which fault strikes what: drawn from a seed before anything runs.
//!
//! Each class strikes at least once, where there is time; beyond that they follow each other at random. Faults of different things
//! overlap; two of the same thing never do.

use std::fmt;
use std::time::Duration;

use super::fault::{Domain, Fault};
use super::random::Random;

/// The mean time between two strikes once each class has struck.
const PACE: Duration = Duration::from_millis(1_500);

/// How long a thing is left alone after a fault, so that the next one meets it at work.
const REST: Duration = Duration::from_secs(3);

/// The part of the time in which faults begin and end, in tenths: the rest is for what was cut short by others.
const BUSY_TENTHS: u32 = 9;

/// How often a place for one strike is looked for.
const TRIES_MAX: usize = 400;

/// How large the fleet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) agents: usize,
    pub(super) servers: usize,
}

/// The agent whose state is on a small disk.
pub(super) const AGENT_WITH_DISK: usize = 0;

/// What a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Agent(usize),
    Server(usize),
    Fleet,
    Kafka,
    Etcd,
}

/// One fault at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strike {
    /// From the beginning of the faults.
    pub(super) at: Duration,
    pub(super) lasts: Duration,
    pub(super) fault: Fault,
    pub(super) target: Target,
    /// Decides what the fault leaves open, such as which bit.
    pub(super) seed: u64,
}

/// The faults of a run, in the order in which they begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) strikes: Vec<Strike>,
    /// Those that found no place.
    pub(super) left_out: Vec<Fault>,
}

impl Schedule {
    /// Draws the faults of a run of this length; the same arguments give the same schedule.
    pub(super) fn draw(seed: u64, length: Duration, faults: &[Fault], shape: Shape) -> Self {
        let mut random = Random::new(seed);
        let busy = length * BUSY_TENTHS / 10;
        let mut drawing = Self { strikes: Vec::new(), left_out: Vec::new() };
        let mut order = faults.to_vec();
        random.shuffle(&mut order);
        // What strikes all is the hardest to place, and then what lasts longest.
        order.sort_by_key(|fault| {
            (fault.domain() != Domain::Fleet, std::cmp::Reverse(*fault.lasts().start()))
        });
        for fault in order {
            if !drawing.place(fault, busy, shape, &mut random) {
                drawing.left_out.push(fault);
            }
        }
        let wanted = usize::try_from(busy.as_millis() / PACE.as_millis()).unwrap_or(usize::MAX);
        for _ in drawing.strikes.len()..wanted {
            if faults.is_empty() {
                break;
            }
            let fault = *random.choose(faults);
            drawing.place(fault, busy, shape, &mut random);
        }
        drawing.strikes.sort_by_key(|strike| strike.at);
        drawing
    }

    /// One more strike of `fault`, after all others; for a class that met nothing.
    pub(super) fn again(fault: Fault, shape: Shape, seed: u64) -> Strike {
        let mut random = Random::new(seed);
        let lasts = random.between(fault.lasts());
        let target = target(fault, shape, &mut random);
        Strike { at: Duration::ZERO, lasts, fault, target, seed: random.next() }
    }

    fn place(&mut self, fault: Fault, busy: Duration, shape: Shape, random: &mut Random) -> bool {
        let range = fault.lasts();
        // A short run has short faults.
        let longest = (*range.end()).min(busy / 3).max(*range.start());
        for tried in 0..TRIES_MAX {
            // What is short fits where what is long did not.
            let most = if tried < TRIES_MAX / 2 { longest } else { *range.start() };
            let lasts = random.between(*range.start()..=most);
            let Some(latest) = busy.checked_sub(lasts) else { return false };
            let strike = Strike {
                at: random.between(Duration::ZERO..=latest),
                lasts,
                fault,
                target: target(fault, shape, random),
                seed: random.next(),
            };
            if self.strikes.iter().all(|other| !strike.disturbs(other)) {
                self.strikes.push(strike);
                return true;
            }
        }
        false
    }
}

impl Strike {
    /// When it is over, from the beginning of the faults.
    pub(super) fn ends(&self) -> Duration {
        self.at + self.lasts
    }

    fn disturbs(&self, other: &Self) -> bool {
        let at_once = self.at < other.ends() + REST && other.at < self.ends() + REST;
        at_once && self.meets(other)
    }

    /// Whether the two take the same part of the same thing.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let domains = [self.fault.domain(), other.fault.domain()];
        if domains.contains(&Domain::Fleet) {
            // It cuts links, which must be there to be cut.
            return !domains.contains(&Domain::AgentProcess)
                && !domains.contains(&Domain::Kafka)
                && !domains.contains(&Domain::Etcd);
        }
        if self.target != other.target {
            return false;
        }
        !matches!(
            domains,
            [Domain::AgentProcess, Domain::AgentLinks] | [Domain::AgentLinks, Domain::AgentProcess]
        )
    }
}

fn target(fault: Fault, shape: Shape, random: &mut Random) -> Target {
    match fault.domain() {
        Domain::AgentProcess | Domain::AgentLinks | Domain::WholeAgent => {
            Target::Agent(random.below(shape.agents))
        }
        Domain::AgentWithDisk => Target::Agent(AGENT_WITH_DISK),
        Domain::Server => Target::Server(random.below(shape.servers)),
        Domain::Fleet => Target::Fleet,
        Domain::Kafka => Target::Kafka,
        Domain::Etcd => Target::Etcd,
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(index) => write!(f, "{}", agent_id(*index)),
            Self::Server(index) => write!(f, "server-{index}"),
            Self::Fleet => f.write_str("all agents"),
            Self::Kafka => f.write_str("kafka"),
            Self::Etcd => f.write_str("etcd"),
        }
    }
}

/// What the agent with this number is called.
pub(super) fn agent_id(index: usize) -> String {
    format!("edge-{index}")
}

#[cfg(test)]
mod tests {
    use super::super::Bus;
    use super::*;

    const SHAPE: Shape = Shape { agents: 4, servers: 2 };

    fn faults(bus: Bus) -> Vec<Fault> {
        Fault::ALL.into_iter().filter(|fault| fault.fits(bus)).collect()
    }

    #[test]
    fn a_seed_gives_one_schedule() {
        let draw = |seed| Schedule::draw(seed, Duration::from_secs(60), &faults(Bus::Kafka), SHAPE);
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_minute_has_room_for_every_class() {
        for bus in [Bus::Embedded, Bus::Kafka] {
            let faults = faults(bus);
            let shape = Shape { servers: if bus == Bus::Kafka { 2 } else { 1 }, ..SHAPE };
            for seed in 0..200 {
                let schedule = Schedule::draw(seed, Duration::from_secs(60), &faults, shape);
                assert_eq!(schedule.left_out, [], "seed {seed}");
                for fault in &faults {
                    assert!(schedule.strikes.iter().any(|strike| strike.fault == *fault));
                }
            }
        }
    }

    #[test]
    fn a_thing_has_one_fault_at_a_time_and_all_end_in_time() {
        let length = Duration::from_secs(180);
        for seed in 0..50 {
            let Schedule { strikes, .. } =
                Schedule::draw(seed, length, &faults(Bus::Embedded), Shape { servers: 1, ..SHAPE });
            assert!(60 < strikes.len(), "{}", strikes.len());
            for (index, strike) in strikes.iter().enumerate() {
                assert!(strike.ends() <= length);
                for other in &strikes[index + 1..] {
                    assert!(strike.at <= other.at);
                    let apart = strike.target != other.target || strike.ends() + REST <= other.at;
                    let links_and_process = strike.fault.domain() != other.fault.domain();
                    assert!(apart || links_and_process, "{strike:?} and {other:?}");
                }
            }
        }
    }

    #[test]
    fn one_class_alone_strikes_again_and_again() {
        let length = Duration::from_secs(60);
        let schedule = Schedule::draw(1, length, &[Fault::AgentKill], SHAPE);
        assert!(10 < schedule.strikes.len());
        assert!(Schedule::draw(1, length, &[], SHAPE).strikes.is_empty());
    }
}
