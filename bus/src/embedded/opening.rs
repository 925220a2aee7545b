//! Opening a database whatever state its files are in: check, open, verify, and rebuild it once when it is damaged.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::PerTopic;
use super::check::{self, Scope, Verdict};
use super::directory::{Directory, OpenError};
use super::documents;
use super::mark::{self, Found, MarkFile, Marked};
use super::options::Options;
use super::salvage;
use super::storage::{Extent, Failure, Storage};

/// A database that may be used.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) storage: Storage,
    pub(super) mark: MarkFile,
    pub(super) extents: PerTopic<Extent>,
}

/// Into which journal an opened database writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journal {
    /// The newest there is.
    Newest,
    /// One of its own, because writing or syncing the newest has failed: its last pages may be in the system's memory only,
    /// and no later sync would tell. What it holds is written out to tables before anything else.
    Fresh,
}

/// Opens the database in `directory`, makes it when there is none, and rebuilds it when it is damaged.
pub(super) fn open(
    directory: &Directory,
    options: &Options,
    scope: Scope,
    journal: Journal,
) -> Result<Opened, OpenError> {
    let marked = prepare(directory)?;
    match try_open(directory, options, marked.as_ref(), scope, journal) {
        Err(OpenError::Damaged { source, .. }) => {
            tracing::error!(
                dir = %directory.path().display(), reason = %source,
                "the embedded bus is damaged; rebuilding it from what can be read"
            );
            rebuild(directory, options)
        }
        // The mark says that this is our format, so what claims to be another is damaged.
        Err(OpenError::NewerFormat { .. }) if marked.is_some() => rebuild(directory, options),
        opened => opened,
    }
}

/// Rebuilds the database in `directory`, and opens it.
pub(super) fn rebuild(directory: &Directory, options: &Options) -> Result<Opened, OpenError> {
    let marked = prepare(directory)?;
    salvage::rebuild(directory, options, marked.as_ref())?;
    try_open(directory, options, None, Scope::Quick, Journal::Newest)
}

/// Brings the directory in order, and reads its mark.
fn prepare(directory: &Directory) -> Result<Option<Marked>, OpenError> {
    let unusable =
        |source: io::Error| OpenError::Directory { dir: directory.path().to_owned(), source };
    directory.settle().map_err(unusable)?;
    Ok(match mark::read(directory.path()).map_err(unusable)? {
        Found::Marked(marked) => Some(marked),
        Found::None => None,
        Found::Damaged => {
            tracing::warn!(
                dir = %directory.path().display(),
                "the durable mark is damaged and is made anew: damage to the newest records would not be noticed"
            );
            None
        }
    })
}

fn try_open(
    directory: &Directory,
    options: &Options,
    marked: Option<&Marked>,
    scope: Scope,
    journal: Journal,
) -> Result<Opened, OpenError> {
    let dir = directory.path().to_owned();
    let damaged = |reason: String| OpenError::Damaged { dir: dir.clone(), source: reason.into() };
    let failed = |failure: Failure| {
        let dir = dir.clone();
        if failure.is_damage() {
            OpenError::Damaged { dir, source: failure.into() }
        } else {
            OpenError::Storage { dir, source: failure.into() }
        }
    };
    let unusable = |error: io::Error| failed(Failure::new(error));

    let seams = match check::inspect(directory, marked, scope).map_err(unusable)? {
        Verdict::Sound(seams) => seams,
        Verdict::Damaged(reason) => return Err(damaged(reason)),
    };
    if journal == Journal::Fresh {
        directory.begin_journal().map_err(unusable)?;
    }
    let storage = Storage::open(&directory.database(), directory, options)?;
    if journal == Journal::Fresh {
        storage.wait_for_sealed().map_err(failed)?;
    }
    let verified = catch_unwind(AssertUnwindSafe(|| check::verify(&storage, marked, &seams)));
    if let Some(reason) = verified
        .unwrap_or_else(|_| Err(Failure::damage("the storage library panicked on it")))
        .map_err(failed)?
    {
        return Err(damaged(reason));
    }

    let extents = PerTopic::try_from_fn(|topic| storage.extent(topic)).map_err(failed)?;
    let mut mark = MarkFile::create(directory.path(), Marked::new(storage.keyspace_numbers()))
        .map_err(unusable)?;
    let revision = documents::last_revision(&storage).map_err(failed)?;
    mark.advance(&ends(&extents), Some(revision)).map_err(unusable)?;
    mark.sync().map_err(unusable)?;
    directory.forget_torn().map_err(unusable)?;
    Ok(Opened { storage, mark, extents })
}

/// What the mark says of extents.
pub(super) fn ends(extents: &PerTopic<Extent>) -> PerTopic<(u64, u64)> {
    PerTopic::from_fn(|topic| {
        let extent = extents.get(topic);
        (extent.first, extent.next)
    })
}
