//! Devices on serial links, with the real agent as their gateway.

use agent_core::id::BootId;
use proto::agent_message::Body;
use proto::command::CommandType;
use proto::server_message::Body as ServerBody;
use proto::{
    Ack, AgentStatus, AlertRecord, Command, CommandOutcome, CommandResponse, Loss, LossReason,
    MetricsRequest, Record, RunState, ServerMessage,
};

use crate::device::{
    BOOT, GARBAGE, NEXT_BOOT, Socket, alerts, expected, expected_alert, hello, records,
};
use crate::process::Agent;
use crate::scripted::{Headers, ScriptedServer, Stream, message_where, welcome};

/// A server, and the gateway with its own agent, which says next to nothing.
struct Site {
    server: ScriptedServer,
    agent: Agent,
    // Streams of others than the device that the test asked for.
    others: Vec<Stream>,
}

impl Site {
    async fn start(headers: Headers, links: &[&str]) -> Self {
        let server = ScriptedServer::start(headers).await;
        let address = server.address();
        let mut arguments =
            vec!["--agent-id", "gateway-1", "--server", &address, "--interval", "86400"];
        for link in links {
            arguments.extend(["--serial", link]);
        }
        Self { agent: Agent::start(&arguments), server, others: Vec::new() }
    }

    /// The next stream of `device` in `boot`.
    async fn stream(&mut self, device: &str, boot: BootId) -> Stream {
        loop {
            let stream = self.server.stream().await;
            let said = stream.hello.as_ref().map(|hello| (hello.agent_id.as_str(), hello.boot));
            if said == Some((device, Some(boot.into()))) {
                return stream;
            }
            self.others.push(stream);
        }
    }

    /// Asks for an orderly end, and waits for it.
    async fn stop(mut self) {
        // The host's own agent waits for an acknowledgement of its one record.
        drop(self.server);
        drop(self.others);
        self.agent.terminate();
        let code = tokio::task::spawn_blocking(move || self.agent.wait()).await.unwrap();
        assert_eq!(code, Some(0));
    }
}

/// What `message` says beyond the fixed facts. An agent that got the response headers late, on a busy machine, may begin
/// with plain snapshots.
fn said(message: &MetricsRequest) -> Option<&Body> {
    message.message.as_ref()?.body.as_ref()
}

fn body(message: MetricsRequest) -> Body {
    message.message.unwrap().body.unwrap()
}

/// Reads records until `last` has come, acknowledging each batch. Answers them and the losses.
async fn receive(stream: &mut Stream, boot: BootId, last: u64) -> (Vec<Record>, Vec<Loss>) {
    let (mut all, mut losses) = (Vec::new(), Vec::new());
    loop {
        let batch = |message: &MetricsRequest| matches!(said(message), Some(Body::Records(_)));
        let Body::Records(batch) = body(message_where(stream, batch).await) else { unreachable!() };
        assert_eq!(batch.boot, Some(boot.into()));
        losses.extend(batch.losses);
        let Some(sequence) = batch.records.last().map(|record| record.sequence) else { continue };
        all.extend(batch.records);
        let ack = Ack { boot: Some(boot.into()), sequence, ..Ack::default() };
        send(stream, ServerBody::Ack(ack)).await;
        if sequence == last {
            return (all, losses);
        }
    }
}

/// Reads alerts until `last` has come, acknowledging nothing. Answers them and the losses.
async fn read_alerts(stream: &mut Stream, last: u64) -> (Vec<AlertRecord>, Vec<Loss>) {
    let (mut all, mut losses) = (Vec::new(), Vec::new());
    while all.last().is_none_or(|alert: &AlertRecord| alert.sequence < last) {
        let batch = |message: &MetricsRequest| matches!(said(message), Some(Body::Alerts(_)));
        let Body::Alerts(batch) = body(message_where(stream, batch).await) else { unreachable!() };
        assert_eq!(batch.boot, Some(BOOT.into()));
        losses.extend(batch.losses);
        all.extend(batch.alerts);
    }
    (all, losses)
}

async fn acknowledge_alerts(stream: &Stream, boot: BootId, alert_sequence: u64) {
    let ack = Ack { boot: Some(boot.into()), alert_sequence, ..Ack::default() };
    send(stream, ServerBody::Ack(ack)).await;
}

async fn send(stream: &Stream, body: ServerBody) {
    let message = Some(ServerMessage { body: Some(body) });
    stream.send(Command { message, ..Command::default() }).await;
}

