//! Any sequence of calls against sets of names.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::world::{Name, SMALL, World, names};
use crate::spool::sim::SimDisk;
use crate::spool::{Lane, Options, Order};

#[derive(Clone, Debug)]
enum Op {
    Append(Lane, u64),
    Skip(Lane, u64),
    Take(usize),
    Confirm(usize),
    Rewind,
    Declare(u64, u64),
    /// With what was put off written before, or not.
    Reopen(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let lane = prop_oneof![Just(Lane::Records), Just(Lane::Alerts)];
    prop_oneof![
        4 => (lane.clone(), 1..120_u64).prop_map(|(lane, count)| Op::Append(lane, count)),
        1 => (lane, 1..5_u64).prop_map(|(lane, count)| Op::Skip(lane, count)),
        3 => (1..10_usize).prop_map(Op::Take),
        3 => (1..10_usize).prop_map(Op::Confirm),
        1 => Just(Op::Rewind),
        1 => (1..20_u64, 0..5_u64).prop_map(|(first, more)| Op::Declare(first, first + more)),
        1 => any::<bool>().prop_map(Op::Reopen),
    ]
}

fn waiting(world: &World) -> BTreeSet<Name> {
    let each = world.spool.waiting().flat_map(|run| {
        let (lane, boot) = (run.lane, run.boot.counter);
        (run.first.number()..=run.last.number()).map(move |sequence| (lane, boot, sequence))
    });
    each.collect()
}

/// What is a declared loss, told or not.
fn lost(world: &World) -> BTreeSet<Name> {
    let waiting = world.spool.losses().collect::<Vec<_>>();
    waiting.iter().chain(&world.book.told).flat_map(names).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_waits_is_what_was_stored_and_neither_delivered_nor_lost(
        ops in prop::collection::vec(op(), 0..60),
        newest_first in any::<bool>(),
    ) {
        let order = if newest_first { Order::NewestFirst } else { Order::OldestFirst };
        let mut world = World::new(SimDisk::new(), Options { order, ..SMALL });
        // Deliveries that a process without a clean end may have forgotten.
        let mut may_repeat = BTreeSet::new();
        for op in ops {
            match op {
                Op::Append(lane, count) => world.append(lane, count).unwrap(),
                Op::Skip(lane, count) => world.skip(lane, count),
                Op::Take(count) => (0..count).for_each(|_| drop(world.take())),
                Op::Confirm(count) => world.confirm(count),
                Op::Rewind => world.rewind(),
                Op::Declare(first, last) => world.declare(first, last).unwrap(),
                Op::Reopen(is_clean) => {
                    if is_clean {
                        world.spool.close();
                    } else {
                        may_repeat.clone_from(&world.book.delivered);
                    }
                    world.reopen();
                    prop_assert!(world.report.troubles.is_empty(), "{:?}", world.report);
                }
            }
            let waiting = waiting(&world);
            let lost = lost(&world);
            let due = &(&world.book.stored - &world.book.delivered) - &lost;
            prop_assert!(waiting.is_superset(&due), "{:?}", due.difference(&waiting));
            let beyond = &(&waiting - &due) - &may_repeat;
            prop_assert!(beyond.is_empty(), "{beyond:?}");
            let counts = world.spool.counts();
            let count = |lane| waiting.iter().filter(|name| name.0 == lane).count();
            let expected = [count(Lane::Records), count(Lane::Alerts)];
            prop_assert_eq!([counts.records, counts.alerts].map(|n| usize::try_from(n).unwrap()), expected);
            prop_assert_eq!(counts.bytes, world.disk.bytes());
            prop_assert!(counts.bytes <= SMALL.bytes_max);
        }
        world.check_all_comes();
        world.check_nothing_damaged();
    }
}
