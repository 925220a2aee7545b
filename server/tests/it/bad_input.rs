//! What must be refused: typed, counted, and without effect on others.

use std::collections::HashMap;

use prost::bytes::BufMut as _;
use proto::agent_message::Body;
use proto::{
    AgentMessage, Command, HELLO_HEADER, Hello, MetricsRequest, Record, RecordBatch,
    SubscribeMetricsRequest,
};
use tokio_stream::StreamExt as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::harness::{BOOT, Server, hello, plain, record, since_the_start, soon};

/// Sends bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use prost::bytes::Buf as _;
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// Wire type 7 does not exist.
const NO_PROTOBUF: [u8; 2] = [0x0f, 0xff];

async fn unary(server: &Server, method: &'static str, bytes: Vec<u8>) -> Status {
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static(method);
    let answer = soon("the answer", client.unary(Request::new(bytes), path, Raw)).await;
    answer.unwrap_err()
}

async fn stream(server: &Server, bytes: Vec<u8>) -> Status {
    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/monitoring.MonitoringService/StreamMetrics");
    // Stays open after the one message, as an agent's stream does.
    let messages = tokio_stream::once(bytes).chain(tokio_stream::pending());
    let stream = client.streaming(Request::new(messages), path, Raw).await.unwrap();
    soon("the end", stream.into_inner().message()).await.unwrap_err()
}

#[tokio::test]
async fn malformed_protobuf_is_an_invalid_argument() {
    let server = Server::start();
    let mut bystander = server.agent("bystander").await;
    assert_eq!(stream(&server, NO_PROTOBUF.to_vec()).await.code(), Code::InvalidArgument);
    for method in [
        "/monitoring.MonitoringService/SendCommand",
        "/monitoring.OperatorService/SetConfig",
        "/monitoring.OperatorService/SubscribeMetrics",
    ] {
        let refused = unary(&server, method, NO_PROTOBUF.to_vec()).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{method}: {refused}");
    }
    assert_eq!(server.counter("rejected.malformed").await, 4);
    bystander.send_records([1]).await;
    bystander.acknowledged(1).await;
}

#[tokio::test]
async fn oversized_messages_are_out_of_range() {
    let server = Server::start();
    let mut bystander = server.agent("bystander").await;
    let large = vec![0; 300 * 1024];
    assert_eq!(stream(&server, large.clone()).await.code(), Code::OutOfRange);
    let refused = unary(&server, "/monitoring.MonitoringService/SendCommand", large).await;
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(server.counter("rejected.oversized").await, 2);
    bystander.send_records([1]).await;
    bystander.acknowledged(1).await;
}

#[tokio::test]
async fn a_bad_hello_is_refused_before_the_stream_begins() {
    let server = Server::start();
    let check = async |hello: Hello, counter: &str| {
        let refused = server.open(Some(hello)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(server.counter(counter).await, 1);
    };
    check(hello("../x", BOOT, 1), "rejected.agent_id").await;
    check(Hello { boot: None, ..hello("edge-01", BOOT, 1) }, "rejected.malformed").await;
    let mut garbled = Request::new(());
    garbled.metadata_mut().insert_bin(HELLO_HEADER, MetadataValue::from_bytes(&NO_PROTOBUF));
    let refused = server.open_with(garbled).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(server.counter("rejected.malformed").await, 2);
    assert!(server.agents().await.is_empty());
}

/// Sends one message on a plain stream; answers with how the server ends it.
async fn refuse_plain(server: &Server, request: MetricsRequest) -> Status {
    let mut stream = server.open(None).await.unwrap();
    stream.send(request).await;
    stream.ended().await
}

#[tokio::test]
async fn bad_plain_messages_end_their_stream_only() {
    let server = Server::start();
    let mut bystander = server.agent("bystander").await;
    let check = async |request: MetricsRequest, counter: &str| {
        let before = server.counter(counter).await;
        let refused = refuse_plain(&server, request).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert_eq!(server.counter(counter).await, before + 1, "{refused}");
        refused.message().to_owned()
    };
    for id in ["", "../x", "a/b", "a\0", ".", "_default", &"a".repeat(64)] {
        check(plain(id, 1.0), "rejected.agent_id").await;
    }
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
        let text = check(plain("edge-01", value), "rejected.value").await;
        assert!(text.contains("cpu_percent"), "{text}");
    }
    for timestamp in [-1, i64::MAX, i64::MIN, 1_000_000_000_000_000_000] {
        let request = MetricsRequest { timestamp, ..plain("edge-01", 1.0) };
        check(request, "rejected.timestamp").await;
    }
    let nothing = MetricsRequest { metrics: None, ..plain("edge-01", 1.0) };
    check(nothing, "rejected.malformed").await;
    let metadata = HashMap::from([("k".to_owned(), "v".repeat(1025))]);
    check(MetricsRequest { metadata, ..plain("edge-01", 1.0) }, "rejected.metadata").await;

    let mut other = server.open(None).await.unwrap();
    other.send(plain("edge-01", 1.0)).await;
    other.send(plain("edge-02", 1.0)).await;
    assert_eq!(other.ended().await.code(), Code::InvalidArgument);
    assert_eq!(server.history().await.len(), 1, "what came before it is stored");

    bystander.send_records([1]).await;
    bystander.acknowledged(1).await;
}

