//! Any bytes on a byte link.
#![no_main]

use agent_core::codec::{Deframer, Frame, encode_frame, pack_alerts, unpack_alerts};
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
            if let Frame::Alerts(bytes) = frame
                && let Ok((first, alerts)) = unpack_alerts(bytes)
            {
                let mut buffer = [0; 4096];
                let length = pack_alerts(first, alerts.iter().copied(), &mut buffer);
                let length = length.expect("at most 32 alerts of at most 60 bytes fit");
                assert_eq!(unpack_alerts(&buffer[..length]), Ok((first, alerts)));
            }
        }
    }
});
