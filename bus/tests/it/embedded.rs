//! What only the embedded bus promises: its directory, its retention and its clock.

use std::sync::Arc;
use std::time::Duration;

use bus::embedded::{Database, OpenError, Options, Retention};
use bus::{Bus, Delivery, Offset, Partition, PublishError, Selection, Start, Topic, Watermarks};
use tempfile::TempDir;

use crate::contract::{Place, contract_suite};
use crate::support::{
    History, TestClock, at, keys, large, live, metrics, next, open, read, read_all, watermarks,
};

impl Place for TempDir {
    async fn open(&self) -> Arc<dyn Bus> {
        open(self.path(), Options::default()).bus()
    }
}

contract_suite!(Some(tempfile::tempdir().unwrap()));

/// Looks at retention all the time.
fn eager(clock: &TestClock, monitoring_data: Retention) -> Options {
    Options {
        monitoring_data,
        retention_interval: Duration::from_millis(5),
        clock: clock.clock(),
        ..Options::default()
    }
}

const FOREVER: Duration = Duration::from_secs(1 << 40);

/// Waits until retention has brought monitoring-data to where it is `wanted`.
async fn settled(bus: &dyn Bus, wanted: impl Fn(&Watermarks) -> bool) -> Watermarks {
    for _ in 0..2000 {
        let marks = watermarks(bus, Topic::MonitoringData).await;
        if wanted(&marks) {
            return marks;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("retention did not come");
}

/// As a reader that has seen offset 0, and asks for what came after.
fn from_start() -> Start {
    at(1)
}

#[tokio::test]
async fn a_second_opener_is_refused_and_the_directory_named() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), Options::default());
    let error = Database::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()));
    first.bus().close().await.unwrap();
    open(dir.path(), Options::default());
}

#[tokio::test]
async fn what_another_version_or_program_wrote_is_refused_and_kept() {
    async fn check(format: &str, expected: fn(&OpenError) -> bool) {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), Options::default()).bus().close().await.unwrap();
        let file = dir.path().join("FORMAT");
        std::fs::write(&file, format).unwrap();
        // It would say otherwise: then the file is damaged.
        std::fs::remove_file(dir.path().join("MARK")).unwrap();
        let error = Database::open(dir.path(), Options::default()).unwrap_err();
        assert!(expected(&error), "{format:?}: {error:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format);
    }
    check(
        "picket-bus 2\n",
        |error| matches!(error, OpenError::NewerFormat { found, supported: 1, .. } if found == "2"),
    )
    .await;
    check("picket-bus two\n", |e| matches!(e, OpenError::NewerFormat { .. })).await;
    check("picket-bus 0\n", |e| matches!(e, OpenError::Foreign { .. })).await;
    check("something else\n", |e| matches!(e, OpenError::Foreign { .. })).await;
    check("", |e| matches!(e, OpenError::Foreign { .. })).await;

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    let error = Database::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Database::open(&file.join("below"), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Directory { .. }), "{error:?}");
}

#[tokio::test]
async fn a_drop_without_close_loses_nothing_and_frees_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), Options::default());
    let bus = database.bus();
    bus.publish(vec![metrics("a", 1)]).await.unwrap();
    let mut reader =
        bus.subscribe(Topic::MonitoringData, Start::Tail, Selection::All).await.unwrap();
    drop((bus, database));
    assert_eq!(next(&mut *reader).await, Delivery::CaughtUp);
    // A reader alone keeps nothing open, and learns of the end.
    assert!(reader.next().await.is_err());
    let bus = open(dir.path(), Options::default()).bus();
    assert_eq!(read_all(&*bus).await.sequences(), [1]);
}

