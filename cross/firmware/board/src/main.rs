//! The device on a Cortex-M3 without an operating system.
//!
//! It sends its frames over UART0, says over semihosting what memory it took, and ends QEMU with a status: 0 when
//! all was sent, 1 when not. On a board without a debugger semihosting would stop it.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "cortex-m-rt asks for an unsafe function")]
mod fault;
#[expect(unsafe_code, reason = "symbols of the linker, and memory that no Rust value owns")]
mod stack;
#[expect(unsafe_code, reason = "registers")]
mod uart;

use core::panic::PanicInfo;

use cortex_m::asm;
use cortex_m_rt::entry;
use cortex_m_semihosting::debug::{self, EXIT_FAILURE, EXIT_SUCCESS, ExitStatus};
use cortex_m_semihosting::hprintln;
use device::DeviceAgent;

use self::uart::Uart;

#[entry]
fn main() -> ! {
    let mut uart = Uart::new();
    let outcome = device::run(&mut uart);
    uart.flush();
    let stack_bytes = stack::used_bytes();
    match outcome {
        Ok(totals) => {
            let agent_bytes = size_of::<DeviceAgent>();
            hprintln!(
                "frames {} bytes {} agent {agent_bytes} stack {stack_bytes}",
                totals.frames,
                totals.bytes
            );
            end(EXIT_SUCCESS)
        }
        Err(error) => {
            hprintln!("{error}");
            end(EXIT_FAILURE)
        }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    hprintln!("{info}");
    end(EXIT_FAILURE)
}

/// Ends QEMU.
fn end(status: ExitStatus) -> ! {
    debug::exit(status);
    loop {
        asm::wfi();
    }
}