async fn command(stream: &mut Stream, id: &str, kind: CommandType) -> CommandResponse {
    let command = Command { command_id: id.to_owned(), r#type: kind.into(), ..Command::default() };
    stream.send(command).await;
    let answer = message_where(stream, |message| {
        matches!(said(message),
            Some(Body::Response(response)) if response.command_id == id)
    });
    let Body::Response(response) = body(answer.await) else { unreachable!() };
    response
}

/// Asks again and again until what the gateway knows is as `condition` says.
async fn status_where(stream: &mut Stream, condition: impl Fn(&AgentStatus) -> bool) {
    for number in 0_u64.. {
        let answer = command(stream, &format!("s{number}"), CommandType::Status).await;
        assert_eq!(answer.outcome(), CommandOutcome::Succeeded);
        if condition(&answer.status.unwrap()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_arrive_value_for_value_between_garbage_and_in_pieces() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    // The gateway comes in the middle of a frame.
    let mut bytes = records(1..=3)[5..].to_vec();
    bytes.extend(GARBAGE);
    bytes.push(0);
    bytes.extend(hello("mcu-1", BOOT));
    bytes.extend(records(1..=3));
    bytes.extend([0x55; 100_000]);
    bytes.push(0);
    bytes.extend(records(4..=40));
    for piece in bytes.chunks(7).take(100) {
        link.send(piece).await;
    }
    link.send(&bytes[700..]).await;
    let mut stream = site.stream("mcu-1", BOOT).await;
    assert!(stream.hello.as_ref().unwrap().target.contains("gateway-1"));
    let (records, losses) = receive(&mut stream, BOOT, 40).await;
    assert_eq!(records, (1..=40).map(expected).collect::<Vec<_>>());
    assert_eq!(losses, []);
    drop(stream);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_was_damaged_is_declared_lost() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    let mut damaged = records(3..=5);
    damaged[9] ^= 0x40;
    let frames = [hello("mcu-1", BOOT), records(1..=2), damaged, records(6..=7)];
    link.send(&frames.concat()).await;
    let mut stream = site.stream("mcu-1", BOOT).await;
    let (records, losses) = receive(&mut stream, BOOT, 7).await;
    assert_eq!(records, [1, 2, 6, 7].map(expected));
    let lost = |first, last| Loss {
        first,
        last,
        reason: LossReason::Link.into(),
        never_sent: last - first + 1,
        unacknowledged: 0,
    };
    assert_eq!(losses, [lost(3, 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_arrive_beside_the_records_until_they_are_acknowledged() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    let mut damaged = alerts(41..=42);
    damaged[9] ^= 0x40;
    let frames =
        [hello("mcu-1", BOOT), records(1..=2), alerts(1..=32), alerts(33..=40), damaged].concat();
    link.send(&[frames, alerts(43..=43), hello("mcu-1", NEXT_BOOT)].concat()).await;

    let mut stream = site.stream("mcu-1", BOOT).await;
    let (read, losses) = read_alerts(&mut stream, 43).await;
    assert_eq!(read, (1..=40).chain([43]).map(expected_alert).collect::<Vec<_>>());
    let [loss] = losses.as_slice() else { panic!("{losses:?}") };
    assert_eq!((loss.first, loss.last, loss.reason()), (41, 42, LossReason::Link));
    acknowledge_alerts(&stream, BOOT, 39).await;
    // Once its books say so, the gateway has heard the acknowledgement.
    let delivered = |status: &AgentStatus| {
        let books = status.ledger.as_ref().unwrap().alerts.as_ref().unwrap();
        (books.recorded, books.delivered, books.held) == (43, 39, 2)
    };
    status_where(&mut stream, delivered).await;
    drop(stream);

    // What was not acknowledged comes again.
    let mut stream = site.stream("mcu-1", BOOT).await;
    let (read, losses) = read_alerts(&mut stream, 43).await;
    assert_eq!(read, [40, 43].map(expected_alert));
    assert_eq!(losses.len(), 1);
    receive(&mut stream, BOOT, 2).await;
    acknowledge_alerts(&stream, BOOT, 43).await;
    // The boot is delivered, and its stream ends for the next one's.
    stream.last_message().await;
    site.stream("mcu-1", NEXT_BOOT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_starts_anew_is_a_new_boot_on_a_new_stream() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    link.send(&[hello("mcu-1", BOOT), records(1..=5)].concat()).await;
    link.send(&[hello("mcu-1", NEXT_BOOT), records(1..=2)].concat()).await;
    let mut stream = site.stream("mcu-1", BOOT).await;
    let (first, _) = receive(&mut stream, BOOT, 5).await;
    assert_eq!(first.len(), 5);
    // The stream ends once everything of the old boot is acknowledged.
    stream.last_message().await;
    let mut stream = site.stream("mcu-1", NEXT_BOOT).await;
    let (second, losses) = receive(&mut stream, NEXT_BOOT, 2).await;
    assert_eq!((second, losses), ([1, 2].map(expected).to_vec(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_devices_share_a_link_when_each_says_hello() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    let frames = [
        [hello("mcu-1", BOOT), records(1..=2)].concat(),
        [hello("mcu-2", BOOT), records(1..=1)].concat(),
        [hello("mcu-1", BOOT), records(3..=3)].concat(),
    ];
    link.send(&frames.concat()).await;
    for (device, last) in [("mcu-1", 3), ("mcu-2", 1)] {
        let known = |stream: &Stream| stream.hello.as_ref().is_some_and(|h| h.agent_id == device);
        let mut stream = match site.others.iter().position(known) {
            Some(index) => site.others.swap_remove(index),
            None => site.stream(device, BOOT).await,
        };
        let (records, losses) = receive(&mut stream, BOOT, last).await;
        assert_eq!((records, losses), ((1..=last).map(expected).collect(), Vec::new()));
        site.others.push(stream);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_too_much_is_held_the_oldest_gives_way_and_is_declared() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    link.send(&hello("mcu-1", BOOT)).await;
    for block in 0..50 {
        link.send(&records(block * 60 + 1..=block * 60 + 60)).await;
    }
    let mut stream = site.stream("mcu-1", BOOT).await;
    // Nothing is acknowledged, so no more than the window is sent.
    let all_heard = |status: &AgentStatus| status.ledger.as_ref().unwrap().recorded == 3000;
    status_where(&mut stream, all_heard).await;
    drop(stream);
    let mut stream = site.stream("mcu-1", BOOT).await;
    let (records, losses) = receive(&mut stream, BOOT, 3000).await;
    assert_eq!(records, (953..=3000).map(expected).collect::<Vec<_>>());
    // What the first stream carried and what it did not are declared apart.
    let mut lost = 0;
    for loss in losses {
        assert_eq!((loss.first, loss.reason()), (lost + 1, LossReason::Overwritten));
        assert_eq!(loss.never_sent + loss.unacknowledged, loss.last - loss.first + 1);
        lost = loss.last;
    }
    assert_eq!(lost, 952);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_refused_and_the_gateway_says_what_it_knows() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    link.send(&[hello("mcu-1", BOOT), records(3..=4)].concat()).await;
    let mut stream = site.stream("mcu-1", BOOT).await;
    for kind in
        [CommandType::Stop, CommandType::Start, CommandType::UpdateConfig, CommandType::Restart]
    {
        let answer = command(&mut stream, kind.as_str_name(), kind).await;
        assert_eq!(answer.outcome(), CommandOutcome::Rejected);
        assert!(answer.message.contains("one-way serial link"), "{}", answer.message);
    }
    let answer = command(&mut stream, "s", CommandType::Status).await;
    let status = answer.status.unwrap();
    assert_eq!((status.state(), status.uptime_ms), (RunState::Running, 4000));
    let ledger = status.ledger.unwrap();
    let lost = ledger.lost.iter().map(|lost| (lost.name.as_str(), lost.count));
    assert_eq!(lost.collect::<Vec<_>>(), [("link", 2)]);
    assert_eq!((ledger.recorded, ledger.delivered + ledger.held), (4, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_was_away_goes_on_after_the_next_hello() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    link.send(&[hello("mcu-1", BOOT), records(1..=2)].concat()).await;
    let mut stream = site.stream("mcu-1", BOOT).await;
    receive(&mut stream, BOOT, 2).await;
    drop(link);
    let mut link = socket.link().await;
    // Nobody has said yet whose these are.
    link.send(&[records(3..=4), hello("mcu-1", BOOT), records(5..=6)].concat()).await;
    let (records, losses) = receive(&mut stream, BOOT, 6).await;
    assert_eq!(records, [5, 6].map(expected));
    assert_eq!((losses[0].first, losses[0].last, losses[0].reason()), (3, 4, LossReason::Link));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_plugged_in_elsewhere_is_taken_from_there() {
    let sockets = [Socket::open().await, Socket::open().await];
    let arguments = [sockets[0].argument(), sockets[1].argument()];
    let links = [arguments[0].as_str(), arguments[1].as_str()];
    let mut site = Site::start(Headers::Welcome(welcome()), &links).await;
    let mut link = sockets[0].link().await;
    link.send(&[hello("mcu-1", BOOT), records(1..=2)].concat()).await;
    let mut stream = site.stream("mcu-1", BOOT).await;
    receive(&mut stream, BOOT, 2).await;
    let mut other = sockets[1].link().await;
    drop(link);
    // Until the gateway has noticed that the first link is gone, the name is held there.
    let number = std::sync::atomic::AtomicU64::new(3);
    let device = async {
        loop {
            let next = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            other.send(&[hello("mcu-1", BOOT), records(next..=next)].concat()).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let record = message_where(&mut stream, |message| {
        matches!(said(message),
            Some(Body::Records(batch)) if !batch.records.is_empty())
    });
    tokio::select! {
        () = device => {}
        _ = record => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_cannot_take_the_name_of_the_host() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    let frames = [hello("gateway-1", BOOT), records(1..=2), hello("mcu-1", BOOT), records(1..=1)];
    link.send(&frames.concat()).await;
    let mut stream = site.stream("mcu-1", BOOT).await;
    receive(&mut stream, BOOT, 1).await;
    let boots = site.others.iter().map(|stream| stream.hello.as_ref().unwrap().boot);
    assert!(!boots.collect::<Vec<_>>().contains(&Some(BOOT.into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_server_gets_plain_snapshots() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::WithFirstCommand, &[&socket.argument()]).await;
    let mut link = socket.link().await;
    link.send(&[hello("mcu-1", BOOT), records(2..=4)].concat()).await;
    let mut stream = site.stream("mcu-1", BOOT).await;
    for number in 2..=4 {
        let message = stream.message().await.unwrap();
        assert!(message.message.is_none(), "a plain server gets no envelope");
        assert_eq!((message.agent_id.as_str(), message.sequence), ("mcu-1", number));
        assert_eq!(message.boot, Some(BOOT.into()));
        assert_eq!(message.timestamp_ms, expected(number).timestamp_ms);
        let cpu = message.metrics.unwrap().cpu_percent;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let expected = expected(number).values[0] as f64 / 100.0;
        assert!((cpu - expected).abs() < 1e-9, "{cpu}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_delivers_what_is_held() {
    let socket = Socket::open().await;
    let mut site = Site::start(Headers::Welcome(welcome()), &[&socket.argument()]).await;
    let mut link = socket.link().await;
    link.send(&[hello("mcu-1", BOOT), records(1..=3)].concat()).await;
    let mut stream = site.stream("mcu-1", BOOT).await;
    let batch =
        message_where(&mut stream, |message| matches!(said(message), Some(Body::Records(_))));
    batch.await;
    site.agent.terminate();
    let ack = Ack { boot: Some(BOOT.into()), sequence: 3, ..Ack::default() };
    send(&stream, ServerBody::Ack(ack)).await;
    // On a machine that stalls, the stream may be cut before its last word was read.
    if let Some(Body::Status(status)) = stream.last_message().await.as_ref().and_then(said)
        && status.state() == RunState::Draining
    {
        let ledger = status.ledger.as_ref().unwrap();
        let lost = ledger.lost.iter().map(|lost| lost.count).sum::<u64>();
        assert_eq!((ledger.delivered + lost, ledger.held), (3, 0));
    }
    site.stop().await;
}

/// A pair of terminals is a serial port with a device at its end, as far as the gateway can see.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_serial_port_is_read_byte_for_byte() {
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let device = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&device).unwrap();
    unlockpt(&device).unwrap();
    let path = ptsname(&device, Vec::new()).unwrap().into_string().unwrap();
    let mut site = Site::start(Headers::Welcome(welcome()), &[&path]).await;
    // What is sent before the port is open and raw is lost, so the device repeats itself. The values hold every byte
    // that a terminal would swallow or change.
    let done = Arc::new(AtomicBool::new(false));
    let sender = std::thread::spawn({
        let done = Arc::clone(&done);
        let mut port = std::fs::File::from(device);
        move || {
            while !done.load(Ordering::Relaxed) {
                port.write_all(&hello("mcu-1", BOOT)).unwrap();
                for block in 0..8 {
                    port.write_all(&records(block * 64 + 1..=block * 64 + 64)).unwrap();
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
    });
    let mut stream = site.stream("mcu-1", BOOT).await;
    let (records, losses) = receive(&mut stream, BOOT, 512).await;
    done.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    let lost = losses.iter().map(|loss| loss.last - loss.first + 1).sum::<u64>();
    assert_eq!(u64::try_from(records.len()).unwrap() + lost, 512);
    for record in records {
        assert_eq!(record, expected(record.sequence));
    }
    drop(stream);
    site.stop().await;
}