#[tokio::test]
async fn records_over_the_limit_are_refused_and_nothing_of_their_group_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let bus = open(dir.path(), Options::default()).bus();
    let max = 256 * 1024;
    let group = vec![metrics("a", 1), large("b", 2, max), metrics("a", 3)];
    match bus.publish(group).await {
        Err(PublishError::TooLarge { key, bytes, max: limit }) => {
            assert_eq!(key.as_str(), "b");
            assert!(max < bytes);
            assert_eq!(limit, max);
        }
        other => panic!("{other:?}"),
    }
    bus.publish(vec![large("b", 4, max - 200)]).await.unwrap();
    assert_eq!(read_all(&*bus).await.sequences(), [4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_wait_for_room_in_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { queue_bytes: 1000, ..Options::default() };
    let bus = open(dir.path(), options).bus();
    // Each is larger than the whole queue.
    let publishers: Vec<_> = (1..50)
        .map(|sequence| {
            let bus = Arc::clone(&bus);
            tokio::spawn(async move { bus.publish(vec![large("a", sequence, 5000)]).await })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap().unwrap();
    }
    assert_eq!(read_all(&*bus).await.entries.len(), 49);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_is_searched_and_never_falls() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(1000);
    let options = || Options { clock: clock.clock(), ..Options::default() };
    let bus = open(dir.path(), options()).bus();
    for (sequence, unix_ms) in [(1, 1000), (2, 2000), (3, 500), (4, 3000)] {
        clock.set(unix_ms);
        bus.publish(vec![metrics("a", sequence)]).await.unwrap();
    }
    bus.close().await.unwrap();
    clock.set(0);
    let bus = open(dir.path(), options()).bus();
    bus.publish(vec![metrics("a", 5)]).await.unwrap();

    let times: Vec<_> = read_all(&*bus).await.entries.iter().map(|e| e.stored_ms).collect();
    assert_eq!(times, [1000, 2000, 2000, 3000, 3000]);
    for (unix_ms, expected) in [
        (i64::MIN, vec![1, 2, 3, 4, 5]),
        (1000, vec![1, 2, 3, 4, 5]),
        (1001, vec![2, 3, 4, 5]),
        (2000, vec![2, 3, 4, 5]),
        (2001, vec![4, 5]),
        (3001, vec![]),
        (i64::MAX, vec![]),
    ] {
        for selection in [Selection::All, keys(&["a"])] {
            let found = read(&*bus, Start::Time(unix_ms), selection).await;
            assert_eq!(found.sequences(), expected, "{unix_ms}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_by_age_removes_what_is_old_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let limits = Retention { bytes: u64::MAX, age: Duration::from_secs(10) };
    let bus = open(dir.path(), eager(&clock, limits)).bus();
    let mut slow = bus.subscribe(Topic::MonitoringData, Start::Tail, Selection::All).await.unwrap();
    for sequence in 1..=20 {
        clock.set(i64::try_from(sequence).unwrap() * 1000);
        bus.publish(vec![metrics("a", sequence)]).await.unwrap();
    }
    // At 20 s, what was stored before 10 s is too old.
    settled(&*bus, |marks| marks.first == Offset(10)).await;
    let History { entries, skipped } = read(&*bus, from_start(), Selection::All).await;
    assert_eq!(entries.len(), 11);
    assert_eq!(skipped, [(1, 9)]);
    assert_eq!(read(&*bus, Start::Last(100), keys(&["a"])).await.sequences().len(), 11);
    assert_eq!(read(&*bus, Start::Last(100), Selection::All).await.skipped, []);
    assert_eq!(read(&*bus, Start::Time(0), Selection::All).await.skipped, []);

    let (first, last) = (Offset(1), Offset(9));
    let gone = Delivery::Skipped { partition: Partition(0), first, last };
    assert_eq!(next(&mut *slow).await, gone);
    assert_eq!(next(&mut *slow).await, Delivery::CaughtUp);
    assert_eq!(live(&mut *slow, 11).await, (10..=20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_and_time_go_on_after_retention_emptied_a_topic() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(1000);
    let limits = Retention { bytes: u64::MAX, age: Duration::from_secs(10) };
    let bus = open(dir.path(), eager(&clock, limits)).bus();
    bus.publish((1..=5).map(|sequence| metrics("a", sequence)).collect()).await.unwrap();
    clock.set(100_000);
    let empty = settled(&*bus, |marks| marks.first == Offset(6)).await;
    assert_eq!((empty.next, empty.bytes), (Offset(6), Some(0)));
    assert_eq!(read(&*bus, from_start(), Selection::All).await.skipped, [(1, 5)]);
    bus.close().await.unwrap();

    clock.set(0);
    let bus = open(dir.path(), eager(&clock, limits)).bus();
    assert_eq!(watermarks(&*bus, Topic::MonitoringData).await, empty);
    bus.publish(vec![metrics("a", 6)]).await.unwrap();
    let entries = read_all(&*bus).await.entries;
    assert_eq!(entries[0].offset, Offset(6));
    assert_eq!(entries[0].stored_ms, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_of_the_clock_ages_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(1_700_000_000_000);
    let limits = Retention { bytes: u64::MAX, age: Duration::from_secs(30 * 86_400) };
    let options = || Options { clock: clock.stepping(), ..eager(&clock, limits) };
    const TEN_YEARS_MS: i64 = 10 * 366 * 86_400_000;

    let bus = open(dir.path(), options()).bus();
    bus.publish(vec![metrics("a", 1)]).await.unwrap();
    clock.set(1_700_000_000_000 + TEN_YEARS_MS);
    bus.publish(vec![metrics("a", 2)]).await.unwrap();
    // Retention comes every few milliseconds; nothing tells when it came and did nothing.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(read_all(&*bus).await.sequences(), [1, 2]);
    bus.close().await.unwrap();

    // Nor do steps while it is closed, either way: a day at most counts of such a time.
    for step in [-TEN_YEARS_MS, 3 * TEN_YEARS_MS] {
        clock.set(1_700_000_000_000 + step);
        let bus = open(dir.path(), options()).bus();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(read_all(&*bus).await.sequences(), [1, 2]);
        bus.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_by_bytes_bounds_a_topic_and_its_disk() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let bytes = 2 * 1024 * 1024;
    let limits = Retention { bytes, age: FOREVER };
    let options = || Options { memory_bytes: 8 * 1024 * 1024, ..eager(&clock, limits) };
    let bus = open(dir.path(), options()).bus();
    let mut sequence = 0;
    for _ in 0..120 {
        let records = std::iter::repeat_with(|| {
            sequence += 1;
            large(if sequence % 2 == 0 { "even" } else { "odd" }, sequence, 1000)
        });
        bus.publish(records.take(100).collect()).await.unwrap();
    }
    let marks = settled(&*bus, |marks| marks.bytes <= Some(bytes)).await;
    let first = marks.first.0;
    assert_eq!(marks.next, Offset(12_001));
    assert!(Some(bytes / 2) < marks.bytes, "no more is removed than must be");

    // Both ways to read agree on what is left.
    let mut all = read(&*bus, at(first), Selection::All).await.sequences();
    let even = read(&*bus, at(first), keys(&["even"])).await.sequences();
    all.retain(|sequence| sequence % 2 == 0);
    assert_eq!(all, even);
    assert_eq!(all.last(), Some(&12_000));
    assert_eq!(read(&*bus, from_start(), keys(&["odd"])).await.skipped, [(1, first - 1)]);

    // The log's own tables: what was published is six times as much as may be kept.
    bus.close().await.unwrap();
    let bus = open(dir.path(), options()).bus();
    assert_eq!(watermarks(&*bus, Topic::MonitoringData).await.next, marks.next);
    bus.close().await.unwrap();
    let tables: u64 = walk(&dir.path().join("db/keyspaces"));
    assert!(tables < 2 * bytes, "{tables}");
}

fn walk(dir: &std::path::Path) -> u64 {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() { walk(&entry.path()) } else { metadata.len() }
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_retention_overtakes_again_and_again_accounts_for_every_offset() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::at(0);
    let limits = Retention { bytes: 100_000, age: FOREVER };
    let bus = open(dir.path(), eager(&clock, limits)).bus();
    let publisher = tokio::spawn({
        let bus = Arc::clone(&bus);
        async move {
            for round in 0..200 {
                let records = (1..=20).map(|n| large("a", round * 20 + n, 500));
                bus.publish(records.collect()).await.unwrap();
            }
        }
    });
    let mut reader =
        bus.subscribe(Topic::MonitoringData, from_start(), keys(&["a"])).await.unwrap();
    let mut expected = 1;
    while expected <= 4000 {
        match next(&mut *reader).await {
            Delivery::Entries(entries) => {
                for entry in entries {
                    assert_eq!(entry.offset, Offset(expected));
                    expected += 1;
                }
            }
            Delivery::Skipped { partition: _, first, last } => {
                assert_eq!(first, Offset(expected));
                expected = last.0 + 1;
            }
            Delivery::CaughtUp => {}
        }
        if expected % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    publisher.await.unwrap();
}
