//! Collecting: the thread that measures when it is asked to, and the trait of what it measures with.
//!
//! It is a thread of its own so that a mount that hangs or a slow kernel delays snapshots and nothing else: the
//! main loop goes on answering commands.

mod host;
mod interfaces;
#[cfg_attr(not(target_os = "linux"), path = "kernel_elsewhere.rs")]
mod kernel;
#[cfg(target_os = "linux")]
mod procfs;
mod rate;
mod sensors;
#[cfg_attr(
    all(target_os = "linux", not(any(feature = "sysinfo", test))),
    path = "sysinfo_absent.rs"
)]
mod sysinfo;

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use agent_core::metric::{MetricSet, Values};
use agent_core::record::Snapshot;
use clap::ValueEnum;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use self::host::HostCollector;
use crate::clock::Clock;
use crate::event::Event;
use crate::service::Part;
use crate::stack;

/// Measures a host.
pub(crate) trait Collector: Send {
    /// Measures `wanted`. A metric that cannot be had now is left out: a rate at its first measurement, a source
    /// that this host does not have, [`AgentBuffer`](agent_core::metric::Metric::AgentBuffer), which the core knows.
    ///
    /// Called from one thread, once per interval; a call may come late.
    fn collect(&mut self, wanted: MetricSet) -> Values;
}

/// What a host is measured with. All of them report the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CollectorKind {
    /// The kernel's own files in `/proc`, on Linux only.
    Proc,
    /// The sysinfo crate, on all systems.
    Sysinfo,
}

impl CollectorKind {
    /// The leanest of this system.
    pub(crate) const DEFAULT: Self =
        if cfg!(target_os = "linux") { Self::Proc } else { Self::Sysinfo };

    /// Whether this program has the one of that name.
    pub(crate) const HAS_SYSINFO: bool = cfg!(any(feature = "sysinfo", not(target_os = "linux")));

    /// As it is named in settings.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Sysinfo => "sysinfo",
        }
    }

    /// A collector of this kind for this host.
    ///
    /// # Errors
    ///
    /// When this system has none of this kind.
    pub(crate) fn open(self) -> anyhow::Result<Box<dyn Collector>> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Proc => Ok(Box::new(HostCollector::new(procfs::Procfs::new()))),
            #[cfg(not(target_os = "linux"))]
            Self::Proc => anyhow::bail!("the collector \"proc\" is for Linux alone"),
            Self::Sysinfo => sysinfo::open(),
        }
    }
}

/// What the collector thread is asked for.
enum Request {
    Measure(MetricSet),
    /// Show that it is alive.
    Answer,
}

/// Its stack. The kernel's files go through a buffer on the heap.
pub(crate) const STACK_BYTES: usize = stack::bytes(128);

/// The collector thread. Dropping it ends the thread after the measurement in hand.
#[derive(Debug)]
pub(crate) struct CollectorThread {
    requests: Sender<Request>,
    _thread: JoinHandle<()>,
}

impl CollectorThread {
    /// Starts the thread; its snapshots go to `events`.
    pub(crate) fn spawn(
        mut collector: Box<dyn Collector>,
        clock: Clock,
        events: Sender<Event>,
    ) -> io::Result<Self> {
        // The core asks for the next snapshot only after the last has come, and the watchdog for the next answer likewise, so
        // one place for each is enough.
        let (requests, queue): (_, Receiver<Request>) = bounded(2);
        let thread = thread::Builder::new().name("collector".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || {
            for request in queue {
                let event = match request {
                    Request::Measure(wanted) => {
                        let values = collector.collect(wanted);
                        let taken_at = clock.now();
                        Event::Snapshot(Snapshot { taken_at, wall_ms: unix_ms(), values })
                    }
                    Request::Answer => Event::Alive(Part::Collector),
                };
                if events.send(event).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests, _thread: thread })
    }

    /// Asks for a snapshot. Answers whether the thread could take the request.
    pub(crate) fn request(&self, wanted: MetricSet) -> bool {
        match self.requests.try_send(Request::Measure(wanted)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Asks for a sign of life, which comes once the measurement in hand is done.
    pub(crate) fn ask(&self) {
        // One that cannot take the question gives no answer either.
        self.requests.try_send(Request::Answer).ok();
    }
}

/// The wall clock in Unix milliseconds; a clock before 1970 counts as 1970.
pub(crate) fn unix_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Hangs in each measurement until it is let go.
    struct Stuck(Receiver<()>);

    impl Collector for Stuck {
        fn collect(&mut self, _: MetricSet) -> Values {
            self.0.recv().ok();
            Values::EMPTY
        }
    }

    #[test]
    fn whoever_asks_does_not_wait_for_a_collector_that_is_stuck() {
        let (release, held) = bounded(1);
        let (sender, events) = bounded(4);
        let collector =
            CollectorThread::spawn(Box::new(Stuck(held)), Clock::start(), sender).unwrap();
        assert!(collector.request(MetricSet::FIXED));
        collector.ask();
        // The thread may or may not have taken the first one; that these return at all is the point.
        for _ in 0..3 {
            collector.request(MetricSet::FIXED);
        }
        assert!(!collector.request(MetricSet::FIXED), "others wait already");
        assert!(events.try_recv().is_err(), "it is not called alive while it is stuck");
        release.send(()).unwrap();
        let event = events.recv_timeout(Duration::from_secs(60));
        assert!(matches!(event, Ok(Event::Snapshot(_))));
        let event = events.recv_timeout(Duration::from_secs(60));
        assert!(matches!(event, Ok(Event::Alive(Part::Collector))));
        // Lets the thread end.
        drop(release);
    }
}
