//! Room, age, wear, and disks that refuse.

use std::time::Duration;

use agent_core::id::Sequence;
use agent_core::random::SplitMix64;
use agent_core::time::Instant;

use super::world::{SMALL, World, boot, rows, sample};
use crate::spool::sim::{Fault, SimDisk, Unsynced};
use crate::spool::{Content, Lane, LossReason, Options, Order, Spool, SpoolError};

#[test]
fn the_oldest_records_give_way_and_no_alert_does() {
    let mut world = World::new(SimDisk::new(), SMALL);
    world.append(Lane::Alerts, 32).unwrap();
    for _ in 0..60 {
        world.append(Lane::Records, 64).unwrap();
        assert!(world.disk.bytes() <= SMALL.bytes_max);
    }
    let counts = world.spool.counts();
    assert_eq!(counts.bytes, world.disk.bytes());
    assert_eq!(counts.written_bytes, world.disk.written_bytes());
    assert_eq!(counts.alerts, 32);
    let lost = world.spool.losses().collect::<Vec<_>>();
    let [lost] = lost.as_slice() else { panic!("they are neighbours: {lost:?}") };
    assert_eq!((lost.reason, lost.first), (LossReason::SpoolFull, Sequence::FIRST));
    assert_eq!(lost.never_sent, lost.run().count());
    assert_eq!(lost.run().count() + counts.records, 60 * 64);
    world.check_all_comes();
}

#[test]
fn what_was_handed_out_and_gave_way_may_have_arrived() {
    let mut world = World::new(SimDisk::new(), SMALL);
    world.append(Lane::Records, 64).unwrap();
    let out = world.take().unwrap();
    for _ in 0..60 {
        world.append(Lane::Records, 64).unwrap();
    }
    let lost = world.spool.losses().next().unwrap();
    assert_eq!(lost.unacknowledged, 64);
    // Its confirmation comes too late to matter.
    world.spool.delivered(out.token);
    assert_eq!(world.spool.losses().next().unwrap(), lost);
}

#[test]
fn an_idle_spool_writes_nothing() {
    let mut world = World::new(SimDisk::new(), SMALL);
    for _ in 0..3 {
        assert_eq!(world.spool.next(), None);
        world.rewind();
        world.spool.expire(Instant::from_ms(u64::MAX)).unwrap();
        world.spool.declare(&[]).unwrap();
        world.spool.append_records(boot(1), Sequence::FIRST, &[], Instant::from_ms(0)).unwrap();
        world.spool.close();
        world.reopen();
    }
    assert_eq!((world.disk.changes(), world.disk.bytes()), (0, 0));
    // Neither does one that has been emptied.
    world.append(Lane::Records, 10).unwrap();
    world.check_all_comes();
    let changes = world.disk.changes();
    world.spool.close();
    world.reopen();
    assert_eq!(world.disk.changes(), changes);
    let names = world.disk.files().into_iter().map(|(name, _)| name);
    assert_eq!(names.collect::<Vec<_>>(), ["state-0", "state-1"]);
}

#[test]
fn age_counts_while_it_is_open() {
    let options = Options { age_max: Some(Duration::from_secs(60)), ..SMALL };
    let disk = SimDisk::new();
    let open = |at| Spool::open(disk.clone(), options, Instant::from_ms(at)).0;
    let mut spool = open(5_000_000);
    let rows = [sample(1, 1)];
    spool.append_records(boot(1), Sequence::FIRST, &rows, Instant::from_ms(5_000_000)).unwrap();
    spool.expire(Instant::from_ms(5_060_000)).unwrap();
    assert_eq!(spool.counts().records, 1);
    spool.close();
    // A new process, with another origin of its clock, much later or earlier.
    let mut spool = open(0);
    spool.expire(Instant::from_ms(0)).unwrap();
    assert_eq!(spool.counts().records, 1);
    spool.expire(Instant::from_ms(60_001)).unwrap();
    assert_eq!(spool.counts().records, 0);
    let lost = spool.losses().next().unwrap();
    assert_eq!((lost.reason, lost.never_sent), (LossReason::SpoolExpired, 1));
    drop(spool);
    assert_eq!(open(0).losses().next(), Some(lost));
}

#[test]
fn the_newest_comes_first_when_asked_for() {
    let mut world = World::new(SimDisk::new(), Options { order: Order::NewestFirst, ..SMALL });
    for _ in 0..4 {
        world.append(Lane::Records, 60).unwrap();
        world.append(Lane::Records, 60).unwrap();
    }
    let items = world.drain();
    let firsts = items.iter().map(|item| rows(item)[0].2).collect::<Vec<_>>();
    assert!(is_cut_into_rising_parts(&firsts), "{firsts:?}");
    assert!(firsts[0] > *firsts.last().unwrap(), "{firsts:?}");
}

