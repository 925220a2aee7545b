//! The memory of the agent's ring on a host: asked of the system at once, and given by it as records come.

use agent_core::agent::Agent;
use agent_core::limits::COMMANDS_MAX;
use agent_core::ring::Memory;

/// On the heap. On a stack all of it would be touched when the thread that has it makes room, long before it is used.
#[derive(Debug)]
pub(crate) struct OnHeap(Vec<u8>);

impl Memory for OnHeap {
    fn with_room(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    fn extend(&mut self, bytes: &[u8]) {
        debug_assert!(self.0.len() + bytes.len() <= self.0.capacity());
        self.0.extend_from_slice(bytes);
    }
}

impl AsRef<[u8]> for OnHeap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for OnHeap {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// The agent of a host, whose ring has `RING` bytes.
pub(crate) type RingAgent<const RING: usize, O> = Agent<RING, COMMANDS_MAX, O, OnHeap>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_within_what_it_was_given() {
        let mut memory = OnHeap::with_room(8);
        let start = memory.0.as_ptr();
        memory.extend(b"abcd");
        memory.as_mut()[0] = b'x';
        memory.extend(b"efgh");
        assert_eq!(memory.as_ref(), b"xbcdefgh");
        assert_eq!(memory.0.as_ptr(), start);
    }
}
