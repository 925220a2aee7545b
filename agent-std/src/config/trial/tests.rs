use proptest::prelude::*;

use super::*;

const WINDOW: Duration = Duration::from_secs(120);

fn at(seconds: u64) -> Instant {
    Instant::from_ms(seconds * 1000)
}

fn version(revision: u64, text: &str) -> Version {
    Version { source: Source::Server, revision, text: text.to_owned() }
}

fn fresh() -> Trial {
    let (mut trial, rolled_back) = Trial::start(Memory::default(), WINDOW, at(0));
    assert_eq!(rolled_back, None);
    assert!(!trial.poll_save(), "nothing has changed");
    trial
}

/// A trial whose confirmed document is "a", at second 20.
fn confirmed() -> Trial {
    let mut trial = fresh();
    trial.handle_applied(at(0), version(1, "a"));
    assert_eq!(trial.poll(at(20), true), None);
    assert!(trial.poll_save());
    assert_eq!(trial.deadline(at(20)), None);
    trial
}

/// The next process, after an end that nobody asked for.
fn crash(trial: &Trial, now: Instant) -> (Trial, Option<RolledBack>) {
    Trial::start(trial.memory(), WINDOW, now)
}

#[test]
fn a_document_with_which_no_server_is_reached_is_taken_back_once() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    assert!(trial.poll_save());
    assert_eq!(trial.deadline(at(100)), Some(at(120)));
    assert_eq!(trial.poll(at(120), false), None);
    assert_eq!(trial.deadline(at(120)), Some(at(220)));
    assert_eq!(trial.poll(at(219), false), None);
    assert_eq!(trial.in_force().text, "b");
    let rolled_back = trial.poll(at(220), false).unwrap();
    assert_eq!(rolled_back.revision, 2);
    assert!(rolled_back.reason.contains("120 s"), "{}", rolled_back.reason);
    assert_eq!(*trial.in_force(), version(1, "a"));
    assert_eq!(trial.quarantined("b"), Some(rolled_back.reason.as_str()));
    assert_eq!((trial.quarantined("a"), trial.quarantined("b ")), (None, None));
    assert!(trial.poll_save());
    assert_eq!((trial.poll(at(10_000), false), trial.deadline(at(10_000))), (None, None));
}

#[test]
fn a_stream_of_before_counts_only_if_it_still_stands_after_the_keep_alive() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    assert_eq!(trial.poll(at(119), true), None);
    assert_eq!(trial.poll(at(120), false), None);
    assert!(trial.poll(at(220), false).is_some());

    trial.handle_applied(at(300), version(3, "c"));
    assert_eq!(trial.poll(at(320), true), None);
    assert!(crash(&trial, at(0)).0.memory().trial.is_none());
    assert_eq!(*trial.in_force(), version(3, "c"));
}

#[test]
fn an_answer_confirms_even_if_the_stream_is_gone_again() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    trial.handle_answered();
    assert_eq!(trial.poll(at(119), false), None);
    assert!(trial.memory().trial.is_some(), "a crash after the handshake must still count");
    assert_eq!(trial.poll(at(120), false), None);
    assert_eq!(trial.memory().trial, None);
    assert_eq!(trial.in_force().text, "b");
}

#[test]
fn repeating_a_document_does_not_prolong_its_trial_and_the_confirmed_one_needs_none() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    trial.handle_applied(at(200), version(3, "b"));
    assert_eq!(trial.poll(at(220), false).unwrap().revision, 3);
    trial.handle_applied(at(230), version(4, "a"));
    assert_eq!((trial.deadline(at(230)), trial.in_force().revision), (None, 4));
    assert!(trial.poll_save());
    trial.handle_applied(at(240), version(4, "a"));
    assert!(!trial.poll_save(), "the same again is not written again");
}

#[test]
fn a_document_that_replaces_one_on_trial_falls_back_to_the_confirmed_one() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    trial.handle_applied(at(200), version(3, "c"));
    assert_eq!(trial.poll(at(220), false), None);
    assert!(trial.poll(at(320), false).is_some());
    assert_eq!(trial.in_force().text, "a");
    assert_eq!(trial.quarantined("b"), None);
}

#[test]
fn two_crashes_take_a_document_back_at_the_next_start() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    let (mut trial, rolled_back) = crash(&trial, at(0));
    assert_eq!((rolled_back, trial.in_force().text.as_str()), (None, "b"));
    assert!(trial.poll_save(), "this start must be known to the next one");
    let (mut trial, rolled_back) = crash(&trial, at(0));
    let rolled_back = rolled_back.unwrap();
    assert_eq!(rolled_back.revision, 2);
    assert!(rolled_back.reason.contains("ended 2 times"), "{}", rolled_back.reason);
    assert_eq!(*trial.in_force(), version(1, "a"));
    assert!(trial.poll_save());
    let (trial, rolled_back) = crash(&trial, at(0));
    assert_eq!(rolled_back, None);
    assert!(trial.quarantined("b").is_some());
}

#[test]
fn an_end_that_was_asked_for_does_not_count() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    for _ in 0..10 {
        trial.handle_end();
        assert!(trial.poll_save());
        let (next, rolled_back) = crash(&trial, at(0));
        assert_eq!(rolled_back, None);
        trial = next;
    }
    // The replacement of the process failed: from now on an end counts again.
    trial.handle_end();
    trial.handle_end_failed();
    let (trial, _) = crash(&trial, at(0));
    assert!(crash(&trial, at(0)).1.is_some());
}

#[test]
fn a_start_on_trial_has_a_window_of_its_own() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    let (mut trial, _) = crash(&trial, at(5));
    assert_eq!(trial.poll(at(124), false), None);
    assert_eq!(trial.poll(at(125), false).unwrap().revision, 2);
}