/// Each part rises, and is before the one in front of it.
fn is_cut_into_rising_parts(numbers: &[u64]) -> bool {
    let parts = numbers.chunk_by(|one, next| one < next).collect::<Vec<_>>();
    parts.windows(2).all(|pair| pair[1].last() < pair[0].first())
}

#[test]
fn alerts_come_before_losses_and_those_before_records() {
    let mut world = World::new(SimDisk::new(), SMALL);
    world.append(Lane::Records, 100).unwrap();
    world.declare(1, 3).unwrap();
    world.append(Lane::Alerts, 40).unwrap();
    let kinds = world.drain().into_iter().map(|item| match item.content {
        Content::Alerts { rows, .. } => ("alerts", rows.len()),
        Content::Losses { ranges, .. } => ("losses", ranges.len()),
        Content::Records { rows, .. } => ("records", rows.len()),
    });
    let expected = [("alerts", 32), ("alerts", 8), ("losses", 1), ("records", 64), ("records", 36)];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_not_confirmed_comes_again_and_only_so_much_is_out() {
    let mut world = World::new(SimDisk::new(), SMALL);
    for _ in 0..80 {
        world.append(Lane::Records, 1).unwrap();
    }
    let first = std::iter::from_fn(|| world.take()).collect::<Vec<_>>();
    assert_eq!(first.len(), 64);
    world.confirm(10);
    assert_eq!(std::iter::from_fn(|| world.take()).count(), 10);
    world.rewind();
    let again = world.take().unwrap();
    assert_eq!(again.content, first[10].content);
    assert!(first[63].token < again.token);
}

#[test]
fn a_block_can_be_sent_as_it_is() {
    let mut world = World::new(SimDisk::new(), SMALL);
    world.append(Lane::Records, 100).unwrap();
    for item in world.drain() {
        let Content::Records { first, rows, block } = item.content else { panic!("{item:?}") };
        let mut again = vec![sample(0, 0); 64];
        let unpacked = agent_core::codec::unpack(&block, &mut again).unwrap();
        assert_eq!(unpacked, (first, rows.len()));
        assert_eq!(again[..rows.len()], rows);
    }
}

#[test]
fn more_than_a_lane_takes_at_once_is_refused() {
    let mut world = World::new(SimDisk::new(), SMALL);
    let refused = world.append(Lane::Records, 2000);
    assert!(matches!(refused, Err(SpoolError::TooLarge { .. })), "{refused:?}");
    assert_eq!(world.disk.changes(), 0);
}

#[test]
fn a_full_disk_refuses_whole_appends_and_takes_more_when_there_is_room() {
    for capacity in (0..20_000).step_by(701) {
        let mut world = World::new(SimDisk::new(), SMALL);
        world.disk.set_capacity(Some(capacity));
        let results = (0..12).map(|_| world.append(Lane::Records, 50).is_ok()).collect::<Vec<_>>();
        assert!(results.contains(&false), "{capacity}");
        assert!(world.spool.counts().problem.is_some());
        world.disk.set_capacity(None);
        world.append(Lane::Records, 50).unwrap();
        assert_eq!(world.spool.counts().problem, None);
        world.disk.restart(Unsynced::Lost, 0);
        world.reopen();
        world.check_all_comes();
        world.check_nothing_damaged();
    }
}

#[test]
fn a_device_error_at_any_operation_costs_nothing_that_was_stored() {
    let life = |world: &mut World| {
        let mut random = SplitMix64::new(3);
        for _ in 0..30 {
            world.step(&mut random);
        }
    };
    for fault in [Fault::Device, Fault::NoSpace] {
        for at in (0..).step_by(3) {
            let mut world = World::new(SimDisk::new(), SMALL);
            world.disk.fail_at(at, fault);
            life(&mut world);
            let has_ended = world.disk.operations() <= at;
            for unsynced in [Unsynced::Lost, Unsynced::Torn] {
                let disk = world.disk.fork();
                disk.restart(unsynced, at);
                let mut after = World::new(disk, SMALL);
                after.book = world.book.clone();
                after.check_all_comes();
            }
            if has_ended {
                break;
            }
        }
    }
}

#[test]
fn a_spool_that_cannot_be_read_is_left_alone() {
    let disk = SimDisk::new();
    disk.put("records-0000000000000001", vec![0; 10]);
    disk.fail_at(0, Fault::Device);
    let (mut spool, report) = Spool::open(disk.clone(), SMALL, Instant::from_ms(0));
    assert_eq!(report.troubles.len(), 1);
    let rows = [sample(1, 1)];
    let refused = spool.append_records(boot(1), Sequence::FIRST, &rows, Instant::from_ms(0));
    assert!(matches!(refused, Err(SpoolError::OutOfService(_))), "{refused:?}");
    assert_eq!((spool.next(), disk.changes()), (None, 0));
    assert!(spool.counts().problem.is_some());
}
