//! The bytes of the device: what they say, that they stay the same, that a Cortex-M3 sends them too, and that they
//! arrive at a server through the gateway.
//!
//! Tests that need an ARM toolchain or QEMU say SKIPPED and why when it is missing; with `PICKET_REQUIRE_ARM=1` they
//! fail instead. `cross/setup.sh thumbv7m-none-eabi` installs both on Debian.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "tests")]

mod arm;
mod bare;
mod board;
mod elf;
mod frames;
mod gateway;
