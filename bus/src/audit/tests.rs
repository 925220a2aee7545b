use proto::{AlertRecord, Hello, Record, SpoolStatus};

use super::*;

const FIRST: BootId = BootId { counter: 1, nonce: 7 };
const SECOND: BootId = BootId { counter: 2, nonce: 9 };

/// An audit and a clock that rises with each record.
struct Bench {
    audit: Audit,
    now_ms: i64,
}

impl Bench {
    fn new(history: History) -> Self {
        Self { audit: Audit::new(history), now_ms: 0 }
    }

    fn place(&mut self) -> Place {
        self.now_ms += 1;
        Place { partition: Partition(0), stored_ms: self.now_ms }
    }

    fn status(&mut self, boot: BootId, event: StatusEvent, record: StatusRecord) -> &mut Self {
        let place = self.place();
        let record = StatusRecord {
            agent_id: "a".into(),
            boot: Some(boot.into()),
            event: event.into(),
            ..record
        };
        self.audit.handle_status(place, &record);
        self
    }

    fn connected(&mut self, boot: BootId, session: u64) -> &mut Self {
        let hello = Some(Hello { session, ..Hello::default() });
        self.status(boot, StatusEvent::Connected, StatusRecord { hello, ..StatusRecord::default() })
    }

    fn said(&mut self, boot: BootId, status: AgentStatus) -> &mut Self {
        let status = Some(status);
        self.status(
            boot,
            StatusEvent::Heartbeat,
            StatusRecord { status, ..StatusRecord::default() },
        )
    }

    fn lost(&mut self, boot: BootId, reason: LossReason, first: u64, last: u64) -> &mut Self {
        let losses = vec![Loss { first, last, reason: reason.into(), ..Loss::default() }];
        self.status(boot, StatusEvent::Loss, StatusRecord { losses, ..StatusRecord::default() })
    }

    fn alerts(&mut self, boot: BootId, sequences: &[u64]) -> &mut Self {
        let alert = |sequence: &u64| AlertRecord { sequence: *sequence, ..AlertRecord::default() };
        let alerts = sequences.iter().map(alert).collect();
        self.status(boot, StatusEvent::Alert, StatusRecord { alerts, ..StatusRecord::default() })
    }

    fn records(&mut self, boot: BootId, sequences: impl IntoIterator<Item = u64>) -> &mut Self {
        sequences.into_iter().for_each(|sequence| self.record(Some(boot), sequence, false));
        self
    }

    fn replayed(&mut self, boot: BootId, sequences: impl IntoIterator<Item = u64>) -> &mut Self {
        sequences.into_iter().for_each(|sequence| self.record(Some(boot), sequence, true));
        self
    }

    fn record(&mut self, boot: Option<BootId>, sequence: u64, replayed: bool) {
        let place = self.place();
        let record = MetricsRecord {
            agent_id: "a".into(),
            boot: boot.map(Into::into),
            record: Some(Record { sequence, ..Record::default() }),
            replayed,
            ..MetricsRecord::default()
        };
        self.audit.handle_metrics(place, &record);
    }

    fn agent(&self) -> AgentReport {
        self.audit.report().agents.remove(0)
    }

    fn boots(&self) -> Vec<BootReport> {
        self.agent().boots
    }
}

/// Balanced books.
fn books(recorded: u64, held: u64, spooled: u64) -> AgentStatus {
    let ledger = Ledger {
        produced: recorded,
        recorded,
        delivered: recorded - held - spooled,
        held,
        spooled,
        ..Ledger::default()
    };
    AgentStatus { uptime_ms: recorded, ledger: Some(ledger), ..AgentStatus::default() }
}

fn with_spool(status: AgentStatus, records: u64) -> AgentStatus {
    AgentStatus { spool: Some(SpoolStatus { records, ..SpoolStatus::default() }), ..status }
}

