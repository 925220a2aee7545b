//! The board in QEMU sends what the host sends.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::arm::{self, TARGET, Toolchain};
use crate::elf;

const QEMU: &str = "qemu-system-arm";
const TEST: &str = "firmware in QEMU";

/// What an LM3S6965 has.
const FLASH_BYTES: u64 = 256 * 1024;
const RAM_BYTES: u64 = 64 * 1024;

/// A run takes a second; a machine under load may take longer.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_cortex_m3_sends_the_same_bytes() {
    let Some(program) = build(TEST) else { return };
    let wire = Path::new(env!("CARGO_TARGET_TMPDIR")).join("uart.bin");
    let report = run(&program, &format!("file:{}", wire.display()));

    let sent = fs::read(&wire).unwrap();
    let (capture, totals) = host::run().unwrap();
    assert_eq!(host::digest(&sent), host::digest(&capture.bytes));
    assert!(sent == capture.bytes, "QEMU's bytes are in {}", wire.display());
    assert_eq!((report.frames, report.bytes), (totals.frames, totals.bytes));

    let sizes = elf::sizes(&fs::read(&program).unwrap());
    let ram = sizes.ram + report.stack;
    arm::say(&format!(
        "firmware on a Cortex-M3: flash {} of {FLASH_BYTES} B, RAM {ram} of {RAM_BYTES} B ({} static, {} stack at \
         most, of which the agent {}), {} frames, {} B",
        sizes.flash, sizes.ram, report.stack, report.agent, report.frames, report.bytes
    ));
    assert!(sizes.flash <= FLASH_BYTES);
    assert!(ram <= RAM_BYTES);
}

/// Builds the firmware. Answers where it is; nothing when `test` has to be skipped.
pub(crate) fn build(test: &str) -> Option<PathBuf> {
    let Some(toolchain) = Toolchain::find() else {
        arm::skip(test, "a Rust toolchain for ARM");
        return None;
    };
    if !arm::is_installed(QEMU) {
        arm::skip(test, QEMU);
        return None;
    }
    let arguments = ["--package", "board", "--release", "--target", TARGET];
    Some(toolchain.build("firmware", &arguments).join(TARGET).join("release/firmware"))
}

/// What the firmware says of itself.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) frames: u64,
    bytes: u64,
    agent: u64,
    stack: u64,
}

/// Runs `program` in QEMU, with the UART on `wire`, as `-serial` names it.
pub(crate) fn run(program: &Path, wire: &str) -> Report {
    let mut qemu = Command::new(QEMU);
    qemu.args(["-machine", "lm3s6965evb", "-display", "none", "-monitor", "none", "-nic", "none"])
        .args(["-semihosting-config", "enable=on,target=native", "-serial"])
        .arg(wire)
        .arg("-kernel")
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = qemu.spawn().unwrap();
    let status = wait(&mut child);
    // One line, which the pipe held meanwhile.
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.success(), "the firmware failed: {said}");
    parse(&said)
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if deadline < Instant::now() {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the firmware did not end within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn parse(said: &str) -> Report {
    let words = said.split_whitespace().collect::<Vec<_>>();
    let number = |word: &&str| word.parse::<u64>().unwrap_or_else(|_| panic!("{said}"));
    match words.as_slice() {
        ["frames", frames, "bytes", bytes, "agent", agent, "stack", stack] => Report {
            frames: number(frames),
            bytes: number(bytes),
            agent: number(agent),
            stack: number(stack),
        },
        _ => panic!("the firmware said {said:?}"),
    }
}
