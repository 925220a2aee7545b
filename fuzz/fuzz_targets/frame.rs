//! Any bytes on a byte link.
#![no_main]

use agent_core::codec::{Deframer, encode_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|link: &[u8]| {
    let mut deframer = Deframer::<512>::new();
    for byte in link {
        if let Some(Ok(frame)) = deframer.push(*byte) {
            let mut buffer = [0; 1024];
            let length = encode_frame(&frame, &mut buffer).expect("a frame from 512 bytes fits");
            let mut again = Deframer::<1024>::new();
            let read = buffer[..length]
                .iter()
                .find_map(|byte| again.push(*byte).map(|result| result.map(|read| read == frame)));
            assert_eq!(read, Some(Ok(true)));
        }
    }
});
