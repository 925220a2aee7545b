//! The units of systemd, as systemd itself judges them. Nothing is started, so no systemd need be running.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[cfg(target_os = "linux")]
mod units;
