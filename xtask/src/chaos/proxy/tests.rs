use std::io::{Read as _, Write as _};

use super::*;
use crate::services::Claim;

/// How long anything may take that takes milliseconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A client and a server with a relay between.
struct Pair {
    proxy: Proxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn connect() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap(), Random::new(1)).unwrap();
        let (client, server) = Self::join(&proxy, &listener);
        Self { proxy, listener, client, server }
    }

    /// One more connection.
    fn join(proxy: &Proxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(proxy.address()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
        }
        (client, server)
    }

    fn set(&self, direction: Direction, weather: Weather) {
        self.proxy.set_weather(direction, weather);
    }

    #[track_caller]
    fn wait_for(&self, condition: impl Fn(Tally) -> bool) {
        let done = || Ok::<_, io::Error>(condition(self.proxy.tally()).then_some(()));
        assert_eq!(poll(LIMIT, done).unwrap(), Some(()), "{:?}", self.proxy.tally());
    }
}

#[track_caller]
fn receive(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// That nothing comes, as far as one can wait for that.
#[track_caller]
fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(LIMIT)).unwrap();
}

#[test]
fn bytes_and_ends_pass_both_ways() {
    let mut pair = Pair::connect();
    let sent: Vec<u8> = (0..200_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let mut writing = pair.client.try_clone().unwrap();
    let text = sent.clone();
    let writer = thread::spawn(move || {
        writing.write_all(&text).unwrap();
        writing.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    pair.server.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == sent, "{} of {} bytes, or other ones", received.len(), sent.len());

    pair.server.write_all(b"answer").unwrap();
    drop(pair.server);
    let mut answer = String::new();
    pair.client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    let tally = pair.proxy.tally();
    assert_eq!((tally.connections, tally.passed_bytes), (1, 200_006));
}

#[test]
fn what_is_delayed_comes_late_and_in_order() {
    let mut pair = Pair::connect();
    let delay = Duration::from_millis(100);
    pair.set(Direction::Up, Weather { delay, jitter: delay, ..Weather::default() });
    let begun = Instant::now();
    let sent: Vec<u8> = (0..50).collect();
    for byte in &sent {
        pair.client.write_all(&[*byte]).unwrap();
    }
    assert_eq!(receive(&mut pair.server, 50), sent);
    assert!(delay <= begun.elapsed());
    assert_eq!(pair.proxy.tally().delayed_bytes, 50);
}

#[test]
fn a_slow_link_takes_its_time() {
    let mut pair = Pair::connect();
    let bytes_per_second = std::num::NonZeroU32::new(10_000);
    pair.set(Direction::Down, Weather { bytes_per_second, ..Weather::default() });
    let begun = Instant::now();
    pair.server.write_all(&[7; 5_000]).unwrap();
    receive(&mut pair.client, 5_000);
    assert!(Duration::from_millis(500) <= begun.elapsed(), "{:?}", begun.elapsed());
}

#[test]
fn one_way_may_be_held_while_the_other_is_open() {
    let mut pair = Pair::connect();
    pair.set(Direction::Up, Weather { passage: Passage::Held, ..Weather::default() });
    pair.client.write_all(b"up").unwrap();
    pair.server.write_all(b"down").unwrap();
    assert_eq!(receive(&mut pair.client, 4), b"down");
    assert_silent(&mut pair.server);
    pair.wait_for(|tally| tally.held_bytes == 2);
    pair.proxy.calm();
    assert_eq!(receive(&mut pair.server, 2), b"up");
}

#[test]
fn who_sends_into_a_held_link_has_to_wait() {
    let pair = Pair::connect();
    pair.set(Direction::Up, Weather { passage: Passage::Held, ..Weather::default() });
    pair.client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut sent = 0;
    let block = [0; 64 * 1024];
    // The buffers of two sockets take a few megabytes.
    let stopped = (0..1_000).any(|_| match (&pair.client).write(&block) {
        Ok(count) => {
            sent += count;
            false
        }
        Err(_) => true,
    });
    assert!(stopped, "{sent} bytes went nowhere");
    let held = pair.proxy.tally().held_bytes;
    assert!(held < 2 * pump::QUEUE_BYTES_MAX as u64, "{held} bytes are kept");
}

#[test]
fn one_bit_is_flipped() {
    let mut pair = Pair::connect();
    pair.proxy.damage(Direction::Up, 1);
    pair.client.write_all(&[0; 100]).unwrap();
    let received = receive(&mut pair.server, 100);
    assert_eq!(received.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    pair.client.write_all(&[0; 100]).unwrap();
    assert_eq!(receive(&mut pair.server, 100), [0; 100]);
    assert_eq!(pair.proxy.tally().flipped_bits, 1);
}

#[test]
fn a_forgotten_connection_says_nothing_and_ends_nothing() {
    let mut pair = Pair::connect();
    pair.client.write_all(b"a").unwrap();
    receive(&mut pair.server, 1);
    pair.proxy.forget();
    pair.client.write_all(b"lost").unwrap();
    pair.wait_for(|tally| tally.swallowed_bytes == 4);
    drop(pair.client);
    assert_silent(&mut pair.server);

    let (mut client, mut server) = Pair::join(&pair.proxy, &pair.listener);
    client.write_all(b"new").unwrap();
    assert_eq!(receive(&mut server, 3), b"new");
}

#[test]
fn connections_are_cut_with_bytes_under_way() {
    for (how, reset) in [(Cut::Ended, false), (Cut::Reset, true)] {
        let mut pair = Pair::connect();
        let mut talking = pair.client.try_clone().unwrap();
        let talker = thread::spawn(move || {
            let begun = Instant::now();
            // Until the cut is felt.
            while begun.elapsed() < LIMIT && talking.write_all(b"word").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        receive(&mut pair.server, 4);
        pair.proxy.cut(how);
        let mut rest = Vec::new();
        let end = pair.server.read_to_end(&mut rest);
        assert_eq!(end.is_err(), reset, "{how:?}: {end:?}");
        talker.join().unwrap();
        let tally = pair.proxy.tally();
        assert_eq!((tally.cuts, tally.cuts_in_flight), (1, 1), "{how:?}");
    }
}

#[test]
fn a_server_that_is_away_is_told_by_an_end() {
    let claim = Claim::any().unwrap();
    let proxy = Proxy::start(claim.address(), Random::new(1)).unwrap();
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    let tally = || proxy.tally();
    let refused = poll(LIMIT, || Ok::<_, io::Error>((tally().refused == 1).then_some(())));
    assert_eq!(refused.unwrap(), Some(()));
}

#[test]
fn a_relay_that_is_dropped_ends_its_connections() {
    let Pair { proxy, mut client, server, listener: _listener } = Pair::connect();
    proxy.set_weather(Direction::Down, Weather { passage: Passage::Held, ..Weather::default() });
    drop(proxy);
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    drop(server);
}