#[test]
fn a_boot_that_is_complete_has_no_difference() {
    let mut bench = Bench::new(History::Whole);
    bench
        .connected(FIRST, 1)
        .said(FIRST, books(12, 2, 0))
        .alerts(FIRST, &[1, 2])
        .records(FIRST, 1..=11);
    let report = bench.audit.report();
    assert_eq!((report.difference(), report.pending()), (0, 1));
    let boots = bench.boots();
    assert_eq!((boots.len(), boots[0].state, boots[0].is_whole()), (1, BootState::Live, true));
    assert_eq!((boots[0].records.delivered, boots[0].alerts.delivered), (11, 2));
}

#[test]
fn what_is_missing_is_named_with_its_boot() {
    let mut bench = Bench::new(History::Whole);
    bench.connected(FIRST, 1).said(FIRST, books(10, 0, 0));
    bench.records(FIRST, (1..=10).filter(|sequence| *sequence != 4));
    let boots = bench.boots();
    assert_eq!(boots[0].records.missing.ranges, [4..=4]);
    assert_eq!((boots[0].records.missing.acknowledged, boots[0].difference()), (1, 1));
}

#[test]
fn alerts_have_books_of_their_own() {
    let mut bench = Bench::new(History::Whole);
    let mut status = books(3, 0, 0);
    let alerts = AlertLedger { recorded: 4, delivered: 4, ..AlertLedger::default() };
    status.ledger.as_mut().unwrap().alerts = Some(alerts);
    bench
        .connected(FIRST, 1)
        .said(FIRST, status)
        .alerts(FIRST, &[1, 2, 2, 4])
        .records(FIRST, 1..=3);
    let boots = bench.boots();
    assert_eq!(boots[0].alerts.missing.ranges, [3..=3]);
    assert_eq!((boots[0].alerts.repeats, boots[0].records.missing.count), (1, 0));
}

#[test]
fn books_that_do_not_balance_are_a_difference() {
    let mut bench = Bench::new(History::Whole);
    let mut status = books(3, 0, 0);
    status.ledger.as_mut().unwrap().produced = 5;
    bench.connected(FIRST, 1).said(FIRST, status).records(FIRST, 1..=3);
    let boots = bench.boots();
    assert_eq!(boots[0].snapshots.as_ref().unwrap().imbalance(), 2);
    assert_eq!(boots[0].difference(), 2);
}

#[test]
fn the_end_of_a_killed_boot_is_open_until_its_crash_is_declared() {
    let mut bench = Bench::new(History::Whole);
    bench.connected(FIRST, 1).said(FIRST, books(10, 3, 0)).connected(SECOND, 1);
    bench.records(FIRST, 1..=7).records(SECOND, 1..=2);
    let states =
        |bench: &Bench| -> Vec<BootState> { bench.boots().iter().map(|boot| boot.state).collect() };
    assert_eq!(states(&bench), [BootState::Open, BootState::Live]);
    // The newer one has not spoken: it may have a spool.
    assert_eq!(bench.boots()[0].records.pending.held, 3);
    bench.said(SECOND, books(2, 0, 0));
    assert_eq!(bench.boots()[0].records.pending.open, 3);
    bench.lost(FIRST, LossReason::Crash, 8, 4096);
    assert_eq!(states(&bench), [BootState::Ended, BootState::Live]);
    assert_eq!(bench.boots()[0].records.lost, BTreeMap::from([("crash", 4089)]));
    assert_eq!((bench.audit.report().pending(), bench.audit.report().difference()), (0, 0));
}

#[test]
fn a_gap_of_an_earlier_boot_is_missing_unless_the_spool_has_it() {
    let mut bench = Bench::new(History::Whole);
    bench.connected(FIRST, 1).said(FIRST, books(2, 0, 0)).connected(SECOND, 1);
    bench.said(SECOND, with_spool(books(1, 0, 0), 3));
    bench.records(FIRST, [1, 2, 6, 7]).records(SECOND, [1]);
    assert_eq!(bench.boots()[0].records.pending.spooled, 3);
    bench
        .replayed(FIRST, [5, 4])
        .said(SECOND, AgentStatus { uptime_ms: 2, ..with_spool(books(1, 0, 0), 0) });
    let boots = bench.boots();
    assert_eq!(boots[0].records.missing.ranges, [3..=3]);
    assert_eq!((boots[0].records.replayed, boots[0].records.disordered), (2, 0));
}

