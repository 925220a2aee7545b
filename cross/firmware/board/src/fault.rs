//! What happens when the processor faults, for instance because the stack has left the RAM.

use cortex_m_rt::{ExceptionFrame, exception};
use cortex_m_semihosting::debug::EXIT_FAILURE;

// SAFETY: it ends the program and touches nothing that the code which faulted may have left half done.
#[exception]
unsafe fn HardFault(_: &ExceptionFrame) -> ! {
    crate::end(EXIT_FAILURE)
}
