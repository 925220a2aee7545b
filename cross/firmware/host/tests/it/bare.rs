//! `cross/bare` builds: nothing that agent-core depends on brings std or an allocator.

use crate::arm::{self, TARGET, Toolchain};

#[test]
fn the_core_builds_without_std_or_alloc_on_the_host() {
    Toolchain::Current.build("bare", &[]);
}

#[test]
fn the_core_builds_without_std_or_alloc_for_a_cortex_m3() {
    match Toolchain::find() {
        Some(toolchain) => drop(toolchain.build("bare", &["--release", "--target", TARGET])),
        None => arm::skip("cross/bare for a Cortex-M3", "a Rust toolchain for ARM"),
    }
}
