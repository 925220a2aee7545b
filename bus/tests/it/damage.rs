//! Damage to a stored database: whatever it is, the bus opens, gives what is whole, and says what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bus::embedded::{Database, Options};
use bus::{Bus, Damage, DocumentStore, Offset, Payload, Record, Topic};
use proto::Boot;
use tempfile::TempDir;

use crate::images::Image;
use crate::support::{History, any, key, metrics, read_all, watermarks};

/// How many changes a run tries of each kind, evenly spread; by hand `BUS_DAMAGE_COUNT=0` tries all.
const COUNT_VARIABLE: &str = "BUS_DAMAGE_COUNT";
const COUNT_DEFAULT: usize = 20;

const RECORDS: u64 = 300;
const IN_TABLES: u64 = 200;

/// Records in a block, somewhat more than there are.
const BLOCK_RECORDS: usize = 24;
const BOOT: Boot = Boot { counter: 3, nonce: 0xabcd };

/// Small buffers, so that there are tables.
fn options() -> Options {
    Options { memory_bytes: 8 * 1024 * 1024, ..Options::default() }
}

/// A record with a boot, so that it has an identity, of some size.
fn record(sequence: u64) -> Record {
    let bytes: u64 = if sequence <= IN_TABLES { 1000 } else { 100 };
    let agent = if sequence.is_multiple_of(3) { "thirds" } else { "others" };
    let mut record = metrics(agent, sequence);
    if let Payload::Metrics(metrics) = &mut record.payload {
        metrics.boot = Some(BOOT);
        // Numbers that do not compress away.
        let fill: String = (0..bytes / 16)
            .map(|n| format!("{:016x}", (n + sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .collect();
        metrics.metadata.insert("fill".to_owned(), fill);
    }
    record
}

/// A database whose first records are in tables only, and whose last are in the journal only.
async fn image() -> Image {
    let dir = scratch();
    for (sequences, write_out) in [(1..=IN_TABLES, true), (IN_TABLES + 1..=RECORDS, false)] {
        let database = Database::open(dir.path(), options()).unwrap();
        let (bus, documents) = (database.bus(), database.documents());
        for first in sequences.step_by(10) {
            bus.publish((first..first + 10).map(record).collect()).await.unwrap();
            if first % 50 == 1 {
                documents.put("edge", Some(&format!("document {first}")), None).await.unwrap();
                bus.publish(vec![any(Topic::AgentStatus, "others")]).await.unwrap();
            }
        }
        if write_out {
            database.write_out().unwrap();
        }
        bus.close().await.unwrap();
        if write_out {
            // All of it is in tables. The library removes a journal then, once there is another.
            std::fs::write(dir.path().join("db/0.jnl"), "").unwrap();
        }
    }
    Image::of(dir.path())
}

/// A directory in memory where there is one: no test here loses power, and each opens databases by the dozen.
pub(crate) fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap_or_else(|_| TempDir::new().unwrap())
}

fn is_table_of(path: &Path, keyspace: u64) -> bool {
    path.starts_with(format!("db/keyspaces/{keyspace}/tables"))
}

/// What a database opened to.
struct Outcome {
    history: History,
    damage: Vec<Damage>,
    document: Option<String>,
}

/// Opens an image and reads everything, twice: what was repaired once stays so.
async fn open(image: &Image, dir: &Path, what: &str) -> Outcome {
    image.lay_out(dir);
    let mut first: Option<Outcome> = None;
    for round in 0..2 {
        let database = Database::open(dir, options())
            .unwrap_or_else(|error| panic!("{what}, round {round}: {error:?}"));
        let (bus, documents) = (database.bus(), database.documents());
        let history = read_all(&*bus).await;
        let document = documents.get("edge").await.unwrap().and_then(|document| document.text);
        let damage = bus.damage().await.unwrap();
        let before = watermarks(&*bus, Topic::MonitoringData).await.next;
        bus.publish(vec![record(RECORDS + 1)]).await.unwrap();
        assert!(Offset(RECORDS) < before, "{what}: offset {before} was given before");
        bus.close().await.unwrap();
        let outcome = Outcome { history, damage, document };
        if let Some(first) = &first {
            let old = first.history.entries.len();
            assert_eq!(outcome.history.entries[..old], first.history.entries, "{what}");
            assert_eq!(outcome.damage, first.damage, "{what}");
        } else {
            first = Some(outcome);
        }
    }
    first.unwrap()
}

/// Checks that nothing read was changed, and that all that is missing is announced, by offset and by name.
fn check(outcome: &Outcome, what: &str) -> BTreeSet<u64> {
    let mut read = BTreeSet::new();
    for entry in &outcome.history.entries {
        let sequence = entry.offset.0;
        assert_eq!(entry.payload, record(sequence).payload, "{what}");
        read.insert(sequence);
    }
    let missing: BTreeSet<u64> = (1..=RECORDS).filter(|n| !read.contains(n)).collect();
    let skipped = outcome.history.skipped.iter().flat_map(|(first, last)| *first..=*last);
    assert_eq!(skipped.collect::<BTreeSet<_>>(), missing, "{what}: readers are told");

    let of_data = || outcome.damage.iter().filter(|lost| lost.topic == Topic::MonitoringData);
    let announced = of_data().flat_map(|lost| &lost.offsets);
    let announced: BTreeSet<u64> = announced.flat_map(|(first, last)| first.0..=last.0).collect();
    assert_eq!(announced, missing, "{what}: the server is told");
    let mut named: BTreeMap<u64, &str> = BTreeMap::new();
    for lost in of_data().flat_map(|lost| &lost.records) {
        assert_eq!(lost.boot, BOOT);
        named.extend((lost.first..=lost.last).map(|sequence| (sequence, lost.agent.as_str())));
    }
    let unnamed: u64 = of_data().map(|lost| lost.unnamed).sum();
    let with_name = missing.iter().filter(|sequence| {
        let agent = if sequence.is_multiple_of(3) { "thirds" } else { "others" };
        named.get(sequence) == Some(&agent)
    });
    assert!(missing.len() as u64 <= with_name.count() as u64 + unnamed, "{what}: {unnamed}");
    missing
}

/// So many of `0..length`, evenly spread, the first and the last among them.
fn spread(length: usize) -> Vec<usize> {
    let count = std::env::var(COUNT_VARIABLE).ok().and_then(|count| count.parse().ok());
    let count: usize = count.unwrap_or(COUNT_DEFAULT);
    if count == 0 || length <= count {
        return (0..length).collect();
    }
    (0..count).map(|index| index * (length - 1) / (count - 1).max(1)).collect()
}

fn all_bytes(image: &Image) -> Vec<(PathBuf, usize)> {
    let files = image.files.iter().filter(|(path, _)| !is_lock(path));
    files.flat_map(|(path, bytes)| (0..bytes.len()).map(|at| (path.clone(), at))).collect()
}

fn is_lock(path: &Path) -> bool {
    path.ends_with("LOCK") || path.ends_with("lock")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_was_not_damaged_opens_whole() {
    let dir = scratch();
    let outcome = open(&image().await, &dir.path().join("image"), "untouched").await;
    assert_eq!(check(&outcome, "untouched"), BTreeSet::new());
    assert_eq!(outcome.document.as_deref(), Some("document 251"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_costs_at_most_one_block() {
    let dir = scratch();
    let whole = image().await;
    let bytes = all_bytes(&whole);
    for index in spread(bytes.len()) {
        let (path, at) = &bytes[index];
        let mut image = whole.clone();
        image.files.get_mut(path).unwrap()[*at] ^= 1 << (at % 8);
        let what = format!("bit {} of byte {at} of {}", at % 8, path.display());
        let missing = check(&open(&image, &dir.path().join("image"), &what).await, &what);
        assert!(missing.len() <= BLOCK_RECORDS, "{what}: {missing:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_small_file_survives_any_flipped_byte() {
    let dir = scratch();
    let whole = image().await;
    let mut places = Vec::new();
    for (path, bytes) in whole.files.iter().filter(|(path, _)| !is_lock(path)) {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used < 6000 && !path.starts_with("db/0.jnl") {
            places.extend((0..used).map(|at| (path, at)));
        }
    }
    for index in spread(places.len()) {
        let (path, at) = places[index];
        let mut image = whole.clone();
        image.files.get_mut(path).unwrap()[at] ^= 0xff;
        let what = format!("byte {at} of {}", path.display());
        let missing = check(&open(&image, &dir.path().join("image"), &what).await, &what);
        // A small table has records too; a list, a mark and a name cost nothing.
        assert!(path.to_string_lossy().contains("tables") || missing.is_empty(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zeroed_page_is_survived() {
    let dir = scratch();
    let whole = image().await;
    let pages: Vec<_> = all_bytes(&whole).into_iter().filter(|(_, at)| at % 4096 == 0).collect();
    for index in spread(pages.len()) {
        let (path, at) = &pages[index];
        let mut image = whole.clone();
        let bytes = image.files.get_mut(path).unwrap();
        let end = bytes.len().min(at + 4096);
        bytes[*at..end].fill(0);
        let what = format!("page at {at} of {}", path.display());
        check(&open(&image, &dir.path().join("image"), &what).await, &what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_cut_short_is_survived() {
    let dir = scratch();
    let whole = image().await;
    let mut cuts = Vec::new();
    for (path, bytes) in whole.files.iter().filter(|(path, _)| !is_lock(path)) {
        let length = bytes.len();
        let keeps = [0, 1, length / 2, length.saturating_sub(65), length.saturating_sub(1)];
        cuts.extend(keeps.map(|keep| (path, keep)));
    }
    for index in spread(cuts.len()) {
        let (path, keep) = cuts[index];
        let mut image = whole.clone();
        image.files.get_mut(path).unwrap().truncate(keep);
        let what = format!("{} cut to {keep}", path.display());
        check(&open(&image, &dir.path().join("image"), &what).await, &what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_doubled_and_swapped_files_are_survived() {
    let dir = scratch();
    let whole = image().await;
    let files: Vec<&PathBuf> = whole.files.keys().filter(|path| !is_lock(path)).collect();
    for index in spread(files.len()) {
        let path = files[index];
        let mut image = whole.clone();
        image.files.remove(path);
        let what = format!("{} is gone", path.display());
        check(&open(&image, &dir.path().join("image"), &what).await, &what);
    }
    let mut pairs = Vec::new();
    for (index, a) in files.iter().enumerate() {
        pairs.extend(files[index + 1..].iter().map(|b| (*a, *b)));
    }
    // These two say whose directory it is, and vouch for each other. With both wrong it is nobody's, and left alone.
    pairs.retain(|(a, b)| !(a.ends_with("FORMAT") && b.ends_with("MARK")));
    for index in spread(pairs.len()) {
        let (a, b) = pairs[index];
        let mut swapped = whole.clone();
        swapped.files.insert(a.clone(), whole.files[b].clone());
        swapped.files.insert(b.clone(), whole.files[a].clone());
        let what = format!("{} and {} swapped", a.display(), b.display());
        check(&open(&swapped, &dir.path().join("image"), &what).await, &what);

        let mut doubled = whole.clone();
        doubled.files.insert(b.clone(), whole.files[a].clone());
        let what = format!("{} in place of {}", a.display(), b.display());
        check(&open(&doubled, &dir.path().join("image"), &what).await, &what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_told_once_it_is_heard_no_more() {
    let dir = scratch();
    let mut image = image().await;
    let table = image.files.iter_mut().find(|(path, _)| is_table_of(path, 1)).unwrap().1;
    table[100] ^= 1;
    let path = dir.path().join("image");
    let outcome = open(&image, &path, "a block").await;
    let [damage] = &outcome.damage[..] else {
        panic!("{:?}", outcome.damage);
    };
    assert_eq!(damage.unnamed, 0, "the index knows them");
    assert!(path.join("damaged").read_dir().unwrap().next().is_some(), "the file is kept");

    let bus = Database::open(&path, options()).unwrap().bus();
    bus.damage_told(damage.number).await.unwrap();
    assert_eq!(bus.damage().await.unwrap(), []);
    bus.close().await.unwrap();
    let bus = Database::open(&path, options()).unwrap().bus();
    assert_eq!(bus.damage().await.unwrap(), []);
    // Known damage is not found again.
    let selection = bus::Selection::Keys([key("others")].into());
    let found = crate::support::read(&*bus, bus::Start::Oldest, selection).await;
    assert!(!found.entries.is_empty());
    bus.close().await.unwrap();
}
