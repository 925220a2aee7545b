//! A device that runs the picket agent without an operating system, apart from its board.
//!
//! It is the shell around [`Agent`] in its smallest form: one loop, no interrupts, no allocator. The board, or a test,
//! lends it a [`Wire`]. Its clock is simulated: it jumps to the next deadline instead of waiting for it, and what it
//! measures comes from a recorded trace and a synthetic sensor. So it sends the same bytes wherever it runs.
//!
//! The wire comes up late, as that of a device which measures before its gateway listens, so the ring overflows and
//! the loss is counted. When the trace ends the configuration changes, and the sensor goes on in windows.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod sensor;
mod trace;

use core::time::Duration;

use agent_core::agent::{Agent, Batch, Input, Output, Transmit};
use agent_core::codec::{CodecError, Frame, encode_frame, pack, pack_alerts};
use agent_core::config::{AlertRule, AlertRules, Config, ConfigError, Settings, WindowEnd};
use agent_core::id::{AgentId, AgentIdError, BootId, ConfigRevision};
use agent_core::ledger::Ledger;
use agent_core::metric::{Metric, MetricSet};
use agent_core::plugin::PluginKind;
use agent_core::record::Snapshot;
use agent_core::time::Instant;

use self::sensor::Sensor;
pub use self::trace::Trace;

/// Bytes of records held while the wire is down: more than half a minute.
pub const RING_BYTES: usize = 2048;
/// Commands remembered. The wire leads away from the device, so none comes.
pub const COMMANDS: usize = 1;

/// The agent in the size of this device.
pub type DeviceAgent = Agent<RING_BYTES, COMMANDS>;

/// The name that the device says.
pub const AGENT_ID: &str = "lm3s6965evb";
/// The boot that the device says. One that can store a counter and has a source of noise says a new one each time.
pub const BOOT: BootId = BootId { counter: 1, nonce: 0x7069_636b_6574 };

/// A Hello stands before the first of so many frames with records or alerts.
pub const HELLO_EVERY: u64 = 64;

/// How long after the start the wire comes up.
const WIRE_UP_AFTER: Duration = Duration::from_secs(45);
/// Four minutes.
const SENSOR_READINGS: u32 = 240;
const INTERVAL: Duration = Duration::from_secs(1);
const WINDOW_SNAPSHOTS: u16 = 10;
const SEED: u64 = 0x5eed;

/// Bytes of a block of one record: a window of eight metrics has 40 values of at most 72 bits, and columns beside them.
const BLOCK_BYTES: usize = 512;
/// Bytes of one alert with its sequence.
const ALERT_BYTES: usize = 80;
/// Bytes of the frame around it: version, kind, length, checksum, and a byte of stuffing for each 254.
const FRAME_BYTES: usize = BLOCK_BYTES + 32;

/// Where frames go: a UART, or the memory of a test.
pub trait Wire {
    /// Sends all of `bytes`; waits as long as that takes.
    fn send(&mut self, bytes: &[u8]);
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The books at the end.
    pub ledger: Ledger,
    /// Frames with records or alerts.
    pub frames: u64,
    /// Bytes on the wire.
    pub bytes: u64,
}

