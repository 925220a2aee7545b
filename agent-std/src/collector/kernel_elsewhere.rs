//! The kernel of a system other than Linux is not asked, so what `kernel.rs` measures is absent there.

use std::time::Duration;

pub(super) struct Space {
    pub(super) used: i64,
    pub(super) total: i64,
}

pub(super) fn root_space() -> Option<Space> {
    None
}

pub(super) fn uptime_ms() -> Option<i64> {
    None
}

pub(super) fn own_memory() -> Option<i64> {
    None
}

pub(super) fn own_cpu_time() -> Option<Duration> {
    None
}
