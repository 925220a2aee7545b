use proptest::prelude::*;

use super::*;

const CLUSTER: u64 = 7;
const ENDPOINT: &str = "a:1";

fn key(name: &str) -> Key {
    name.parse().unwrap()
}

fn put(name: &str, revision: Revision) -> Found {
    Found { key: key(name), revision, text: Some(Ok(format!("{name}@{revision}"))) }
}

fn deletion(name: &str, revision: Revision) -> Found {
    Found { key: key(name), revision, text: None }
}

fn changed(name: &str, revision: Revision) -> Event {
    Event::Changed { key: key(name), revision, text: Ok(format!("{name}@{revision}")) }
}

fn deleted(name: &str, revision: Revision) -> Event {
    Event::Deleted { key: key(name), revision }
}

fn unreachable() -> Failure {
    Failure::unreachable(ENDPOINT, "refused")
}

fn denied() -> Failure {
    Failure::Denied { endpoint: ENDPOINT.into(), reason: "no".into() }
}

fn stream_ended() -> End {
    End::Stream(Failure::unreachable(ENDPOINT, "ended"))
}

/// A watch, and the time it is told.
struct Bench {
    rules: Rules,
    now: Instant,
}

impl Bench {
    fn new(stream_count: usize) -> Self {
        let now = Instant::now();
        Self { rules: Rules::new(now, Timing::default(), stream_count, 1), now }
    }

    /// One that has read these documents at a revision, and follows one stream.
    fn watching(documents: &[Found], revision: Revision) -> Self {
        let mut bench = Self::new(1);
        bench.read(CLUSTER, documents, revision).unwrap();
        bench.open();
        bench.events();
        bench
    }

    fn poll(&mut self) -> Step {
        self.rules.poll(self.now)
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Waits until the rules want to read, and answers.
    fn read(
        &mut self,
        cluster: u64,
        documents: &[Found],
        revision: Revision,
    ) -> Result<(), Failure> {
        self.until_read();
        let page = documents.iter().cloned();
        self.rules.handle_page(ENDPOINT, cluster, revision, page)?;
        self.rules.handle_read(self.now, revision);
        Ok(())
    }

    /// How long until a read is wanted; fails if none ever is.
    fn until_read(&mut self) -> Duration {
        let begun = self.now;
        for _ in 0..1000 {
            match self.poll() {
                Step::Read => return self.now - begun,
                Step::Wait(until) => self.now = until,
                Step::Ask => {}
                Step::Watch { .. } => self.rules.handle_open(self.now),
            }
        }
        panic!("no read is wanted");
    }

    fn open(&mut self) {
        assert!(matches!(self.poll(), Step::Watch { .. }));
        self.rules.handle_open(self.now);
    }

    fn message(&mut self, changes: &[Found]) {
        self.rules.handle_message(self.now, 0, CLUSTER, changes.iter().cloned());
    }

    fn end(&mut self, end: End) {
        self.rules.handle_end(self.now, end);
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.rules.poll_event()).collect()
    }
}

#[test]
fn what_is_there_is_read_and_followed_from_the_next_revision() {
    let mut bench = Bench::new(1);
    bench.read(CLUSTER, &[put("_default", 3), put("a", 5)], 9).unwrap();
    assert_eq!(bench.events(), [changed("_default", 3), changed("a", 5), Event::Synced]);
    assert_eq!(bench.poll(), Step::Watch { after: 9 });
    bench.open();
    bench.message(&[put("a", 10), put("b", 11)]);
    bench.message(&[deletion("a", 12)]);
    assert_eq!(bench.events(), [changed("a", 10), changed("b", 11), deleted("a", 12)]);
}

#[test]
fn repeated_and_reordered_events_do_nothing() {
    let mut bench = Bench::watching(&[put("a", 5)], 9);
    bench.message(&[put("a", 12)]);
    assert_eq!(bench.events(), [changed("a", 12)]);
    // Again, an older one, one from before the read, and an unknown key from before the read.
    bench.message(&[put("a", 12), put("a", 11), put("a", 4), put("b", 8), deletion("a", 10)]);
    assert_eq!(bench.events(), []);
    // A deletion that is older than what is known, and a document that is older than its deletion.
    bench.message(&[deletion("a", 13), put("a", 12), deletion("a", 13)]);
    assert_eq!(bench.events(), [deleted("a", 13)]);
    bench.message(&[put("a", 14)]);
    assert_eq!(bench.events(), [changed("a", 14)]);
}

