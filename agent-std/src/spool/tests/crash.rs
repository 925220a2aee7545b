//! The power goes at every operation, and what was not synced is there or not.

use agent_core::random::SplitMix64;

use super::world::{SMALL, World};
use crate::spool::sim::{SimDisk, Unsynced};
use crate::spool::{Options, Order};

/// How often the lives below are lived. `PICKET_CRASH_SEEDS` asks for more.
fn seeds() -> u64 {
    let asked = std::env::var("PICKET_CRASH_SEEDS").ok();
    asked.and_then(|seeds| seeds.parse().ok()).unwrap_or(2)
}

const STEPS: u64 = 40;

/// Lives `STEPS` steps, until the power goes.
fn live(world: &mut World, seed: u64) {
    let mut random = SplitMix64::new(seed);
    for _ in 0..STEPS {
        world.step(&mut random);
    }
}

fn check_survives(options: Options, seed: u64, at: u64) -> bool {
    let mut world = World::new(SimDisk::new(), options);
    world.disk.crash_at(at);
    live(&mut world, seed);
    let has_ended = world.disk.changes() <= at;
    for unsynced in Unsynced::ALL {
        let mut random = SplitMix64::new(seed ^ at);
        let disk = world.disk.fork();
        disk.restart(unsynced, random.next_u64());
        let mut after = World::new(disk, options);
        after.book = world.book.clone();
        after.reopen();
        // The recovery, and what comes after it, is cut short as well, five times.
        for _ in 0..5 {
            after.disk.crash_at(after.disk.changes() + random.up_to(6));
            after.reopen();
            for _ in 0..4 {
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

fn check_every_operation(options: Options, seed: u64) -> u64 {
    let end = (0..).find(|at| check_survives(options, seed, *at));
    end.unwrap()
}

#[test]
fn nothing_stored_is_lost_at_any_crash() {
    let mut points = 0;
    for seed in 0..seeds() {
        let order = if seed % 2 == 0 { Order::OldestFirst } else { Order::NewestFirst };
        points += check_every_operation(Options { order, ..SMALL }, seed);
    }
    assert!(100 * seeds() < points, "{points} operations are too few to say anything");
}

#[test]
fn a_second_opening_finds_what_the_first_has_left() {
    for seed in 0..20 {
        let mut world = World::new(SimDisk::new(), SMALL);
        world.disk.crash_at(20 + 7 * seed);
        live(&mut world, seed);
        world.disk.restart(Unsynced::Torn, seed);
        world.reopen();
        let (waiting, losses) =
            (world.spool.waiting().collect::<Vec<_>>(), world.spool.losses().count());
        world.reopen();
        let changes = world.disk.changes();
        world.reopen();
        assert_eq!(world.disk.changes(), changes, "seed {seed}: an opening has written again");
        assert_eq!(world.spool.waiting().collect::<Vec<_>>(), waiting, "seed {seed}");
        assert_eq!(world.spool.losses().count(), losses, "seed {seed}");
        assert_eq!(world.report.troubles, Vec::<String>::new(), "seed {seed}");
    }
}
