//! The deterministic simulation of picket: the real core of the agent and the real rules of the server, over a simulated
//! network, bus and clocks, in one process.
//!
//! A *seed* makes a *world*: some agents, one or two servers, a bus, and a plan of what goes wrong. The same seed makes
//! the same world and the same things happen in it, so a failure is shown again by its seed. [`run`] plays a world through
//! and checks it; `docs/simulation.md` says what is real, what is simulated and what is checked.
#![forbid(unsafe_code)]

mod random;
mod trace;

mod plan;
mod world;

mod bus;
mod host;
mod intervals;
mod network;
mod nodes;
mod operator;
mod trouble;

mod checker;
mod tally;

use agent_core::limits::RING_BYTES;

pub use plan::NAMES;
pub use tally::{Fault, Tally};

use crate::plan::{Plan, RingSize};
use crate::random::Random;
use crate::world::{Outcome, World};

/// After the faults have ended, within this simulated time everything must be delivered and every command ended.
pub const PEACE_MS: u64 = 240_000;

/// Time for the last streams and records when everybody has been asked to end.
const FAREWELL_MS: u64 = 30_000;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Agents in each world, at least 1.
    pub agents: usize,
    /// Simulated hours in which faults come, at least 1.
    pub hours: u64,
    /// One of [`NAMES`]; none: each seed has its own.
    pub plan: Option<&'static str>,
    /// Lines of the trace that a failure shows.
    pub trace_lines: usize,
}

/// What became of a world.
#[derive(Clone, Debug)]
pub struct Report {
    /// What made it.
    pub seed: u64,
    /// What went wrong in it, by name.
    pub plan: &'static str,
    /// Its figures.
    pub tally: Tally,
    /// Two runs of the same things have the same, and others have not.
    pub digest: u64,
    /// The promise that was broken, if one was.
    pub broken: Option<String>,
    /// The end of what happened, as text.
    pub trace: String,
}

/// Plays the world of `seed` through, and checks it.
pub fn run(seed: u64, options: Options) -> Report {
    let mut random = Random::new(seed);
    // Neighbouring seeds have different plans.
    let count = NAMES.len() as u64;
    let own = NAMES[usize::try_from(seed % count).unwrap_or(0)];
    let name = options.plan.unwrap_or(own);
    let plan = Plan::draw(name, options.agents, options.hours, &mut random);
    match plan.ring {
        RingSize::Small => play::<4096>(seed, plan, random, options),
        RingSize::Medium => play::<16_384>(seed, plan, random, options),
        RingSize::Full => play::<RING_BYTES>(seed, plan, random, options),
    }
}

fn play<const RING: usize>(seed: u64, plan: Plan, random: Random, options: Options) -> Report {
    let name = plan.name;
    let mut world = World::<RING>::new(plan, random);
    let outcome = live(&mut world);
    world.tally.agent_ms = world.now * world.hosts.len() as u64;
    Report {
        seed,
        plan: name,
        digest: world.trace.digest(),
        broken: outcome.err().map(|broken| broken.0),
        trace: world.trace.end(options.trace_lines),
        tally: world.tally,
    }
}

/// Faults, then peace in which everything drains, then the end.
fn live<const RING: usize>(world: &mut World<RING>) -> Outcome {
    world.run_until(world.plan.duration_ms)?;
    world.make_peace()?;
    let mut until = world.plan.duration_ms;
    loop {
        let held = world.recorded();
        until += PEACE_MS;
        world.run_until(until)?;
        if world.check_drained(&held)? {
            break;
        }
    }
    world.end_agents()?;
    world.run_until(until + FAREWELL_MS)?;
    world.check_ended()?;
    world.check()
}
