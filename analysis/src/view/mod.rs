//! What the operator sees. Nothing here knows where it came from.

pub(crate) mod agents;
pub(crate) mod alerts;
pub(crate) mod audit;
pub(crate) mod commands;
pub(crate) mod events;
pub(crate) mod grid;
pub(crate) mod json;
pub(crate) mod live;
pub(crate) mod log;
pub(crate) mod page;
pub(crate) mod rows;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod summary;
pub(crate) mod text;
pub(crate) mod time;

use std::io::{self, Write};

use agent_core::metric::Metric;
use agent_core::record::Direction;

/// Says something beside the output: one line on standard error.
pub(crate) fn notice(text: &str) {
    // Without a standard error there is nobody to tell.
    drop(writeln!(io::stderr(), "picket: {}", text::escape(text)));
}

/// A count of `metric` in its unit, with as many digits as are worth reading.
pub(crate) fn value(metric: Metric, count: i64) -> String {
    let units = proto::convert::units_from_count(metric, count);
    let digits = match metric {
        Metric::CpuPercent | Metric::MemoryPercent | Metric::DiskPercent => 2,
        Metric::AgentCpu | Metric::AgentBuffer => 2,
        Metric::Load1 | Metric::Load5 | Metric::Load15 => 2,
        Metric::MemoryUsed | Metric::MemoryTotal | Metric::AgentMemory => 1,
        Metric::SwapUsed | Metric::SwapTotal | Metric::DiskUsed | Metric::DiskTotal => 1,
        Metric::DiskRead | Metric::DiskWrite | Metric::NetIn | Metric::NetOut => 3,
        Metric::Temperature => 1,
        Metric::Uptime => 0,
    };
    format!("{units:.digits$}")
}

/// On which side of the limit a value is wrong, as the sign between the two.
pub(crate) const fn sign(direction: Direction) -> char {
    match direction {
        Direction::Above => '>',
        Direction::Below => '<',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_digits_of_their_metric() {
        assert_eq!(value(Metric::CpuPercent, 10_000), "100.00");
        assert_eq!(value(Metric::MemoryUsed, 1_572_864), "1.5");
        assert_eq!(value(Metric::NetOut, 1_049), "0.001");
        assert_eq!(value(Metric::Temperature, -40_250), "-40.2");
        assert_eq!(value(Metric::Uptime, 86_400_000), "86400");
    }
}
