//! What plugins and the packed form save on the recorded hosts, as tables.
//!
//!     cargo xtask bench reduction
//!     cargo xtask bench codec
//!
//! Sizes are the same in every run and every profile, so nothing here is timed.
#![forbid(unsafe_code)]

mod tables;

use std::env;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

use self::tables::{codec, reduction, trace};

#[derive(Debug, Parser)]
struct Arguments {
    table: Table,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Table {
    Reduction,
    Codec,
}

fn main() -> anyhow::Result<()> {
    let Arguments { table, json, bench: _ } = Arguments::parse();
    let mut out = io::stdout().lock();
    match table {
        Table::Reduction => {
            let agent = env::var_os("PICKET_BINARIES").map(PathBuf::from);
            let agent = agent.context("PICKET_BINARIES must say where picket-agent is")?;
            let rows = reduction::measure(&agent.join("picket-agent"), &trace::paths()?)?;
            if json {
                tables::write_json(&mut out, &rows)?;
            } else {
                reduction::write(&mut out, &rows)?;
            }
        }
        Table::Codec => {
            let traces = trace::paths()?;
            let traces = traces.iter().map(|path| trace::read(path));
            let rows = codec::measure(&traces.collect::<Result<Vec<_>, _>>()?)?;
            if json {
                tables::write_json(&mut out, &rows)?;
            } else {
                codec::write(&mut out, &rows)?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