#[test]
fn lost_events_are_made_good_by_the_next_read() {
    let mut bench = Bench::watching(&[put("a", 5), put("b", 6), put("c", 7)], 9);
    // The change of a to 10, the deletion of b at 11 and the new d at 12 are lost; the stream lives on.
    let begun = bench.now;
    while bench.now < begun + Duration::from_secs(300) {
        match bench.poll() {
            Step::Read => break,
            Step::Wait(until) => bench.now = until,
            Step::Ask => bench.message(&[]),
            Step::Watch { .. } => panic!("the stream is open"),
        }
    }
    assert!(bench.now <= begun + Duration::from_secs(300));
    bench.read(CLUSTER, &[put("a", 10), put("c", 7), put("d", 12)], 12).unwrap();
    let expected = [changed("a", 10), changed("d", 12), deleted("b", 12), Event::Synced];
    assert_eq!(bench.events(), expected);
    // What was lost comes late after all.
    bench.open();
    bench.message(&[deletion("b", 11), put("b", 9), put("d", 12)]);
    assert_eq!(bench.events(), []);
}

#[test]
fn an_unchanged_document_is_told_of_once() {
    let mut bench = Bench::watching(&[put("a", 5)], 9);
    bench.end(stream_ended());
    bench.read(CLUSTER, &[put("a", 5)], 20).unwrap();
    assert_eq!(bench.events(), [Event::Synced]);
}

#[test]
fn a_member_that_lags_behind_is_not_believed() {
    let mut bench = Bench::watching(&[put("a", 5)], 9);
    bench.message(&[put("a", 30)]);
    bench.events();
    bench.end(stream_ended());
    let failure = bench.read(CLUSTER, &[put("a", 5)], 29).unwrap_err();
    assert!(matches!(failure, Failure::Behind { revision: 29, seen: 30, .. }));
    bench.end(End::Failed(failure.clone()));
    assert_eq!(bench.events(), [Event::Unreachable(failure)]);
    // A lie about a single key is not believed either.
    bench.read(CLUSTER, &[put("a", 29)], 31).unwrap();
    assert_eq!(bench.events(), [Event::Synced]);
}

#[test]
fn another_cluster_starts_anew() {
    let mut bench = Bench::watching(&[put("a", 50), put("b", 51)], 90);
    bench.end(stream_ended());
    bench.read(8, &[put("a", 2)], 3).unwrap();
    let expected = [Event::ClusterChanged, changed("a", 2), deleted("b", 3), Event::Synced];
    assert_eq!(bench.events(), expected);
    // A stream of another cluster makes everything be read again, at once.
    bench.open();
    bench.rules.handle_message(bench.now, 0, 9, [put("a", 1)]);
    assert_eq!(bench.events(), []);
    assert_eq!(bench.poll(), Step::Read);
}

#[test]
fn clusters_do_not_mix_in_one_read() {
    let mut bench = Bench::watching(&[put("a", 5)], 9);
    bench.end(stream_ended());
    bench.until_read();
    bench.rules.handle_page(ENDPOINT, CLUSTER, 9, [put("a", 5)]).unwrap();
    assert!(bench.rules.handle_page(ENDPOINT, 8, 9, [put("b", 5)]).is_err());
}

#[test]
fn the_end_of_a_stream_alone_is_no_outage() {
    let mut bench = Bench::watching(&[put("a", 5)], 9);
    let compacted = Failure::Compacted { endpoint: ENDPOINT.into() };
    for end in [stream_ended(), End::Stream(compacted.clone()), End::Failed(compacted)] {
        bench.end(end);
        assert!(bench.until_read() <= Duration::from_secs(2));
        assert_eq!(bench.events(), []);
    }
    bench.read(CLUSTER, &[put("a", 40)], 40).unwrap();
    assert_eq!(bench.events(), [changed("a", 40), Event::Synced]);
    assert_eq!(bench.poll(), Step::Watch { after: 40 });
}

