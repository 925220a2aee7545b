//! Any bytes as a block of packed records.
#![no_main]

use agent_core::codec::{BLOCK_ROWS_MAX, pack, unpack};
use agent_core::metric::Values;
use agent_core::record::{Sample, Snapshot};
use agent_core::time::Instant;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|block: &[u8]| {
    let empty =
        Sample::from(Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values: Values::EMPTY });
    let mut rows = vec![empty.clone(); BLOCK_ROWS_MAX];
    let Ok((first, count)) = unpack(block, &mut rows) else { return };
    let mut buffer = vec![0; 128 * 1024];
    let length = pack(first, rows[..count].iter(), &mut buffer).expect("the buffer is large");
    let mut again = vec![empty; BLOCK_ROWS_MAX];
    assert_eq!(unpack(&buffer[..length], &mut again), Ok((first, count)));
    assert_eq!(rows[..count], again[..count]);
});
