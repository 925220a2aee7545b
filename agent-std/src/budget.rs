//! What the process takes of the host's memory at most: by part, from the capacities that the parts are built with and the
//! settings of the run.
//!
//! Each part knows its own figure; this adds them up. It is the worst case of all of them at once, with records of all metrics:
//! what an agent holds in a quiet hour is a fraction of it.

use std::io::{self, Write};

use agent_core::limits::RING_BYTES;
use agent_core::plugin::own::OwnPlugins;
use serde::Serialize;

use crate::event::{EVENTS_MAX, Event};
use crate::{HostAgent, collector, config, gateway, net, spooling, stack};

/// The main thread's stack, as far as it is used. All other stacks are counted as large as they are.
const MAIN_STACK_BYTES: usize = stack::bytes(256);

/// What the libraries keep: the async runtime, the log, the names of files, interfaces and devices.
const LIBRARIES_BYTES: usize = 256 * 1024;

/// Of all that is allocated, an allocator keeps up to this share beside: for sizes that it rounds up, and for what was given
/// back to it in between what was not.
const ALLOCATOR_SHARE: usize = 4;

/// What decides how much memory there must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Serial links.
    pub(crate) lines: usize,
    /// Bytes of the spool on the disk; 0: none.
    pub(crate) spool_bytes: u64,
    pub(crate) has_state_dir: bool,
    /// Whether it watches etcd itself.
    pub(crate) has_store: bool,
    /// Bytes of the program's file.
    pub(crate) program_bytes: u64,
}

/// What one part takes at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Part {
    part: &'static str,
    bytes: u64,
    what: String,
}

/// All parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Budget {
    parts: Vec<Part>,
    /// Of memory that no file is behind, stacks included: all but the program.
    anonymous_bytes: u64,
    total_bytes: u64,
}

impl Budget {
    /// The budget of a run.
    pub(crate) fn of<O: OwnPlugins>(demand: Demand) -> Self {
        let Demand { lines, spool_bytes, has_state_dir, has_store, program_bytes } = demand;
        let mut parts = Vec::new();
        let mut add = |part, bytes: usize, what: String| {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            parts.push(Part { part, bytes, what });
        };
        let ring = RING_BYTES;
        add("ring", ring, "records until a server has them".to_owned());
        let agent = size_of::<HostAgent<O>>();
        add("agent", agent, "alerts, commands, plugins".to_owned());
        let queue = EVENTS_MAX * size_of::<Event>();
        add("queues", queue, format!("{EVENTS_MAX} events between threads"));
        let uplink = net::uplink_bytes_max();
        add("uplink", uplink, "messages under way, both ways".to_owned());
        let documents = config::memory_bytes_max(has_state_dir, has_store);
        add("configuration", documents, "documents as text and read".to_owned());
        let spool = spooling::memory_bytes_max(spool_bytes);
        if 0 < spool {
            add("spool", spool, "groups of records on their way to the disk and back".to_owned());
        }
        if 0 < lines {
            let links = lines * gateway::LINE_BYTES_MAX + gateway::QUEUE_BYTES_MAX;
            add("serial links", links, format!("{lines}, and the queue behind them"));
            let (count, device) = (gateway::DEVICES_MAX, gateway::device_bytes_max() + uplink);
            add("devices", count * device, format!("{count} with {device} each"));
        }
        add("libraries", LIBRARIES_BYTES, "runtime, log, names".to_owned());
        let allocated: u64 = parts.iter().map(|part| part.bytes).sum();
        let stacks = MAIN_STACK_BYTES
            + collector::STACK_BYTES
            + net::STACKS_BYTES
            + if lines == 0 { 0 } else { gateway::STACK_BYTES + lines * gateway::LINE_STACK_BYTES };
        let mut add = |part, bytes: u64, what: &str| {
            parts.push(Part { part, bytes, what: what.to_owned() });
        };
        let share = u64::try_from(ALLOCATOR_SHARE).unwrap_or(u64::MAX);
        add("allocator", allocated / share, "what rounding up and gaps cost");
        add("stacks", u64::try_from(stacks).unwrap_or(u64::MAX), "of all threads");
        let anonymous_bytes = parts.iter().map(|part| part.bytes).sum();
        let program = "code and constants: the system drops and rereads them at need";
        parts.push(Part { part: "program", bytes: program_bytes, what: program.to_owned() });
        Self { parts, anonymous_bytes, total_bytes: anonymous_bytes + program_bytes }
    }

    /// Writes it as text.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for Part { part, bytes, what } in &self.parts {
            writeln!(out, "{part:<14} {bytes:>10}  {what}")?;
        }
        writeln!(out, "{:<14} {:>10}  bytes at most", "total", self.total_bytes)?;
        writeln!(out, "{:<14} {:>10}  of them without the program", "", self.anonymous_bytes)
    }
}

#[cfg(test)]
mod tests {
    use agent_core::plugin::own::NoPlugins;

    use super::*;

    const LEAST: Demand = Demand {
        lines: 0,
        spool_bytes: 0,
        has_state_dir: false,
        has_store: false,
        program_bytes: 2_000_000,
    };

    fn total(demand: Demand) -> u64 {
        Budget::of::<NoPlugins>(demand).total_bytes
    }

    #[test]
    fn the_parts_are_all_of_the_total() {
        let demand = Demand { lines: 1, spool_bytes: 1 << 20, ..LEAST };
        let budget = Budget::of::<NoPlugins>(demand);
        let sum: u64 = budget.parts.iter().map(|part| part.bytes).sum();
        assert_eq!(sum, budget.total_bytes);
        assert_eq!(budget.total_bytes, budget.anonymous_bytes + 2_000_000);
        let mut text = Vec::new();
        budget.write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for part in ["ring ", "uplink ", "configuration ", "stacks ", "program ", "total "] {
            assert!(text.lines().any(|line| line.starts_with(part)), "{part} of {text}");
        }
    }

    #[test]
    fn what_is_asked_for_costs_and_what_is_not_does_not() {
        let least = total(LEAST);
        assert!(least < total(Demand { has_state_dir: true, ..LEAST }));
        assert!(least < total(Demand { has_store: true, ..LEAST }));
        assert_eq!(least + 1, total(Demand { program_bytes: 2_000_001, ..LEAST }));
        #[cfg(feature = "spool")]
        assert!(least < total(Demand { spool_bytes: 64 * 1024, ..LEAST }));
        #[cfg(feature = "serial")]
        {
            let (one, two) = (Demand { lines: 1, ..LEAST }, Demand { lines: 2, ..LEAST });
            assert!(least < total(one));
            assert!(total(one) < total(two));
        }
    }
}
