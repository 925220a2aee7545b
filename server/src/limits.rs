//! Every bound of the server, with its unit and its reason.

use std::time::Duration;

/// Encoded size of one message, either way; those of agents have [`AGENT_MESSAGE_BYTES_MAX`]. A configuration document
/// has at most 64 KiB.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Encoded size of one message of an agent. 64 records of the largest size in the longer of both forms stay below 100 KiB.
/// It is also what a peer can make wait here by sending half a message.
pub(crate) const AGENT_MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// How long an agent may take over one message once it has begun it: on a link of 9,600 baud the longest that agents
/// of ours send takes 20 s.
pub(crate) const MESSAGE_TIME_MAX: Duration = Duration::from_secs(30);

/// What one message may take once it is decoded. 64 records with windows and alerts in everything take 300 KiB.
pub(crate) const DECODED_BYTES_MAX: u32 = 512 * 1024;

/// What the records of one packed batch are taken to need: 64 of 1 KiB.
pub(crate) const BATCH_PACKED_BYTES: usize = 64 * 1024;

/// Buffers that a stream has from its start, one each way. tonic's own are of 8 KiB, and most messages of 100 bytes.
pub(crate) const STREAM_BUFFER_BYTES: usize = 1024;

/// Bytes that an agent may have under way without an acknowledgement, at least and at most. The least lets one batch of
/// packed records through; the most is what an agent's ring holds.
pub(crate) const CREDIT_BYTES_MIN: u64 = 4 * 1024;
/// See [`CREDIT_BYTES_MIN`].
pub(crate) const CREDIT_BYTES_MAX: u64 = 256 * 1024;

/// A bus that stores within this time is quick; agents get their full share.
pub(crate) const SINK_QUICK: Duration = Duration::from_millis(500);
/// One that takes longer than this is slow, and agents get the least.
pub(crate) const SINK_SLOW: Duration = Duration::from_secs(2);
/// What a bus that could not store counts as.
pub(crate) const SINK_DOWN: Duration = Duration::from_secs(30);

/// HTTP/2 window of a stream and of a connection: what a peer may park here while its records are being
/// stored. The default of 1 MiB would let a thousand stuck streams hold a gigabyte. Over a way of 100 ms there and back
/// it lets 320 KiB a second through, forty thousand packed records.
pub(crate) const WINDOW_BYTES: u32 = 32 * 1024;

/// What HTTP/2 keeps of a stream for a peer that does not take it. A message larger than this is kept whole.
pub(crate) const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// Headers of one request, as HTTP/2 counts them. The largest are those of an agent's Hello, of 1 KiB.
pub(crate) const HEADERS_BYTES_MAX: u32 = 8 * 1024;

/// Streams on one connection: an agent has one, an operator's tool a few.
pub(crate) const CONNECTION_STREAMS_MAX: u32 = 8;

/// Streams that a peer opens and resets faster than they are served before its connection is closed.
pub(crate) const RESET_STREAMS_MAX: usize = 20;

/// Streams that we had to reset, for what a peer did, before its connection is closed.
pub(crate) const ERROR_STREAMS_MAX: usize = 64;

/// How long a connection may be there without having made a request: those who mean it make one at once.
pub(crate) const FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);

/// How long a connection without a stream is kept after its last one. Clients open another when they need it.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(300);

/// How long a stream that has ended may take to be taken from us before its connection is closed.
pub(crate) const LEFTOVERS_MAX: Duration = Duration::from_secs(5);

/// How long what was sent may stay without an answer by the peer's TCP before the connection is given up.
pub(crate) const TCP_UNANSWERED_MAX: Duration = Duration::from_secs(20);

/// Files that are left to the storage and the rest when the limit on open files decides how many connections there may
/// be: a quarter, at most so many.
pub(crate) const OWN_FILES: u64 = 1024;

/// Silence after which a connection is asked for a sign of life, and how long that may take: a host that
/// vanished is found within 15 s.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// See [`KEEPALIVE_INTERVAL`].
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Silence of an agent that the server asks it not to exceed.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

/// Messages handed to the transport that it has not taken yet. One would do; a few save wake-ups.
pub(crate) const OUTBOUND_MESSAGES: usize = 4;

/// Commands, and answers to acknowledge, that wait for a slow stream before nothing more is taken for it.
pub(crate) const OUTBOX_ENTRIES_MAX: usize = 64;

/// What others ask of a session and it has not looked at yet: 64 commands and a few pushes.
pub(crate) const DIRECTIVES_MAX: usize = 80;

/// How long a stream may take nothing off us before it is closed.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(30);

/// How long the holder of an id has to show that it lives when another agent claims the id. A host that is busy may
/// stall a process for seconds, and must not lose its name for that.
pub(crate) const CONTEST: Duration = Duration::from_secs(5);

/// At most one report of a duplicate id in this time for each id, and one heartbeat on the bus.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// How long the Welcome waits for the last record of an agent that is new to this run of the server. It is an
/// index lookup; without it the agent sends again what is stored, and readers drop the repeats.
pub(crate) const WELCOME_HISTORY_MAX: Duration = Duration::from_millis(300);

/// How often plain streams with one id may replace each other within [`PLAIN_REPLACED_WINDOW`] before they are
/// taken for two live clients. One that reconnects replaces its own dead stream once.
pub(crate) const PLAIN_REPLACED_MAX: usize = 3;
/// See [`PLAIN_REPLACED_MAX`].
pub(crate) const PLAIN_REPLACED_WINDOW: Duration = Duration::from_secs(30);

/// How long an agent counts as connected to another server that says no more of it. Its heartbeats are on the bus once in
/// [`REPORT_INTERVAL`].
pub(crate) const PRESENCE_MAX_MS: i64 = 150_000;

