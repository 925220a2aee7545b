//! Runs the device on the host and prints the digest of what it sends; writes that to a file when one is named.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::{env, fs, io};

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let (capture, _) = host::run().context("the device failed")?;
    if let Some(path) = env::args_os().nth(1) {
        fs::write(&path, &capture.bytes)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    writeln!(io::stdout(), "{}", host::digest(&capture.bytes)).context("cannot write the digest")
}
