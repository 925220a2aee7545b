//! How deep the stack went.

use core::ptr;

use cortex_m_rt::STACK_PAINT_VALUE;

unsafe extern "C" {
    /// Lowest address that the stack may reach; from cortex-m-rt's linker script, as the next.
    static _stack_end: u32;
    /// The address behind the highest.
    static _stack_start: u32;
}

/// Bytes of stack that were ever written. Start-up code painted all of them; what still has the paint was not.
pub(crate) fn used_bytes() -> usize {
    let (end, start) = (&raw const _stack_end, &raw const _stack_start);
    let words = (start.addr() - end.addr()) / size_of::<u32>();
    let painted = (0..words).take_while(|word| {
        // SAFETY: the word lies between the two symbols, which is RAM, and at most what is in use of it changes.
        let value = unsafe { ptr::read_volatile(end.add(*word)) };
        value == STACK_PAINT_VALUE
    });
    (words - painted.count()) * size_of::<u32>()
}
