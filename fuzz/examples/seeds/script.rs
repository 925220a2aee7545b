//! Bytes that `Arbitrary` reads as wanted operations.

use arbitrary::{Arbitrary, Unstructured};

/// More bytes than one operation takes.
const OPERATION_BYTES_MAX: usize = 64;

/// Far more than it takes to meet a rare operation.
const TRIES_MAX: usize = 100_000_000;

/// A list of operations as the bytes of a fuzz input.
///
/// How `Arbitrary` takes a value out of bytes is its own affair, so nothing is encoded here: bytes are drawn until they
/// read as what is wanted. That is right for every type, and stays right when operations are added.
#[derive(Debug)]
pub(crate) struct Script {
    bytes: Vec<u8>,
    operations: usize,
    random: u64,
}

impl Script {
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), operations: 0, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Adds the first operation found that is `wanted`.
    pub(crate) fn push<T: for<'a> Arbitrary<'a>>(&mut self, wanted: impl Fn(&T) -> bool) {
        let found = (0..TRIES_MAX).find_map(|_| {
            let drawn = self.draw();
            let mut unread = Unstructured::new(&drawn);
            let operation = T::arbitrary(&mut unread).ok().filter(&wanted)?;
            let taken = drawn.len() - unread.len();
            drop(operation);
            Some(drawn[..taken].to_vec())
        });
        // Before each element of a list stands whether there is one.
        self.bytes.push(1);
        self.bytes.extend(found.expect("such an operation exists"));
        self.operations += 1;
    }

    /// The script as a fuzz target reads it.
    pub(crate) fn operations<T: for<'a> Arbitrary<'a>>(&self) -> Vec<T> {
        let operations = Vec::arbitrary_take_rest(Unstructured::new(&self.bytes));
        let operations: Vec<T> = operations.expect("the script was made of such operations");
        assert_eq!(operations.len(), self.operations);
        operations
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Random bytes, half of them zero, because small numbers are wanted more often than large ones.
    fn draw(&mut self) -> [u8; OPERATION_BYTES_MAX] {
        std::array::from_fn(|_| {
            // Marsaglia, "Xorshift RNGs", 2003.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let [low, high, ..] = self.random.to_le_bytes();
            if high & 1 == 0 { 0 } else { low }
        })
    }
}
