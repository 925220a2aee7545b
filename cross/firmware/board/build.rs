//! Tells the linker where flash and RAM of the LM3S6965 are.

use std::path::PathBuf;
use std::{env, fs};

/// Stellaris LM3S6965 data sheet, chapter 8: 256 KiB of flash, 64 KiB of SRAM.
const MEMORY: &str = "MEMORY
{
  FLASH : ORIGIN = 0x00000000, LENGTH = 256K
  RAM   : ORIGIN = 0x20000000, LENGTH = 64K
}
";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("memory.x"), MEMORY).expect("cargo made OUT_DIR");
    println!("cargo::rustc-link-search={}", out.display());
    // cortex-m-rt's script; on another target, where this program is only checked, there is none.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-Tlink.x");
    }
}