#[test]
fn a_window_of_zero_trusts_every_document_at_once() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    assert!(trial.poll(at(220), false).is_some());
    trial.handle_applied(at(230), version(3, "c"));
    let (mut trial, rolled_back) = Trial::start(trial.memory(), Duration::ZERO, at(0));
    assert_eq!((rolled_back, trial.in_force().text.as_str()), (None, "c"));
    assert_eq!(trial.quarantined("b"), None);
    trial.handle_applied(at(1), version(4, "b"));
    assert_eq!((trial.deadline(at(1)), trial.memory().trial), (None, None));
    assert_eq!(trial.poll(at(1_000_000), false), None);
    let (trial, _) = Trial::start(trial.memory(), WINDOW, at(0));
    assert_eq!((trial.in_force().text.as_str(), trial.quarantined("b")), ("b", None));
}

#[test]
fn quarantine_is_bounded_and_the_oldest_gives_way() {
    let mut trial = confirmed();
    let total = QUARANTINED_MAX as u64 + 1;
    for number in 0..total {
        trial.handle_applied(at(number * 200), version(number, &format!("bad {number}")));
        assert!(trial.poll(at(number * 200 + 120), false).is_some());
    }
    assert_eq!(trial.memory().quarantine.len(), QUARANTINED_MAX);
    assert_eq!(trial.quarantined("bad 0"), None);
    assert!((1..total).all(|number| trial.quarantined(&format!("bad {number}")).is_some()));
}

#[test]
fn what_cannot_be_used_gives_way_to_what_is_below_it() {
    let mut trial = confirmed();
    trial.handle_applied(at(100), version(2, "b"));
    trial.handle_unusable();
    assert_eq!(trial.in_force().text, "a");
    assert!(trial.poll_save());
    trial.handle_unusable();
    assert_eq!(*trial.in_force(), Version::default());
    assert!(!trial.poll_save(), "what is on disk is not thrown away for nothing");
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    Pass { seconds: u16 },
    LinkUp,
    LinkDown,
    Crash,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..6u8).prop_map(Step::Push),
        3 => (0..150u16).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::LinkUp),
        1 => Just(Step::LinkDown),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..200)
}

/// A shell that does as the rules say, and loses all but what was written down when it crashes.
struct Shell {
    trial: Trial,
    written: Memory,
    now: Instant,
    is_up: bool,
    pushes: u64,
    last_confirmed: String,
    rolled_back: Vec<String>,
}

impl Shell {
    fn start(&mut self) {
        let doomed = self.written.trial.clone();
        let (trial, rolled_back) = Trial::start(self.written.clone(), WINDOW, self.now);
        self.trial = trial;
        self.is_up = false;
        if rolled_back.is_some() {
            self.on_rolled_back(doomed.unwrap().version.text);
        }
        self.poll();
    }

    fn poll(&mut self) {
        let before = self.trial.in_force().text.clone();
        if self.trial.poll(self.now, self.is_up).is_some() {
            self.on_rolled_back(before);
        }
        if self.trial.poll_save() {
            self.written = self.trial.memory();
        }
        assert_eq!(self.written, self.trial.memory(), "a change was not to be saved");
        if self.written.trial.is_none() {
            self.last_confirmed = self.written.confirmed.text.clone();
        }
        let in_force = self.trial.in_force();
        assert_eq!(self.trial.quarantined(&in_force.text), None);
        assert!(self.trial.deadline(self.now).is_none_or(|deadline| self.now < deadline));
    }

    fn on_rolled_back(&mut self, text: String) {
        assert!(!self.rolled_back.contains(&text), "{text} was taken back twice");
        self.rolled_back.push(text);
        assert_eq!(self.trial.in_force().text, self.last_confirmed);
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Push(number) => {
                let text = format!("document {number}");
                if self.trial.quarantined(&text).is_none() {
                    self.pushes += 1;
                    self.trial.handle_applied(self.now, version(self.pushes, &text));
                    assert_eq!(self.trial.in_force().text, text);
                }
            }
            Step::Pass { seconds } => self.now = self.now + Duration::from_secs((*seconds).into()),
            Step::LinkUp => {
                self.is_up = true;
                self.trial.handle_answered();
            }
            Step::LinkDown => self.is_up = false,
            Step::Crash => return self.start(),
            Step::Restart => {
                self.trial.handle_end();
                self.poll();
                return self.start();
            }
        }
        self.poll();
    }
}

proptest! {
    #[test]
    fn each_document_is_taken_back_at_most_once_and_to_the_one_confirmed_last(steps in steps()) {
        let mut shell = Shell {
            trial: fresh(),
            written: Memory::default(),
            now: at(0),
            is_up: false,
            pushes: 0,
            last_confirmed: Version::default().text,
            rolled_back: Vec::new(),
        };
        for step in &steps {
            shell.perform(step);
        }
        prop_assert!(shell.trial.memory().quarantine.len() <= QUARANTINED_MAX);
    }

    #[test]
    fn a_server_that_is_always_there_never_costs_a_document(
        pushes in prop::collection::vec((0..6u8, 0..300u64), 0..50),
    ) {
        let mut trial = fresh();
        let mut now = at(0);
        for (revision, (number, seconds)) in (1..).zip(pushes) {
            trial.handle_applied(now, version(revision, &format!("document {number}")));
            now = now + Duration::from_secs(seconds);
            prop_assert_eq!(trial.poll(now, true), None);
        }
        prop_assert!(trial.memory().quarantine.is_empty());
    }
}