#[test]
fn an_outage_is_told_once_and_its_end_after_what_was_missed() {
    let mut bench = Bench::watching(&[put("a", 5)], 9);
    for _ in 0..5 {
        bench.end(End::Failed(unreachable()));
        bench.until_read();
    }
    assert_eq!(bench.events(), [Event::Unreachable(unreachable())]);
    bench.read(CLUSTER, &[put("a", 12)], 12).unwrap();
    bench.open();
    assert_eq!(bench.events(), [changed("a", 12), Event::Synced]);
    bench.message(&[]);
    assert_eq!(bench.events(), [Event::Back]);
}

#[test]
fn every_stream_has_to_speak_before_the_outage_is_over() {
    let mut bench = Bench::new(2);
    bench.end(End::Failed(unreachable()));
    bench.read(CLUSTER, &[], 3).unwrap();
    bench.open();
    bench.events();
    bench.rules.handle_message(bench.now, 0, CLUSTER, []);
    assert_eq!(bench.events(), []);
    bench.rules.handle_message(bench.now, 1, CLUSTER, []);
    assert_eq!(bench.events(), [Event::Back]);
}

#[test]
fn delays_grow_with_jitter_and_are_bounded() {
    let mut bench = Bench::new(1);
    let mut longest = Duration::ZERO;
    for round in 0..200 {
        bench.end(End::Failed(unreachable()));
        let waited = bench.until_read();
        let bound = Duration::from_millis(500 << round.min(6)).min(Duration::from_secs(30));
        assert!(waited <= bound, "{round}: {waited:?}");
        longest = longest.max(waited);
    }
    assert!(Duration::from_secs(20) < longest, "{longest:?}");

    // A stream that does not hold does not start them anew; one that holds does.
    bench.read(CLUSTER, &[], 3).unwrap();
    bench.open();
    bench.poll();
    bench.end(stream_ended());
    assert!(3 < bench.rules.failure_count);
    bench.read(CLUSTER, &[], 3).unwrap();
    bench.open();
    bench.pass(30);
    bench.message(&[]);
    bench.pass(31);
    bench.message(&[]);
    bench.poll();
    bench.end(stream_ended());
    assert_eq!(bench.rules.failure_count, 1);
}

#[test]
fn a_denial_is_tried_again_at_once_and_then_slowly() {
    let mut bench = Bench::watching(&[], 9);
    bench.end(End::Stream(denied()));
    assert_eq!(bench.until_read(), Duration::ZERO);
    assert_eq!(bench.events(), []);
    for _ in 0..3 {
        bench.end(End::Failed(denied()));
        let waited = bench.until_read();
        assert!((15..=30).contains(&waited.as_secs()), "{waited:?}");
    }
    assert_eq!(bench.events(), [Event::Unreachable(denied())]);
    // Of another kind now.
    bench.end(End::Failed(unreachable()));
    assert_eq!(bench.events(), [Event::Unreachable(unreachable())]);
    // A stream that is denied after a read that is not: no endless loop, and no news of an end of the outage.
    bench.end(End::Failed(denied()));
    bench.end(End::Failed(denied()));
    bench.events();
    for _ in 0..3 {
        bench.read(CLUSTER, &[], 9).unwrap();
        bench.open();
        bench.end(End::Stream(denied()));
        assert!(Duration::from_secs(15) <= bench.until_read());
    }
    assert_eq!(bench.events(), vec![Event::Synced; 3]);
}

#[test]
fn a_stream_is_asked_for_a_sign_of_life_and_given_up_when_there_is_none() {
    let mut bench = Bench::watching(&[], 9);
    let begun = bench.now;
    let mut asked = 0;
    loop {
        match bench.poll() {
            Step::Ask => asked += 1,
            Step::Wait(until) => bench.now = until,
            Step::Read => break,
            Step::Watch { .. } => panic!("the stream is open"),
        }
        assert!(asked < 10);
    }
    assert_eq!(asked, 3);
    let silent = bench.now - begun;
    assert!((40..=41).contains(&silent.as_secs()), "{silent:?}");
    assert_eq!(bench.events(), []);
}

