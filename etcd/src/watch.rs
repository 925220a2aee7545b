//! Drives the rules of a watch against a real etcd.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Instant;

use etcd_client::{GetOptions, GetResponse, KeyValue, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;

use crate::connection::{Connection, PAGE_KEYS};
use crate::document::{Found, Revision, revision};
use crate::failure::Failure;
use crate::key::{FOLDER, FOLDER_END, Key};
use crate::options::Options;
use crate::rules::{End, Event, Rules, Step};

/// Events that wait for who follows the watch; then nothing more is taken from etcd. Of 64 KiB each at most.
const EVENTS: usize = 16;

/// Which documents are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These keys exactly: an agent's own and `_default`. One stream for each, so a few at most.
    Keys(Vec<Key>),
    /// All there are: for a server. Keys that are nobody's are left out.
    Folder,
}

/// Follows documents until it is dropped.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Event>,
    /// 0 until one has answered.
    cluster: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts to follow, as a task of the runtime that this is called in. Nothing needs to be there yet.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time and I/O, and when `selection` names no key.
    pub fn start(options: Options, selection: Selection) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let driver = Driver::new(options, selection);
        let cluster = Arc::clone(&driver.cluster);
        Self { events, cluster, task: tokio::spawn(driver.run(sender)) }
    }

    /// The next thing to tell; waits for it. None when the runtime ends.
    ///
    /// Cancel-safe. When nobody asks, the watch waits, and etcd keeps what follows.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The id of the cluster that was read last: whose revisions are told, for who keeps them over restarts. 0 before the
    /// first [`Event::Synced`].
    pub fn cluster(&self) -> u64 {
        self.cluster.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    options: Options,
    selection: Selection,
    rules: Rules,
    cluster: Arc<AtomicU64>,
    connection: Option<Connection>,
    /// Counts connections, for taking turns among the endpoints.
    turn: usize,
    streams: Vec<WatchStream>,
}

impl Driver {
    fn new(options: Options, selection: Selection) -> Self {
        let stream_count = match &selection {
            Selection::Keys(keys) => keys.len(),
            Selection::Folder => 1,
        };
        // Without a source of randomness all would wait equally long, which is a pity and no more.
        let seed = getrandom::u64().unwrap_or(0);
        let turn = usize::try_from(seed % 16).unwrap_or(0);
        let rules = Rules::new(now(), options.timing, stream_count, seed);
        let (cluster, connection, streams) = (Arc::default(), None, Vec::new());
        Self { options, selection, rules, cluster, connection, turn, streams }
    }

    async fn run(mut self, events: mpsc::Sender<Event>) {
        loop {
            while let Some(event) = self.rules.poll_event() {
                if events.send(event).await.is_err() {
                    return;
                }
            }
            match self.rules.poll(now()) {
                Step::Read => {
                    self.streams.clear();
                    match self.read(&events).await {
                        Ok(Some(revision)) => self.rules.handle_read(now(), revision),
                        Ok(None) => return,
                        Err(failure) => self.end(End::Failed(failure)),
                    }
                }
                Step::Watch { after } => match self.open(after).await {
                    Ok(()) => self.rules.handle_open(now()),
                    Err(failure) => self.end(End::Stream(failure)),
                },
                Step::Ask => {
                    for stream in &mut self.streams {
                        // A stream that cannot be asked any more ends, which is seen when it is read.
                        stream.request_progress().await.ok();
                    }
                }
                Step::Wait(until) => {
                    if events.is_closed() {
                        return;
                    }
                    self.wait(until).await;
                }
            }
        }
    }

    /// Reads everything, and lets each page be told before the next. None when nobody listens any more.
    async fn read(&mut self, events: &mpsc::Sender<Event>) -> Result<Option<Revision>, Failure> {
        let connection = self.connect().await?;
        let mut pages = Pages::new(&self.selection);
        while let Some((key, options)) = pages.next_request() {
            let response = connection.get(key, options).await?;
            let (cluster, revision) = pages.answered(&connection, &response)?;
            let page = response.kvs().iter().filter_map(Found::of);
            self.rules.handle_page(connection.endpoint(), cluster, revision, page)?;
            self.cluster.store(cluster, Ordering::Relaxed);
            while let Some(event) = self.rules.poll_event() {
                if events.send(event).await.is_err() {
                    return Ok(None);
                }
            }
        }
        Ok(pages.revision)
    }

