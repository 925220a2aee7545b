//! Crashes at every point of a write and of a repair: what was acknowledged is there, and a torn tail is not
//! taken for damage.
//!
//! The images are put together from those before and after a publish, so that no process has to die at the right byte: only
//! the last batch of a journal is ever not durable, and what a loss of power leaves of it is any part of it.

use std::path::{Path, PathBuf};

use bus::embedded::{Database, Options};
use bus::{Bus, Payload, Topic};

use crate::images::Image;
use crate::support::{large, read_all, watermarks};

/// Every so many bytes a crash is tried; by hand `BUS_TORN_STRIDE=1`.
const STRIDE_VARIABLE: &str = "BUS_TORN_STRIDE";
const STRIDE_DEFAULT: usize = 211;

const JOURNAL: &str = "db/0.jnl";

fn record(sequence: u64) -> bus::Record {
    large("a", sequence, 300)
}

/// The images before and after the publish of the second half, and of the directory closed.
async fn before_and_after() -> (Image, Image) {
    let dir = crate::damage::scratch();
    let bus = Database::open(dir.path(), Options::default()).unwrap().bus();
    bus.publish((1..=5).map(record).collect()).await.unwrap();
    let before = Image::of(dir.path());
    bus.publish((6..=10).map(record).collect()).await.unwrap();
    let after = Image::of(dir.path());
    bus.close().await.unwrap();
    (before, after)
}

