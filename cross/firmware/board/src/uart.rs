//! UART0 of the LM3S6965, a PL011, polled.
//!
//! Source: ARM PrimeCell UART (PL011) Technical Reference Manual, 3.3. QEMU's model needs no more than this; a real
//! board has to be given clocks, pins and a baud rate first.

use core::ptr;

use device::Wire;

const BASE: usize = 0x4000_c000;
const DATA: usize = BASE;
const FLAGS: usize = BASE + 0x018;
const CONTROL: usize = BASE + 0x030;

const FLAG_BUSY: u32 = 1 << 3;
const FLAG_TRANSMIT_FULL: u32 = 1 << 5;
const CONTROL_ENABLE: u32 = 1 << 0;
const CONTROL_TRANSMIT: u32 = 1 << 8;

/// The transmitter. There is one UART, so there should be one of these.
#[derive(Debug)]
pub(crate) struct Uart(());

impl Uart {
    /// Switches it on.
    pub(crate) fn new() -> Self {
        write(CONTROL, CONTROL_ENABLE | CONTROL_TRANSMIT);
        Self(())
    }

    /// Waits until the last bit is out.
    pub(crate) fn flush(&mut self) {
        while read(FLAGS) & FLAG_BUSY != 0 {}
    }
}

impl Wire for Uart {
    fn send(&mut self, bytes: &[u8]) {
        for byte in bytes {
            while read(FLAGS) & FLAG_TRANSMIT_FULL != 0 {}
            write(DATA, u32::from(*byte));
        }
    }
}

fn read(register: usize) -> u32 {
    // SAFETY: callers name one of the registers above: aligned, always mapped, and read without a side effect.
    unsafe { ptr::read_volatile(ptr::with_exposed_provenance(register)) }
}

fn write(register: usize, value: u32) {
    // SAFETY: callers name one of the registers above: aligned, always mapped, and no memory of Rust's.
    unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(register), value) }
}
