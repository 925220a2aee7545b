//! Proof that agent-core needs neither `std` nor `alloc`: it links into a static library that has none of them.
//!
//! There is nothing to run. When a dependency brings `std`, its panic handler collides with the one here; when it
//! brings `alloc`, the allocator is missing: either way the build stops. [`picket_bare_round_trip`] names every entry
//! to the core, so that nothing is left out because nobody calls it.
#![no_std]
#![deny(unsafe_code)]

use core::panic::PanicInfo;

use agent_core::agent::{Agent, Batch, Input, Output, Transmit};
use agent_core::codec::{
    CodecError, Deframer, Frame, FrameError, encode_frame, pack, pack_alerts, unpack, unpack_alerts,
};
use agent_core::config::{Config, Settings, WindowEnd};
use agent_core::id::{AgentId, BootId};
use agent_core::metric::{Metric, Values};
use agent_core::plugin::PluginKind;
use agent_core::record::{Marks, Sample, Snapshot};
use agent_core::time::Instant;

/// Bytes of a block of one record, and of the frame around it; the largest has windows and alerts of all metrics.
const BLOCK_BYTES: usize = 512;
const FRAME_BYTES: usize = BLOCK_BYTES + 32;

const BOOT: BootId = BootId { counter: 1, nonce: 0 };

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Why the round trip did not come round.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Settings,
    Codec,
    Frame,
    Missing,
}

impl From<CodecError> for Failure {
    fn from(_: CodecError) -> Self {
        Self::Codec
    }
}

impl From<FrameError> for Failure {
    fn from(_: FrameError) -> Self {
        Self::Frame
    }
}

/// Takes `snapshots` snapshots with a load of `cpu` hundredths of a percent, sends them as frames and reads those.
/// Answers how many records came back, or less than 0 when something did not work.
#[expect(unsafe_code, reason = "an exported name is what keeps the linker from dropping all this")]
// SAFETY: no other symbol of a program that links this library begins with picket_bare.
#[unsafe(no_mangle)]
pub extern "C" fn picket_bare_round_trip(snapshots: u32, cpu: u32) -> i32 {
    round_trip(snapshots, i64::from(cpu)).map_or(-1, |count| i32::try_from(count).unwrap_or(-1))
}

fn round_trip(snapshots: u32, cpu: i64) -> Result<usize, Failure> {
    let settings = Settings {
        plugins: PluginKind::BUILT_IN.into_iter().collect(),
        window: WindowEnd::Snapshots(2),
        ..Settings::default()
    };
    let config = Config::new(settings).map_err(|_| Failure::Settings)?;
    let mut now = Instant::from_ms(0);
    let mut agent: Agent<2048, 2> = Agent::new(now, BOOT, 1, config, None);
    let mut deframer = Deframer::<FRAME_BYTES>::new();
    let mut left = snapshots;
    let mut records = 0;

    let agent_id = "bare".parse::<AgentId>().map_err(|_| Failure::Settings)?;
    records += transfer(&Frame::Hello { agent: agent_id, boot: BOOT }, &mut deframer)?;
    loop {
        match agent.poll(now) {
            Output::Dial => agent.handle(now, Input::LinkOneWay),
            Output::Collect(metrics) => {
                let counts = metrics.iter().map(|metric| (metric, count(metric, cpu, left)));
                let values = Values::from_iter(counts);
                let input = match left.checked_sub(1) {
                    Some(rest) => {
                        left = rest;
                        Input::Snapshot(Snapshot { taken_at: now, wall_ms: 0, values })
                    }
                    None => Input::Shutdown,
                };
                agent.handle(now, input);
            }
            Output::Transmit(transmit) => {
                match transmit {
                    Transmit::Plain(batch) => records += send(&agent, &batch, &mut deframer)?,
                    Transmit::Alerts(batch) => {
                        let mut buffer = [0; BLOCK_BYTES];
                        let alerts = agent.alerts(&batch).map(|(_, alert)| alert);
                        let length = pack_alerts(batch.first, alerts, &mut buffer)?;
                        let alerts = buffer.get(..length).ok_or(Failure::Missing)?;
                        transfer(&Frame::Alerts(alerts), &mut deframer)?;
                    }
                    Transmit::Batch(_)
                    | Transmit::Replay
                    | Transmit::Answer(_)
                    | Transmit::Begun(_)
                    | Transmit::ConfigReport
                    | Transmit::Status => {}
                }
                agent.handle(now, Input::Transmitted(transmit));
            }
            // Nothing outlives this agent, and nobody commands it.
            Output::Remember => agent.handle(now, Input::Remembered(Ok(()))),
            Output::Wait(Some(at)) => now = now.max(at),
            Output::Wait(None)
            | Output::Finish
            | Output::Restart
            | Output::Spool
            | Output::Exit => {
                return Ok(records);
            }
        }
    }
}

fn count(metric: Metric, cpu: i64, left: u32) -> i64 {
    match metric {
        Metric::CpuPercent => cpu,
        _ => i64::from(left),
    }
}

fn send<const RING: usize, const COMMANDS: usize>(
    agent: &Agent<RING, COMMANDS>,
    batch: &Batch,
    deframer: &mut Deframer<FRAME_BYTES>,
) -> Result<usize, Failure> {
    let mut block = [0; BLOCK_BYTES];
    let records = agent.records(batch).map(|(_, record)| record);
    let length = pack(batch.first, records, &mut block)?;
    let block = block.get(..length).ok_or(Failure::Missing)?;
    transfer(&Frame::Records(block), deframer)
}

/// Sends `frame` over a link without a fault. Answers how many records come out at its end.
fn transfer(frame: &Frame<'_>, deframer: &mut Deframer<FRAME_BYTES>) -> Result<usize, Failure> {
    const EMPTY: Sample = Sample {
        snapshot: Snapshot { taken_at: Instant::from_ms(0), wall_ms: 0, values: Values::EMPTY },
        window: None,
        marks: Marks::NONE,
        repeats: 0,
    };

    let mut link = [0; FRAME_BYTES];
    let length = encode_frame(frame, &mut link)?;
    for byte in link.iter().take(length) {
        match deframer.push(*byte).transpose()? {
            None => {}
            Some(Frame::Hello { .. }) => return Ok(0),
            Some(Frame::Records(block)) => {
                let (_, count) = unpack(block, &mut [EMPTY; 1])?;
                return Ok(count);
            }
            Some(Frame::Alerts(alerts)) => {
                unpack_alerts(alerts)?;
                return Ok(0);
            }
        }
    }
    Err(Failure::Missing)
}