    async fn connect(&mut self) -> Result<Connection, Failure> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let endpoint = self.options.endpoints.at(self.turn);
        self.turn = self.turn.wrapping_add(1);
        let connection = Connection::open(endpoint, &self.options).await?;
        Ok(self.connection.insert(connection).clone())
    }

    async fn open(&mut self, after: Revision) -> Result<(), Failure> {
        let connection = self.connect().await?;
        match &self.selection {
            Selection::Keys(keys) => {
                for key in keys {
                    self.streams.push(connection.watch(&key.path(), None, after).await?);
                }
            }
            Selection::Folder => {
                self.streams.push(connection.watch(FOLDER, Some(FOLDER_END), after).await?);
            }
        }
        Ok(())
    }

    /// Waits for the first stream that says something, at most until then.
    async fn wait(&mut self, until: Instant) {
        let heard = tokio::select! {
            // What was said counts before the time that has passed, should this task have been held up.
            biased;
            heard = next_message(&mut self.streams) => heard,
            () = tokio::time::sleep_until(until.into()) => return,
        };
        let (stream_index, message) = heard;
        let endpoint = self.connection.as_ref().map_or("", Connection::endpoint);
        let ended = match message {
            None => Some(Failure::unreachable(endpoint, "the stream of changes ended")),
            Some(Err(error)) => Some(Failure::of(endpoint, &error)),
            Some(Ok(message)) if message.canceled() || message.compact_revision() != 0 => {
                Some(Failure::cancelled(endpoint, message.cancel_reason()))
            }
            Some(Ok(message)) => {
                let changes = message.events().iter().filter_map(|event| Found::of(event.kv()?));
                let cluster = message.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
                self.rules.handle_message(now(), stream_index, cluster, changes);
                None
            }
        };
        if let Some(failure) = ended {
            self.end(End::Stream(failure));
        }
    }

    fn end(&mut self, end: End) {
        self.streams.clear();
        self.connection = None;
        self.rules.handle_end(now(), end);
    }
}

/// The first of the streams that has something to say, and what; waits for ever when there are none.
async fn next_message(
    streams: &mut [WatchStream],
) -> (usize, Option<Result<WatchResponse, etcd_client::Error>>) {
    poll_fn(|context| {
        for (index, stream) in streams.iter_mut().enumerate() {
            if let Poll::Ready(message) = std::pin::Pin::new(stream).poll_next(context) {
                return Poll::Ready((index, message));
            }
        }
        Poll::Pending
    })
    .await
}

/// A read of everything in pages, which are all of the revision of the first.
struct Pages<'a> {
    rest: Rest<'a>,
    revision: Option<Revision>,
}

enum Rest<'a> {
    Keys(std::slice::Iter<'a, Key>),
    /// From this key on; none when the last page has come.
    Folder(Option<Vec<u8>>),
}

impl<'a> Pages<'a> {
    fn new(selection: &'a Selection) -> Self {
        let rest = match selection {
            Selection::Keys(keys) => Rest::Keys(keys.iter()),
            Selection::Folder => Rest::Folder(Some(FOLDER.into())),
        };
        Self { rest, revision: None }
    }

    fn next_request(&mut self) -> Option<(Vec<u8>, GetOptions)> {
        let mut options = GetOptions::new();
        if let Some(revision) = self.revision {
            options = options.with_revision(i64::try_from(revision).unwrap_or(i64::MAX));
        }
        match &mut self.rest {
            Rest::Keys(keys) => Some((keys.next()?.path().into_bytes(), options)),
            Rest::Folder(from) => {
                let options = options.with_range(FOLDER_END).with_limit(PAGE_KEYS);
                Some((from.take()?, options))
            }
        }
    }

    /// Notes where the next page begins. Answers with the cluster, and the revision that the page is of.
    fn answered(
        &mut self,
        connection: &Connection,
        response: &GetResponse,
    ) -> Result<(u64, Revision), Failure> {
        let Some(header) = response.header() else {
            return Err(Failure::unreachable(connection.endpoint(), "an answer has no header"));
        };
        if let (Rest::Folder(from), true, Some(last)) =
            (&mut self.rest, response.more(), response.kvs().last())
        {
            *from = Some(after(last));
        }
        let revision = *self.revision.get_or_insert_with(|| revision(header.revision()));
        Ok((header.cluster_id(), revision))
    }
}

/// The first key that comes after this one.
fn after(pair: &KeyValue) -> Vec<u8> {
    let mut key = pair.key().to_vec();
    key.push(0);
    key
}

/// The clock of the runtime, which tests can hold.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
