//! How much flash and RAM a program takes, from the sections of its ELF file, as `size` counts them.
//!
//! Source: Tool Interface Standard, ELF Specification 1.2: file header and section header, 32 bits, little-endian.

/// Bytes of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// In flash: code, constants, and the first values of variables.
    pub(crate) flash: u64,
    /// In RAM: variables; the stack is not among them.
    pub(crate) ram: u64,
}

const MAGIC: &[u8] = b"\x7fELF\x01\x01";
const SECTION_WITHOUT_BYTES: u32 = 8;
const FLAG_WRITE: u32 = 1;
const FLAG_IN_MEMORY: u32 = 2;

pub(crate) fn sizes(file: &[u8]) -> Sizes {
    assert!(file.starts_with(MAGIC), "not an ELF file of 32 bits, little-endian");
    let table = usize::try_from(word(file, 0x20)).unwrap();
    let entry_bytes = usize::from(half(file, 0x2e));
    let count = usize::from(half(file, 0x30));
    let mut sizes = Sizes { flash: 0, ram: 0 };
    for entry in file[table..].chunks_exact(entry_bytes).take(count) {
        let (kind, flags, bytes) = (word(entry, 4), word(entry, 8), u64::from(word(entry, 20)));
        if flags & FLAG_IN_MEMORY == 0 {
            continue;
        }
        if kind != SECTION_WITHOUT_BYTES {
            sizes.flash += bytes;
        }
        if flags & FLAG_WRITE != 0 {
            sizes.ram += bytes;
        }
    }
    sizes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}
