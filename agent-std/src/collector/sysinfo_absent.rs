//! A program that was built without sysinfo, as one for Linux may be, says so when it is asked for it.

use anyhow::bail;

use crate::collector::Collector;

pub(super) fn open() -> anyhow::Result<Box<dyn Collector>> {
    bail!(
        "the collector \"sysinfo\" is not in this program: build with --features sysinfo, or use \"proc\""
    )
}