/// How much of agent-status is read at the start from a bus that several servers share.
pub(crate) const STATUS_HISTORY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a start waits for what the bus has of agents and commands; without it the server begins, and says so.
pub(crate) const HISTORY_WAIT: Duration = Duration::from_secs(5);

/// Agents that are remembered. One takes 1 to 2 KiB.
pub(crate) const AGENTS_MAX: usize = 100_000;

/// Encoded size of what an agent says of itself and is remembered for each.
pub(crate) const STATUS_BYTES_MAX: usize = 8 * 1024;

/// Entries of all the lists in it together. An agent with everything on has about 100. Without this bound a status of
/// empty entries, two bytes each, would take 300 KiB of memory for each agent that is remembered.
pub(crate) const STATUS_ENTRIES_MAX: usize = 256;

/// Encoded size of an agent's answer to a command.
pub(crate) const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// Bytes of the short texts in a Hello.
pub(crate) const NAME_BYTES_MAX: usize = 256;

/// Metadata of a plain snapshot, as monitoring.proto says.
pub(crate) const METADATA_ENTRIES_MAX: usize = 32;
/// See [`METADATA_ENTRIES_MAX`].
pub(crate) const METADATA_KEY_BYTES_MAX: usize = 64;
/// See [`METADATA_ENTRIES_MAX`].
pub(crate) const METADATA_VALUE_BYTES_MAX: usize = 1024;

/// Metrics of one record: its bit set has as many bits.
pub(crate) const METRICS_MAX: usize = 64;

/// Last millisecond of the year 9999. Later times have no ISO 8601 form of four digits.
pub(crate) const UNIX_MS_MAX: i64 = 253_402_300_799_999;

/// Commands that wait for one agent.
pub(crate) const AGENT_COMMANDS_MAX: usize = 64;

/// Commands that wait for all agents together. One takes below 1 KiB as a rule.
pub(crate) const COMMANDS_MAX: usize = 65_536;

/// Answers that are remembered, so that a command sent again gets the answer again.
pub(crate) const ANSWERS_MAX: usize = 4096;

/// Commands that one issuer may send, all at once or one after the other.
pub(crate) const ISSUER_COMMANDS_PER_S: u64 = 16;

/// Issuers whose commands are counted. One takes about 50 bytes.
pub(crate) const ISSUERS_MAX: usize = 1024;

/// How much longer the other servers wait before they say what became of a command that is over: enough for the one
/// that has the agent to say so over the bus. Each adds up to half as much, so that they do not speak at once.
pub(crate) const COMMAND_GRACE: Duration = Duration::from_secs(5);

/// Sources of bad records that were logged and are not logged again.
pub(crate) const SOURCES_MAX: usize = 1024;

/// Parameters of one command, and their size together.
pub(crate) const COMMAND_PARAMS_MAX: usize = 64;

/// Layers of configuration that are kept at hand: one for each agent, the one below, and some of agents that are gone.
pub(crate) const LAYERS_MAX: usize = 131_072;
/// Bytes of their texts together. Reading them takes several times as much.
pub(crate) const LAYERS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long the start waits for the configurations to be read.
pub(crate) const CONFIG_FIRST_READ: Duration = Duration::from_secs(5);

/// How long the follower of the configurations waits for a record of its own to be stored.
pub(crate) const STATUS_PUBLISH_MAX: Duration = Duration::from_secs(5);

/// How long `SetConfig` waits for the agent's report.
pub(crate) const CONFIG_REPORT_WAIT: Duration = Duration::from_secs(5);

/// Versions of a document that an answer has when the request does not say how many, and at most.
pub(crate) const CONFIG_VERSIONS: usize = 20;
pub(crate) const CONFIG_VERSIONS_MAX: usize = 100;
/// Their texts together; older versions are left out beyond it. The newest always fits.
pub(crate) const CONFIG_HISTORY_BYTES_MAX: usize = 192 * 1024;

/// How long a shutdown may take. systemd kills after 90 s, containers after 10 s.
pub(crate) const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// Of it, for the streams to end; the rest is for the bus.
pub(crate) const SHUTDOWN_STREAMS_MAX: Duration = Duration::from_secs(7);

const _: () = {
    assert!(CONFIG_HISTORY_BYTES_MAX + 16 * 1024 < MESSAGE_BYTES_MAX);
    assert!(bus::query::COMMANDS_BYTES_MAX + 16 * 1024 < MESSAGE_BYTES_MAX);
    assert!(bus::query::BATCH_BYTES_MAX + 48 * 1024 < MESSAGE_BYTES_MAX);
    assert!(proto::config::DOCUMENT_BYTES_MAX < MESSAGE_BYTES_MAX / 2);
    assert!(AGENTS_MAX < LAYERS_MAX);
    assert!(AGENT_MESSAGE_BYTES_MAX <= MESSAGE_BYTES_MAX);
    assert!(CREDIT_BYTES_MIN.is_power_of_two() && CREDIT_BYTES_MAX.is_power_of_two());
    assert!(STATUS_BYTES_MAX + RESPONSE_BYTES_MAX < AGENT_MESSAGE_BYTES_MAX);
    assert!(
        METADATA_ENTRIES_MAX * (METADATA_KEY_BYTES_MAX + METADATA_VALUE_BYTES_MAX + 16)
            < AGENT_MESSAGE_BYTES_MAX
    );
    assert!(AGENT_COMMANDS_MAX < DIRECTIVES_MAX);
    assert!(SHUTDOWN_STREAMS_MAX.as_millis() < SHUTDOWN_MAX.as_millis());
};