#[tokio::test]
async fn what_is_no_snapshot_does_not_take_the_id_of_a_plain_client() {
    let server = Server::start();
    let client = server.open(None).await.unwrap();
    client.send(plain("edge-01", 1.0)).await;
    server.until("edge-01", |info| info.connected).await;

    let refuse = async |request: MetricsRequest| refuse_plain(&server, request).await.code();
    let message = Some(AgentMessage {
        body: Some(Body::Records(RecordBatch {
            records: vec![Record::default(); 100_000],
            ..RecordBatch::default()
        })),
    });
    let batch = MetricsRequest { message, ..plain("edge-01", 1.0) };
    assert_eq!(refuse(batch).await, Code::OutOfRange);
    let metadata = (0..1000).map(|key: u32| (key.to_string(), String::new())).collect();
    let wordy = MetricsRequest { metadata, ..plain("edge-01", 1.0) };
    assert_eq!(refuse(wordy).await, Code::InvalidArgument);
    let mut many = plain("edge-01", 1.0);
    many.metrics.as_mut().unwrap().more = vec![0; 100_000];
    assert_eq!(refuse(many).await, Code::OutOfRange);
    let few = MetricsRequest {
        message: Some(AgentMessage { body: Some(Body::Records(RecordBatch::default())) }),
        ..plain("edge-01", 1.0)
    };
    assert_eq!(refuse(few).await, Code::InvalidArgument);
    let mut many = plain("edge-01", 1.0);
    many.metrics.as_mut().unwrap().more = vec![0; 1000];
    assert_eq!(refuse(many).await, Code::InvalidArgument);

    assert_eq!(server.counter("sessions.superseded").await, 0);
    client.send(plain("edge-01", 2.0)).await;
    let since = SubscribeMetricsRequest { follow: true, ..since_the_start() };
    assert_eq!(server.read(since, 2).await.len(), 2);
}

#[tokio::test]
async fn bad_batches_end_their_stream_only() {
    let server = Server::start();
    let mut bystander = server.agent("bystander").await;
    let mut session = 0;
    let mut check = async |change: fn(&mut RecordBatch), counter: &str, code| {
        session += 1;
        let mut agent = server.open(Some(hello("edge-01", BOOT, session))).await.unwrap();
        let mut batch = RecordBatch {
            boot: Some(BOOT),
            records: vec![record(1), record(2)],
            ..RecordBatch::default()
        };
        change(&mut batch);
        let before = server.counter(counter).await;
        agent.say(Body::Records(batch)).await;
        let refused = agent.ended().await;
        assert_eq!(refused.code(), code, "{refused}");
        assert_eq!(server.counter(counter).await, before + 1, "{refused}");
    };
    let invalid = Code::InvalidArgument;
    check(|b| b.records[0].sequence = 0, "rejected.sequence", invalid).await;
    check(|b| b.records[1].sequence = 9, "rejected.sequence", invalid).await;
    check(|b| b.records[1].sequence = 1, "rejected.sequence", invalid).await;
    check(|b| b.records[1].sequence = 1 << 63, "rejected.sequence", invalid).await;
    check(|b| b.records[0].values.truncate(1), "rejected.value", invalid).await;
    check(|b| b.records.clear(), "rejected.sequence", invalid).await;
    let many: fn(&mut RecordBatch) = |b| b.records = (1..=65).map(record).collect();
    check(many, "rejected.oversized", Code::OutOfRange).await;
    let garbled: fn(&mut RecordBatch) = |b| {
        b.records.clear();
        b.packed = vec![0xff; 1000];
    };
    check(garbled, "rejected.packed", invalid).await;
    assert!(server.history().await.is_empty());
    bystander.send_records([1]).await;
    bystander.acknowledged(1).await;
}

#[tokio::test]
async fn bad_commands_are_refused() {
    let server = Server::start();
    let agent = server.agent("edge-01").await;
    server.until("edge-01", |info| info.connected).await;
    let good = Command { agent_id: "edge-01".into(), ..Command::default() };
    let check = async |command: Command, counter: &str| {
        let mut client = server.monitoring().await;
        let refused = soon("the answer", client.send_command(command)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert_eq!(server.counter(counter).await, 1, "{counter}");
    };
    check(Command { r#type: 99, ..good.clone() }, "rejected.command_type").await;
    check(Command { agent_id: "../x".into(), ..good.clone() }, "rejected.agent_id").await;
    check(Command { command_id: "a b".into(), ..good.clone() }, "rejected.command_id").await;
    check(Command { ttl_ms: u64::MAX, ..good.clone() }, "rejected.command_ttl").await;
    let params = HashMap::from([("interval".to_owned(), "-1".to_owned())]);
    check(Command { r#type: 3, params, ..good.clone() }, "rejected.command_params").await;
    // Quoted in whole it would not fit the headers that a client takes.
    let params = HashMap::from([(format!("\u{1b}é{}", "x".repeat(30_000)), "1".to_owned())]);
    let mut client = server.monitoring().await;
    let long = client.send_command(Command { r#type: 3, params, ..good });
    let refused = soon("the answer", long).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().ends_with('…'), "{refused}");
    assert_eq!(server.counter("commands.accepted").await, 0);
    drop(agent);
}
