//! Every capacity of the core, with its unit and its reason.

use core::time::Duration;

/// Bytes of an agent id. A DNS label has as many, so a host name usually fits.
pub const AGENT_ID_BYTES_MAX: usize = 63;

/// Bytes of a command id. A UUID in text has 36.
pub const COMMAND_ID_BYTES_MAX: usize = 64;

/// Bytes of a reason that travels from the shell through the core into an answer.
pub const REASON_BYTES_MAX: usize = 200;

/// Bytes of records held until they are acknowledged. A record of the eight fixed metrics takes about 50, so that is
/// about 5,000 of them: 7 h at the default interval of 5 s.
pub const RING_BYTES: usize = 256 * 1024;

/// Bytes of alerts held until they are acknowledged, apart from the records, so that those can never displace one.
/// An alert takes about 35, so that is more than 100 of them.
pub const ALERT_RING_BYTES: usize = 4096;

/// Bytes of one record in the ring: a window of every metric, each at an end of its range.
pub const RECORD_BYTES_MAX: usize = 1400;

/// The user's own kinds of plugin in one program.
pub const OWN_PLUGINS_MAX: usize = 4;

/// Plugins in the chain: each kind at most once.
pub const PLUGINS_MAX: usize = 4 + OWN_PLUGINS_MAX;

/// Numbers that configure one of the user's own plugins.
pub const OWN_PARAMETERS_MAX: usize = 4;

/// Comparisons in the condition of the filter plugin.
pub const CONDITION_TERMS_MAX: usize = 8;

/// Records in one batch. A batch of windows of all metrics, each at an end of its range, takes less than 80 KiB encoded.
pub const BATCH_RECORDS_MAX: u64 = 64;

/// Alerts in one batch.
pub const BATCH_ALERTS_MAX: usize = 32;

/// Records on their way without an acknowledgement. Two batches keep a link busy while one is made durable.
pub const IN_FLIGHT_RECORDS_MAX: u64 = 4 * BATCH_RECORDS_MAX;

/// Ranges of records that left the ring unacknowledged, lost or deferred, while the peer has not confirmed to know of them.
pub const GAPS_MAX: usize = 8;

/// Batches of the spool on their way without an acknowledgement.
pub const REPLAYS_IN_FLIGHT_MAX: u8 = 2;

/// Messages handed to the transport that it has not taken yet.
pub const TRANSMIT_SLOTS: u8 = 8;

/// Commands remembered, so that none runs twice and each answer can be given again.
pub const COMMANDS_MAX: usize = 64;

/// Shortest sampling interval.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Longest sampling interval.
pub const INTERVAL_MAX: Duration = Duration::from_secs(86_400);

/// Snapshots in an aggregation window at most.
pub const WINDOW_SNAPSHOTS_MAX: u16 = 3600;

/// Length of an aggregation window at most.
pub const WINDOW_DURATION_MAX: Duration = Duration::from_secs(86_400);

/// Longest time that a value must be wrong before its alert is raised.
pub const ALERT_FOR_MAX: Duration = Duration::from_secs(86_400);

/// Longest silence of the deduplication plugin at most.
pub const MAX_SILENCE_MAX: Duration = Duration::from_secs(86_400);

/// First step of the reconnect back-off.
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// Last step of the reconnect back-off.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A session this old has proven the link: the back-off starts from its first step again.
pub const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);

/// How long a peer may take to answer with its response headers before the plain form is spoken to it.
pub const PLAIN_AFTER: Duration = Duration::from_secs(1);

/// The same, when a peer of this boot has shown before that it knows more. A peer that is gone is found by the
/// transport's keep-alive before this, so who is silent for so long is alive and has been exchanged for a plain one.
pub const PLAIN_AFTER_WELCOME: Duration = Duration::from_secs(30);

/// How long the link must have lasted after a record was handed over in the plain form until the record counts as
/// delivered. A plain peer acknowledges nothing, but in this time the transport's keep-alive (at most 15 s) has shown
/// that the peer took what was sent.
pub const PLAIN_CONFIRMED_AFTER: Duration = Duration::from_secs(20);

/// How often whoever waits for [`PLAIN_CONFIRMED_AFTER`] looks whether the process still runs.
pub const VIGIL_STEP: Duration = Duration::from_secs(3);

/// The longest gap between two such looks that is none. Within it the process may have stood still unseen, by less than what
/// [`PLAIN_CONFIRMED_AFTER`] is longer than the transport's keep-alive.
pub const VIGIL_GAP_MAX: Duration = Duration::from_secs(4);

/// Longest silence of an agent when the server did not ask for another.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(10);

/// How long a shutdown may spend on delivering what is held.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Time to live of a command that does not say.
pub const COMMAND_TTL_DEFAULT: Duration = Duration::from_secs(60);

/// Longest time to live of a command.
pub const COMMAND_TTL_MAX: Duration = Duration::from_secs(86_400);

const _: () = {
    assert!(BATCH_RECORDS_MAX <= IN_FLIGHT_RECORDS_MAX);
    assert!(BACKOFF_MIN.as_millis() < BACKOFF_MAX.as_millis());
    assert!(INTERVAL_MIN.as_millis() < INTERVAL_MAX.as_millis());
};