fn used(image: &Image) -> usize {
    let bytes = &image.files[Path::new(JOURNAL)];
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// Opens an image of a crash: the first half is there, the second wholly or not, and nothing counts as damage.
async fn check(image: &Image, dir: &Path, what: &str) {
    image.lay_out(dir);
    let mut found = 0;
    for round in 0..2_u64 {
        let bus = Database::open(dir, Options::default())
            .unwrap_or_else(|error| panic!("{what}: {error:?}"))
            .bus();
        let history = read_all(&*bus).await;
        assert_eq!(bus.damage().await.unwrap(), [], "{what}");
        assert_eq!(history.skipped, [], "{what}");
        let sequences = history.sequences();
        if round == 0 {
            found = sequences.len() as u64;
            assert!(found == 5 || found == 10, "{what}: {sequences:?}");
        }
        assert_eq!(sequences, (1..=found + round).collect::<Vec<_>>(), "{what}");
        for (entry, sequence) in history.entries.iter().zip(1..) {
            assert_eq!(entry.payload, record(sequence).payload, "{what}");
        }
        // What comes next is stored behind it, and found when it is opened again.
        bus.publish(vec![record(found + round + 1)]).await.unwrap();
        bus.close().await.unwrap();
    }
    assert!(!dir.join("damaged").exists(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_write_is_cut_off_wherever_it_tore() {
    let dir = crate::damage::scratch();
    let path = dir.path().join("image");
    let (before, after) = before_and_after().await;
    let (start, end) = (used(&before), used(&after));
    let written = after.files[Path::new(JOURNAL)][start..end].to_vec();
    let stride = std::env::var(STRIDE_VARIABLE).ok().and_then(|stride| stride.parse().ok());
    for at in (0..=written.len()).step_by(stride.unwrap_or(STRIDE_DEFAULT)) {
        // The front came, or the back came, or all but a sector of it, or all but a spot within a record.
        let mut front = written.clone();
        front[at..].fill(0);
        let mut back = written.clone();
        back[..at].fill(0);
        let mut hole = written.clone();
        let hole_end = written.len().min(at + 512);
        hole[at..hole_end].fill(0);
        let mut spot = written.clone();
        let spot_end = written.len().min(at + 32);
        spot[at..spot_end].fill(0);
        for (form, batch) in [("front", front), ("back", back), ("hole", hole), ("spot", spot)] {
            let mut image = before.clone();
            let mut journal = image.files[Path::new(JOURNAL)][..start].to_vec();
            journal.extend(batch);
            image.files.insert(PathBuf::from(JOURNAL), journal);
            check(&image, &path, &format!("{form} at {at} of {}", written.len())).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_mark_names_is_missed_when_it_is_gone() {
    let dir = crate::damage::scratch();
    let (before, after) = before_and_after().await;
    // The same bytes as of a torn write, but the mark knows better.
    let mut image = after.clone();
    let journal = image.files.get_mut(Path::new(JOURNAL)).unwrap();
    journal.truncate(used(&before) + 40);
    image.lay_out(dir.path());
    let bus = Database::open(dir.path(), Options::default()).unwrap().bus();
    let history = read_all(&*bus).await;
    assert_eq!(history.sequences(), [1, 2, 3, 4, 5]);
    assert_eq!(history.skipped, [(6, 10)]);
    let damage = bus.damage().await.unwrap();
    assert_eq!(damage.len(), 1);
    assert_eq!((damage[0].offsets[0].0.0, damage[0].offsets[0].1.0), (6, 10));
    assert_eq!(damage[0].unnamed, 5);
    assert_eq!(watermarks(&*bus, Topic::MonitoringData).await.next.0, 11, "no offset twice");
    bus.publish(vec![record(11)]).await.unwrap();
    let entries = read_all(&*bus).await.entries;
    assert!(matches!(entries[5].payload, Payload::Metrics(_)));
    assert_eq!(entries[5].offset.0, 11);
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_may_be_cut_short_anywhere() {
    let dir = crate::damage::scratch();
    let path = dir.path().join("image");
    let (_, after) = before_and_after().await;
    let mut damaged = after;
    // A list of tables that cannot be trusted: nothing is lost by it.
    let list = damaged.files.keys().find(|path| path.ends_with("current")).unwrap().clone();
    damaged.files.get_mut(&list).unwrap()[9] ^= 1;
    damaged.lay_out(&path);
    let bus = Database::open(&path, Options::default()).unwrap().bus();
    assert_eq!(read_all(&*bus).await.entries.len(), 10);
    bus.close().await.unwrap();
    let repaired = Image::of(&path);

    let new: Vec<_> = repaired.files.iter().filter(|(path, _)| path.starts_with("db")).collect();
    let with = |place: &str, count: usize, keep_old: usize| {
        let mut image = damaged.clone();
        let old: Vec<_> =
            damaged.files.keys().filter(|path| path.starts_with("db")).cloned().collect();
        old[keep_old.min(old.len())..].iter().for_each(|path| drop(image.files.remove(path)));
        if keep_old == 0 {
            image.dirs.retain(|dir| !dir.starts_with("db"));
        }
        for (path, bytes) in &new[..count.min(new.len())] {
            let inside = path.strip_prefix("db").unwrap();
            image.files.insert(Path::new(place).join(inside), (*bytes).clone());
        }
        image
    };
    for count in [0, 1, new.len() / 2, new.len()] {
        // Still being made: it starts over.
        let image = with("db.new", count, usize::MAX);
        image.lay_out(&path);
        expect_all(&path, &format!("{count} files made")).await;
    }
    for keep_old in [usize::MAX, 20, 1, 0] {
        // Made: it takes the place of what is left of the old one.
        let image = with("db.ready", usize::MAX, keep_old);
        image.lay_out(&path);
        expect_all(&path, &format!("{keep_old} old files left")).await;
    }
}

async fn expect_all(path: &Path, what: &str) {
    let bus = Database::open(path, Options::default())
        .unwrap_or_else(|error| panic!("{what}: {error:?}"))
        .bus();
    assert_eq!(read_all(&*bus).await.sequences(), (1..=10).collect::<Vec<_>>(), "{what}");
    assert_eq!(bus.damage().await.unwrap(), [], "{what}");
    bus.close().await.unwrap();
    for left in ["db.new", "db.ready"] {
        assert!(!path.join(left).exists(), "{what}");
    }
}
