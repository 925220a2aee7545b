//! What the operator sees. Nothing here knows where it came from.

pub(crate) mod agents;
pub(crate) mod grid;
pub(crate) mod json;
pub(crate) mod live;
pub(crate) mod rows;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod summary;
pub(crate) mod text;
pub(crate) mod time;

use std::io::{self, Write};

use agent_core::metric::Metric;

/// Says something beside the output: one line on standard error.
pub(crate) fn notice(text: &str) {
    // Without a standard error there is nobody to tell.
    drop(writeln!(io::stderr(), "picket: {}", text::escape(text)));
}

/// A count of `metric` in its unit, with as many digits as are worth reading.
pub(crate) fn value(metric: Metric, count: i64) -> String {
    let units = proto::convert::units_from_count(metric, count);
    let digits = match metric {
        Metric::CpuPercent | Metric::MemoryPercent => 2,
        Metric::MemoryUsed | Metric::MemoryTotal => 1,
        Metric::DiskRead | Metric::DiskWrite | Metric::NetIn | Metric::NetOut => 3,
    };
    format!("{units:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_digits_of_their_metric() {
        assert_eq!(value(Metric::CpuPercent, 10_000), "100.00");
        assert_eq!(value(Metric::MemoryUsed, 1_572_864), "1.5");
        assert_eq!(value(Metric::NetOut, 1_049), "0.001");
    }
}
