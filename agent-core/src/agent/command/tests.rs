//! The table of commands.

use std::format;
use std::vec::Vec;

use super::*;
use crate::limits::COMMANDS_MAX;

type CommandTable = super::CommandTable<COMMANDS_MAX>;

const LIFE: Duration = Duration::from_secs(30);
const BOOT: BootId = BootId { counter: 1, nonce: 7 };

fn id(number: usize) -> CommandId {
    format!("c{number}").parse().unwrap()
}

fn run(table: &mut CommandTable, at_ms: u64, number: usize) -> CommandSlot {
    match table.admit(
        Instant::from_ms(at_ms),
        BOOT,
        &id(number),
        Repetition::Harmful(Kind::Stop),
        LIFE,
    ) {
        Admission::Run(slot) => slot,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_runs_once_and_its_answer_is_given_again() {
    let mut table = CommandTable::default();
    let slot = run(&mut table, 0, 1);
    assert_eq!(
        table.admit(Instant::from_ms(1), BOOT, &id(1), Repetition::Harmful(Kind::Stop), LIFE),
        Admission::Repeat
    );
    table.answer(slot, Answer::Stopped(Change::Done));
    let slot = table.poll_due().unwrap();
    assert_eq!(table.get(slot), Some((&id(1), &Answer::Stopped(Change::Done))));
    assert_eq!(
        table.admit(Instant::from_ms(2), BOOT, &id(1), Repetition::Harmful(Kind::Stop), LIFE),
        Admission::Repeat
    );
    assert_eq!(table.poll_due(), None, "it is on its way");
    table.acknowledge(&id(1));
    assert_eq!(
        table.admit(Instant::from_ms(3), BOOT, &id(1), Repetition::Harmful(Kind::Stop), LIFE),
        Admission::Repeat
    );
    assert!(table.poll_due().is_some());
}

#[test]
fn an_answer_is_resent_on_a_new_stream_until_acknowledged() {
    let mut table = CommandTable::default();
    let slot = run(&mut table, 0, 1);
    table.answer(slot, Answer::Status);
    assert!(table.poll_due().is_some());
    table.resend();
    assert!(table.poll_due().is_some());
    assert!(table.has_unacknowledged());
    table.acknowledge(&id(1));
    table.resend();
    assert_eq!(table.poll_due(), None);
    assert!(!table.has_unacknowledged());
}

#[test]
fn a_full_table_refuses_rather_than_forget_what_could_come_again() {
    let mut table = CommandTable::default();
    for number in 0..COMMANDS_MAX {
        let slot = run(&mut table, 0, number);
        table.answer(slot, Answer::Status);
        table.acknowledge(&id(number));
    }
    let soon = Instant::from_ms(90_000);
    assert_eq!(
        table.admit(soon, BOOT, &id(999), Repetition::Harmful(Kind::Stop), LIFE),
        Admission::Busy
    );
    let refusal = table.poll_due().unwrap();
    assert_eq!(table.get(refusal), Some((&id(999), &Answer::Busy)));
    assert_eq!(table.poll_due(), None);
    run(&mut table, 90_001, 999);
}

/// A full table that has just refused command 999, at the time at which the others may be forgotten.
fn refusing() -> (CommandTable, Instant) {
    let mut table = CommandTable::default();
    for number in 0..COMMANDS_MAX {
        let slot = run(&mut table, 0, number);
        table.answer(slot, Answer::Status);
        table.poll_due();
        table.acknowledge(&id(number));
    }
    let full = Instant::from_ms(90_000);
    assert_eq!(
        table.admit(full, BOOT, &id(999), Repetition::Harmful(Kind::Stop), LIFE),
        Admission::Busy
    );
    (table, Instant::from_ms(90_001))
}

#[test]
fn the_acknowledgement_of_a_refusal_is_not_taken_for_that_of_the_answer() {
    let (mut table, later) = refusing();
    assert!(table.poll_due().is_some(), "the refusal is on its way");
    let slot = run(&mut table, later.as_ms(), 999);
    table.answer(slot, Answer::Stopped(Change::Done));
    table.acknowledge(&id(999));
    let slot = table.poll_due().unwrap();
    assert_eq!(table.get(slot), Some((&id(999), &Answer::Stopped(Change::Done))));
    table.acknowledge(&id(999));
    assert!(!table.has_unacknowledged());
}

#[test]
fn a_command_that_runs_after_all_is_not_refused_any_more() {
    let (mut table, later) = refusing();
    let slot = run(&mut table, later.as_ms(), 999);
    table.answer(slot, Answer::Stopped(Change::Done));
    let slot = table.poll_due().unwrap();
    assert_eq!(table.get(slot), Some((&id(999), &Answer::Stopped(Change::Done))));
    assert_eq!(table.poll_due(), None);
}

#[test]
fn the_acknowledgement_of_a_refusal_does_not_come_on_another_stream() {
    let (mut table, later) = refusing();
    assert!(table.poll_due().is_some());
    table.resend();
    assert_eq!(table.poll_due(), None);
    let slot = run(&mut table, later.as_ms(), 999);
    table.answer(slot, Answer::Status);
    assert!(table.poll_due().is_some());
    table.acknowledge(&id(999));
    assert!(!table.has_unacknowledged());
}

#[test]
fn refusals_that_wait_are_bounded() {
    let (mut table, _) = refusing();
    let full = Instant::from_ms(90_000);
    for number in 999..2000 {
        let admission = table.admit(full, BOOT, &id(number), Repetition::Harmful(Kind::Stop), LIFE);
        assert_eq!(admission, Admission::Busy);
    }
    let refused = core::iter::from_fn(|| table.poll_due()).count();
    assert_eq!(refused, REFUSALS_MAX);
}

#[test]
fn harmless_commands_make_room_once_their_answers_are_acknowledged() {
    let mut table = CommandTable::default();
    for number in 0..1000 {
        let life = Duration::from_secs(86_400);
        let at = Instant::from_ms(0);
        let Admission::Run(slot) = table.admit(at, BOOT, &id(number), Repetition::Harmless, life)
        else {
            panic!("{number}");
        };
        table.answer(slot, Answer::Status);
        table.acknowledge(&id(number));
    }
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let reason = Reason::from("\u{e4}".repeat(150).as_str());
    assert_eq!(reason.as_str().chars().count(), 100);
}

#[test]
fn what_was_begun_outlives_the_process_and_what_was_refused_does_not() {
    let mut table = CommandTable::default();
    let slot = run(&mut table, 0, 1);
    table.answer(slot, Answer::Stopped(Change::Done));
    let slot = run(&mut table, 0, 2);
    table.answer(slot, Answer::NotRecorded(Reason::from("disk full")));
    let admission =
        table.admit(Instant::from_ms(0), BOOT, &id(3), Repetition::Harmful(Kind::Restart), LIFE);
    assert!(matches!(admission, Admission::Run(_)));
    let at = Instant::from_ms(10_000);
    let intents = table.intents(at).collect::<Vec<_>>();
    let expected = |number, kind, is_owed| Intent {
        id: id(number),
        kind,
        boot: BOOT,
        is_owed,
        left: LIFE + GRACE - Duration::from_secs(10),
    };
    assert_eq!(intents, [expected(1, Kind::Stop, false), expected(3, Kind::Restart, true)]);
    assert_eq!(table.intents(Instant::from_ms(90_000)).count(), 0, "none of them comes again");

    let mut next = CommandTable::default();
    for intent in intents {
        assert!(next.recall(at, intent));
    }
    let owed = next.poll_due().unwrap();
    assert_eq!(next.get(owed), Some((&id(3), &Answer::Restarted { previous: BOOT })));
    assert_eq!(next.poll_due(), None, "the other is answered when it is asked for");
    let again = next.admit(at, BOOT, &id(1), Repetition::Harmful(Kind::Stop), LIFE);
    assert_eq!(again, Admission::Repeat);
    let asked = next.poll_due().unwrap();
    let begun = Answer::BegunBefore { kind: Kind::Stop, previous: BOOT };
    assert_eq!(next.get(asked), Some((&id(1), &begun)));
    assert!(next.acknowledge(&id(3)), "the boot after this one owes it no more");
    assert!(!next.acknowledge(&id(3)));
    assert!(next.intents(at).all(|intent| !intent.is_owed));
}

#[test]
fn more_than_there_is_room_for_is_not_recalled() {
    let mut table = CommandTable::default();
    let intent = |number| Intent {
        id: id(number),
        kind: Kind::Stop,
        boot: BOOT,
        is_owed: false,
        left: LIFE,
    };
    for number in 0..COMMANDS_MAX {
        assert!(table.recall(Instant::from_ms(0), intent(number)));
    }
    assert!(table.recall(Instant::from_ms(0), intent(0)), "it is known");
    assert!(!table.recall(Instant::from_ms(0), intent(COMMANDS_MAX)));
    let now = Instant::from_ms(0);
    let busy = table.admit(now, BOOT, &id(999), Repetition::Harmful(Kind::Stop), LIFE);
    assert_eq!(busy, Admission::Busy);
}