#[test]
fn what_retention_removed_is_before_the_history() {
    let mut bench = Bench::new(History::Whole);
    bench.audit.handle_cut(Topic::MonitoringData, Partition(0));
    bench.connected(FIRST, 1).said(FIRST, books(60, 0, 0));
    bench.records(FIRST, 41..=60);
    let boots = bench.boots();
    assert_eq!((boots[0].records.before, boots[0].records.delivered), (40, 20));
    assert_eq!((boots[0].difference(), boots[0].is_whole()), (0, false));
    // A boot that began since must be there from its first record.
    bench.connected(SECOND, 1).said(SECOND, books(5, 0, 0)).records(SECOND, 3..=5);
    assert_eq!(bench.boots()[1].records.missing.ranges, [1..=2]);
}

#[test]
fn a_loss_that_was_declared_before_the_history_of_statuses_is_not_missing() {
    let mut bench = Bench::new(History::Whole);
    bench.audit.handle_cut(Topic::AgentStatus, Partition(0));
    bench.now_ms = 1000;
    bench.connected(FIRST, 4).said(FIRST, books(60, 0, 0));
    bench.now_ms = 0;
    bench.records(FIRST, (1..=10).chain(15..=40));
    bench.now_ms = 1000;
    bench.records(FIRST, (41..=60).filter(|sequence| *sequence != 50));
    let records = &bench.boots()[0].records;
    assert_eq!((records.before, &records.missing.ranges[..]), (40, &[50..=50][..]));
}

#[test]
fn an_agent_whose_records_are_all_before_the_history_is_not_judged() {
    let mut bench = Bench::new(History::Recent);
    bench.connected(FIRST, 3).said(FIRST, books(60, 0, 0));
    let boots = bench.boots();
    assert_eq!((boots[0].records.before, boots[0].difference()), (60, 0));
}

#[test]
fn counts_that_came_after_the_records_were_read_are_left_out() {
    let mut bench = Bench::new(History::Whole);
    bench.connected(FIRST, 1).said(FIRST, books(5, 0, 0)).records(FIRST, (1..=5).chain([8]));
    let place = bench.place();
    let later = |event: StatusEvent| StatusRecord {
        agent_id: "a".into(),
        boot: Some(FIRST.into()),
        event: event.into(),
        ..StatusRecord::default()
    };
    let heartbeat = StatusRecord { status: Some(books(9, 0, 0)), ..later(StatusEvent::Heartbeat) };
    bench.audit.handle_later_status(place, &heartbeat);
    assert_eq!(bench.boots()[0].records.pending.unjudged, 2);
    let losses =
        vec![Loss { first: 6, last: 7, reason: LossReason::Link.into(), ..Loss::default() }];
    let loss = StatusRecord { losses, ..later(StatusEvent::Loss) };
    bench.audit.handle_later_status(place, &loss);
    let report = bench.audit.report();
    assert_eq!((report.pending(), report.difference()), (0, 0));
}

#[test]
fn plain_clients_are_counted() {
    let mut bench = Bench::new(History::Whole);
    bench.record(None, 0, false);
    bench.record(Some(FIRST), 0, false);
    let agent = bench.agent();
    assert_eq!((agent.plain, agent.boots.len(), agent.difference()), (2, 0, 0));
}

#[test]
fn a_word_is_taken_when_it_is_newer() {
    let mut bench = Bench::new(History::Whole);
    bench.audit.handle_word("a", FIRST, &books(9, 2, 0));
    bench.connected(FIRST, 1).said(FIRST, books(5, 0, 0)).records(FIRST, 1..=7);
    assert_eq!(bench.boots()[0].records.word.unwrap().recorded, 9);
    assert_eq!(bench.boots()[0].records.pending.held, 2);
}
