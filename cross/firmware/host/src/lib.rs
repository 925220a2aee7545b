//! The device on the host: the same code as on the board, with memory for a wire.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use device::{DeviceError, Totals, Wire};
use sha2::{Digest as _, Sha256};

/// A wire that keeps what is sent.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// All bytes so far.
    pub bytes: Vec<u8>,
}

impl Wire for Capture {
    fn send(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

/// Runs the device. Answers what it sent and what it counted.
///
/// # Errors
///
/// As [`device::run`].
pub fn run() -> Result<(Capture, Totals), DeviceError> {
    let mut capture = Capture::default();
    let totals = device::run(&mut capture)?;
    Ok((capture, totals))
}

/// The SHA-256 of `bytes` and their number, as `golden.txt` has them.
pub fn digest(bytes: &[u8]) -> String {
    let mut line = String::new();
    for byte in Sha256::digest(bytes) {
        write!(line, "{byte:02x}").expect("a String takes all");
    }
    write!(line, "  {} bytes", bytes.len()).expect("a String takes all");
    line
}
