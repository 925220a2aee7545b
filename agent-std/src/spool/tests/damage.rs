//! Files that are not as they were written: every byte flipped, files cut, taken away, doubled and exchanged.

use std::collections::BTreeSet;

use super::world::{Name, SMALL, World, names};
use crate::spool::sim::SimDisk;
use crate::spool::{Lane, LossReason};

/// A small spool of three boots, as it is after a clean end: some segments, one of them begun to be delivered, and a loss.
fn sound() -> World {
    let mut world = World::new(SimDisk::new(), SMALL);
    for boot in 0..3 {
        for _ in 0..3 {
            world.append(Lane::Records, 2).unwrap();
            world.append(Lane::Alerts, 2).unwrap();
            world.skip(Lane::Records, 2);
        }
        if boot == 0 {
            world.declare(5, 9).unwrap();
        } else {
            for _ in 0..4 {
                world.take();
            }
            world.confirm(usize::MAX);
        }
        world.spool.close();
        world.reopen();
    }
    assert!(world.report.troubles.is_empty(), "{:?}", world.report);
    world
}

/// Damages a copy of the disk, opens it, and takes everything out. Answers what came, and what was declared.
fn after(sound: &World, damage: impl FnOnce(&SimDisk)) -> (BTreeSet<Name>, BTreeSet<Name>) {
    let disk = sound.disk.fork();
    damage(&disk);
    let mut world = World::new(disk, SMALL);
    world.book = sound.book.clone();
    world.book.delivered.clear();
    world.drain();
    let declared = world.book.told.iter().filter(|loss| loss.reason == LossReason::SpoolDamaged);
    let declared = declared.flat_map(names).collect();
    (world.book.delivered, declared)
}

/// What waits in `sound` came or was declared, and at most `lost` of it did not come.
fn check(sound: &World, what: &str, lost: usize, damage: impl FnOnce(&SimDisk)) {
    let waiting = sound.book.stored.difference(&sound.book.delivered).copied();
    let waiting = waiting.collect::<BTreeSet<_>>();
    let (came, declared) = after(sound, damage);
    let missing = waiting.difference(&came).copied().collect::<BTreeSet<_>>();
    assert!(missing.is_subset(&declared), "{what}: {:?}", missing.difference(&declared));
    assert!(missing.len() <= lost, "{what}: {} of {} are missing", missing.len(), waiting.len());
    for name in &declared {
        assert!(sound.book.attempted.contains(name), "{what}: {name:?} was invented");
        assert!(!came.contains(name), "{what}: {name:?} came, and was declared as lost");
    }
}

#[test]
fn a_flipped_byte_costs_at_most_its_frame() {
    let sound = sound();
    for (name, bytes) in sound.disk.files() {
        for index in 0..bytes.len() {
            check(&sound, &format!("{name}, byte {index}"), 2, |disk| {
                let mut bytes = bytes.clone();
                bytes[index] ^= 1 << (index % 8);
                disk.put(&name, bytes);
            });
        }
    }
}

#[test]
fn a_file_that_is_cut_or_gone_is_declared() {
    let sound = sound();
    for (name, bytes) in sound.disk.files() {
        for length in (0..bytes.len()).step_by(97) {
            check(&sound, &format!("{name} cut to {length}"), 200, |disk| {
                disk.put(&name, bytes[..length].to_vec());
            });
        }
        check(&sound, &format!("{name} gone"), 200, |disk| drop(disk.take(&name)));
        check(&sound, &format!("{name} zeroed"), 200, |disk| {
            disk.put(&name, vec![0; bytes.len()]);
        });
    }
}

#[test]
fn what_is_doubled_or_exchanged_still_comes() {
    let sound = sound();
    let files = sound.disk.files();
    for (name, bytes) in &files {
        for (other, of_other) in &files {
            let is_state = name.starts_with("state") || other.starts_with("state");
            if name == other || is_state {
                continue;
            }
            check(&sound, &format!("{name} and {other} exchanged"), 0, |disk| {
                disk.put(name, of_other.clone());
                disk.put(other, bytes.clone());
            });
        }
        let (came, _) = after(&sound, |disk| {
            disk.put("records-00000000000000ff", bytes.clone());
            disk.put("foreign", bytes.clone());
        });
        assert!(came.is_superset(&(&sound.book.stored - &sound.book.delivered)), "{name} doubled");
    }
}

#[test]
fn both_copies_of_the_state_gone_cost_repeats_only() {
    let sound = sound();
    check(&sound, "no state", 0, |disk| {
        disk.take("state-0");
        disk.take("state-1");
    });
}

#[test]
fn damage_while_it_is_open_is_declared_too() {
    let mut world = World::new(SimDisk::new(), SMALL);
    for _ in 0..4 {
        world.append(Lane::Records, 60).unwrap();
    }
    world.take();
    let names = world.disk.files().into_iter().map(|(name, _)| name);
    for name in names.filter(|name| name.starts_with("records")) {
        let mut bytes = world.disk.take(&name).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        world.disk.put(&name, bytes);
    }
    world.check_all_comes();
    let damaged = world.book.told.iter().filter(|loss| loss.reason == LossReason::SpoolDamaged);
    assert!(0 < damaged.count());
    // Nothing of it comes to light a second time.
    world.reopen();
    assert!(world.report.damaged.is_empty());
    world.check_all_comes();
}