#[test]
fn one_silent_stream_of_two_is_enough() {
    let mut bench = Bench::new(2);
    bench.read(CLUSTER, &[], 9).unwrap();
    bench.open();
    for _ in 0..5 {
        bench.pass(10);
        bench.rules.handle_message(bench.now, 1, CLUSTER, []);
        bench.poll();
    }
    assert!(matches!(bench.rules.phase, Phase::Waiting { .. } | Phase::Reading));
}

#[test]
fn too_many_documents_are_a_failure_that_goes_away() {
    let many: Vec<Found> = (0..=KEYS_MAX).map(|index| put(&format!("a{index}"), 1)).collect();
    let mut bench = Bench::new(1);
    let failure = bench.read(CLUSTER, &many, 9).unwrap_err();
    assert!(matches!(failure, Failure::TooMany { .. }));
    bench.end(End::Failed(failure));
    bench.events();
    bench.read(CLUSTER, &many[..KEYS_MAX], 10).unwrap();
    bench.open();
    // One more does not fit: everything is read again.
    bench.message(&[put("b", 11)]);
    assert_eq!(bench.poll(), Step::Read);
    assert!(bench.rules.known.len() <= KEYS_MAX + 1);
}

/// What a lying etcd may do between two honest reads.
#[derive(Clone, Debug)]
enum Lie {
    Deliver(usize),
    Lose,
    End,
    StaleRead(u64),
}

proptest! {
    /// Whatever is lost, repeated or reordered, revisions told for a key only rise, each told text is that of its
    /// revision, and after an honest read what was told is what is there.
    #[test]
    fn a_lying_etcd_does_no_harm(
        writes in prop::collection::vec((0..4usize, any::<bool>()), 1..30),
        lies in prop::collection::vec(
            prop_oneof![
                (0..40usize).prop_map(Lie::Deliver),
                Just(Lie::Lose),
                Just(Lie::End),
                (0..40u64).prop_map(Lie::StaleRead),
            ],
            0..60,
        ),
    ) {
        let names = ["_default", "a", "b", "c"];
        // The true history: one write for each revision from 1.
        let history: Vec<Found> = writes.iter().zip(1..).map(|((who, exists), revision)| {
            if *exists { put(names[*who], revision) } else { deletion(names[*who], revision) }
        }).collect();
        let state_at = |revision: Revision| -> Vec<Found> {
            names.iter().filter_map(|name| {
                let last = history.iter().rfind(|found| {
                    found.key == key(name) && found.revision <= revision
                })?;
                last.text.is_some().then(|| last.clone())
            }).collect()
        };
        let mut told: BTreeMap<Key, (Revision, bool)> = BTreeMap::new();
        let mut take = |bench: &mut Bench| {
            for event in bench.events() {
                let (key, revision, exists) = match event {
                    Event::Changed { key, revision, text } => {
                        assert_eq!(text, Ok(format!("{key}@{revision}")));
                        (key, revision, true)
                    }
                    Event::Deleted { key, revision } => (key, revision, false),
                    _ => continue,
                };
                let before = told.insert(key, (revision, exists));
                assert!(before.is_none_or(|(before, _)| before < revision));
            }
            told.clone()
        };

        let mut bench = Bench::new(1);
        let newest = history.len() as u64;
        for lie in lies {
            match lie {
                Lie::Deliver(index) => {
                    if bench.poll() == (Step::Watch { after: bench.rules.read }) {
                        bench.rules.handle_open(bench.now);
                    }
                    bench.message(&history[index % history.len()..][..1]);
                }
                Lie::Lose => {}
                Lie::End => bench.end(stream_ended()),
                Lie::StaleRead(revision) => {
                    let revision = revision.min(newest);
                    bench.end(stream_ended());
                    if let Err(failure) = bench.read(CLUSTER, &state_at(revision), revision) {
                        bench.end(End::Failed(failure));
                    }
                }
            }
            take(&mut bench);
        }
        bench.end(stream_ended());
        bench.read(CLUSTER, &state_at(newest), newest).unwrap();
        let told = take(&mut bench);
        let there: Vec<Key> = state_at(newest).into_iter().map(|found| found.key).collect();
        for name in names {
            let exists = told.get(&key(name)).is_some_and(|(_, exists)| *exists);
            prop_assert_eq!(exists, there.contains(&key(name)), "{}", name);
        }
    }
}