/// Why a run ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The device's own settings are out of their range.
    #[error("the settings are not valid")]
    Config(#[from] ConfigError),
    /// The device's own name is none.
    #[error("the name is not valid")]
    AgentId(#[from] AgentIdError),
    /// A record has no room in its buffer.
    #[error("a record does not fit")]
    Codec(#[from] CodecError),
    /// There is no trace.
    #[error("the trace is empty")]
    NoTrace,
}

/// Measures all there is and sends it over `wire`.
///
/// # Errors
///
/// See [`DeviceError`]; all of them are faults of this program.
pub fn run(wire: &mut impl Wire) -> Result<Totals, DeviceError> {
    let trace = Trace::new();
    let now = trace.clone().next().ok_or(DeviceError::NoTrace)?.taken_at;
    // Made in its place and lent from there: moving it would take its size twice on the stack.
    let mut agent = DeviceAgent::new(now, BOOT, SEED, trace_config()?, None);
    let mut device = Device {
        agent: &mut agent,
        agent_id: AGENT_ID.parse()?,
        now,
        wire_up_at: now + WIRE_UP_AFTER,
        source: Source::Trace(trace),
        wire,
        frames: 0,
        bytes: 0,
    };
    while device.step()? == Step::Going {}
    Ok(device.totals())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Going,
    Ended,
}

/// What is measured.
#[derive(Clone, Debug)]
enum Source {
    Trace(Trace),
    Sensor { sensor: Sensor, left: u32, wall_offset_ms: i64 },
}

struct Device<'d, W> {
    agent: &'d mut DeviceAgent,
    agent_id: AgentId,
    now: Instant,
    wire_up_at: Instant,
    source: Source,
    wire: &'d mut W,
    frames: u64,
    bytes: u64,
}

impl<W: Wire> Device<'_, W> {
    /// Does the next thing that the agent asks for.
    fn step(&mut self) -> Result<Step, DeviceError> {
        match self.agent.poll(self.now) {
            Output::Dial if self.now < self.wire_up_at => {
                self.agent.handle(self.now, Input::LinkClosed);
            }
            Output::Dial => self.agent.handle(self.now, Input::LinkOneWay),
            Output::Collect(metrics) => self.collect(metrics)?,
            Output::Transmit(transmit) => {
                match transmit {
                    Transmit::Plain(batch) => self.send_records(&batch)?,
                    Transmit::Alerts(batch) => self.send_alerts(&batch)?,
                    // A link that leads one way asks for nothing else.
                    Transmit::Batch(_)
                    | Transmit::Replay
                    | Transmit::Answer(_)
                    | Transmit::Begun(_)
                    | Transmit::ConfigReport
                    | Transmit::Status => {}
                }
                // The wire has taken it before it comes back.
                self.agent.handle(self.now, Input::Transmitted(transmit));
            }
            // Nothing outlives this device, and nobody commands it.
            Output::Remember => self.agent.handle(self.now, Input::Remembered(Ok(()))),
            Output::Wait(Some(at)) => self.now = self.now.max(at),
            Output::Wait(None)
            | Output::Finish
            | Output::Restart
            | Output::Spool
            | Output::Exit => {
                return Ok(Step::Ended);
            }
        }
        Ok(Step::Going)
    }

    fn collect(&mut self, metrics: MetricSet) -> Result<(), DeviceError> {
        let Some(mut snapshot) = self.measure()? else {
            self.agent.handle(self.now, Input::Shutdown);
            return Ok(());
        };
        self.now = self.now.max(snapshot.taken_at);
        let asked_for = snapshot.values.iter().filter(|(metric, _)| metrics.contains(*metric));
        snapshot.values = asked_for.collect();
        self.agent.handle(self.now, Input::Snapshot(snapshot));
        Ok(())
    }

    /// The next snapshot; none when there is no more to measure.
    fn measure(&mut self) -> Result<Option<Snapshot>, DeviceError> {
        if let Source::Trace(trace) = &mut self.source {
            if let Some(snapshot) = trace.next() {
                return Ok(Some(snapshot));
            }
            self.source = Source::Sensor {
                sensor: Sensor::new(SEED),
                left: SENSOR_READINGS,
                wall_offset_ms: trace.wall_offset_ms(),
            };
            let config = Ok(sensor_config()?);
            self.agent.handle(self.now, Input::Configure { revision: ConfigRevision(1), config });
        }
        let Source::Sensor { sensor, left, wall_offset_ms } = &mut self.source else {
            return Ok(None);
        };
        let Some(rest) = left.checked_sub(1) else {
            return Ok(None);
        };
        *left = rest;
        let taken_at = self.now;
        let wall_ms = wall_offset_ms.wrapping_add(taken_at.as_ms().cast_signed());
        Ok(Some(Snapshot { taken_at, wall_ms, values: sensor.read() }))
    }

    fn send_records(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        let mut block = [0; BLOCK_BYTES];
        let records = self.agent.records(batch).map(|(_, record)| record);
        let length = pack(batch.first, records, &mut block)?;
        self.send_data(&Frame::Records(block.get(..length).ok_or(CodecError::BufferFull)?))
    }

    fn send_alerts(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        let mut buffer = [0; ALERT_BYTES];
        let alerts = self.agent.alerts(batch).map(|(_, alert)| alert);
        let length = pack_alerts(batch.first, alerts, &mut buffer)?;
        self.send_data(&Frame::Alerts(buffer.get(..length).ok_or(CodecError::BufferFull)?))
    }

    /// Sends what has no meaning without a Hello.
    fn send_data(&mut self, frame: &Frame<'_>) -> Result<(), DeviceError> {
        if self.frames.is_multiple_of(HELLO_EVERY) {
            let agent = self.agent_id.clone();
            self.send(&Frame::Hello { agent, boot: BOOT })?;
        }
        self.frames += 1;
        self.send(frame)
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), DeviceError> {
        let mut buffer = [0; FRAME_BYTES];
        let length = encode_frame(frame, &mut buffer)?;
        self.wire.send(buffer.get(..length).ok_or(CodecError::BufferFull)?);
        self.bytes += length as u64;
        Ok(())
    }

    fn totals(&self) -> Totals {
        Totals { ledger: self.agent.ledger(), frames: self.frames, bytes: self.bytes }
    }
}

fn trace_config() -> Result<Config, ConfigError> {
    Config::new(Settings {
        interval: INTERVAL,
        plugins: [PluginKind::Deduplication, PluginKind::ThresholdAlert].into_iter().collect(),
        ..Settings::default()
    })
}

fn sensor_config() -> Result<Config, ConfigError> {
    let mut thresholds = AlertRules::NONE;
    thresholds.set(Metric::CpuPercent, AlertRule { hysteresis: 500, ..AlertRule::above(6000) });
    Config::new(Settings {
        interval: INTERVAL,
        metrics: Sensor::metrics(),
        plugins: [PluginKind::Aggregation, PluginKind::ThresholdAlert].into_iter().collect(),
        thresholds,
        window: WindowEnd::Snapshots(WINDOW_SNAPSHOTS),
        ..Settings::default()
    })
}
