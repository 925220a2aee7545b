//! The power goes at every operation, and what was not synced is there or not.

use agent_core::random::SplitMix64;

use super::world::{SMALL, World};
use crate::spool::sim::{SimDisk, Unsynced};
use crate::spool::{Lane, Options, Order};

/// How often the lives below are lived. `PICKET_CRASH_SEEDS` asks for more.
fn seeds() -> u64 {
    let asked = std::env::var("PICKET_CRASH_SEEDS").ok();
    asked.and_then(|seeds| seeds.parse().ok()).unwrap_or(2)
}

const STEPS: u64 = 12;

/// A life that begins with a spool that is all but full.
fn full(options: Options) -> World {
    let mut world = World::new(SimDisk::new(), options);
    while world.spool.losses().next().is_none() {
        world.append(Lane::Records, 200).unwrap();
    }
    world.append(Lane::Alerts, 40).unwrap();
    world
}

/// Lives `STEPS` steps, until the power goes.
fn live(world: &mut World, seed: u64) {
    let mut random = SplitMix64::new(seed);
    for _ in 0..STEPS {
        world.step(&mut random);
    }
}

fn check_survives(full: &World, seed: u64, at: u64) -> bool {
    let mut world = full.fork();
    world.disk.crash_at(world.disk.changes() + at);
    live(&mut world, seed);
    let has_ended = !world.disk.is_down();
    for (number, unsynced) in (0..).zip(Unsynced::ALL) {
        let mut random = SplitMix64::new(seed ^ at << 8 ^ number << 40);
        let mut after = world.fork();
        after.disk.restart(unsynced, random.next_u64());
        // The recovery, and what comes after it, is cut short as well, five times. One of the ways for each operation will
        // do.
        for _ in 0..if at % 5 == number { 5 } else { 0 } {
            after.disk.crash_at(after.disk.changes() + random.up_to(6));
            after.reopen();
            for _ in 0..2 {
                after.step(&mut random);
            }
            if random.up_to(3) == 0 {
                after.disk.revive();
            } else {
                after.disk.restart(unsynced, random.next_u64());
            }
        }
        after.disk.restart(unsynced, random.next_u64());
        after.reopen();
        after.check_all_comes();
        after.check_nothing_damaged();
    }
    has_ended
}

#[test]
fn nothing_stored_is_lost_at_any_crash() {
    for seed in 0..seeds() {
        let order = if seed % 2 == 0 { Order::OldestFirst } else { Order::NewestFirst };
        let full = full(Options { order, ..SMALL });
        let operations = (0..).find(|at| check_survives(&full, seed, *at));
        assert!(Some(20) < operations, "{operations:?} are too few to say anything");
    }
}

#[test]
fn a_second_opening_finds_what_the_first_has_left() {
    let full = full(SMALL);
    for seed in 0..20 {
        let mut world = full.fork();
        world.disk.crash_at(world.disk.changes() + 3 * seed);
        live(&mut world, seed);
        world.disk.restart(Unsynced::Torn, seed);
        world.reopen();
        let (waiting, losses) =
            (world.spool.waiting().collect::<Vec<_>>(), world.spool.losses().count());
        world.reopen();
        let written = world.disk.written_bytes();
        world.reopen();
        assert_eq!(world.disk.written_bytes(), written, "seed {seed}: written again");
        assert_eq!(world.spool.waiting().collect::<Vec<_>>(), waiting, "seed {seed}");
        assert_eq!(world.spool.losses().count(), losses, "seed {seed}");
        assert_eq!(world.report.damaged, [], "seed {seed}");
    }
}
