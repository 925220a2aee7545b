//! Does it serve? Asked by a real request, with nothing but a socket.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Service;

/// How long an answer may take, and each step to it.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The longest answer that is read; those that are asked for have some hundred bytes.
const ANSWER_BYTES_MAX: u32 = 64 * 1024;

/// Whether what listens at `address` answers as a `service` that is ready.
pub(super) fn is_healthy(service: Service, address: SocketAddr) -> bool {
    match service {
        Service::Etcd => etcd(address),
        Service::Kafka => kafka(address),
    }
    .unwrap_or(false)
}

/// `GET /health` says whether etcd has a leader and has just committed an entry.
fn etcd(address: SocketAddr) -> io::Result<bool> {
    let mut stream = connect(address)?;
    stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX.into()).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let ok = answer.split_ascii_whitespace().nth(1) == Some("200");
    Ok(ok && answer.contains(r#""health":"true""#))
}

/// Metadata for no topic, version 1: `(key i16, version i16, correlation i32, client id)`, then an empty array.
///
/// It comes with those brokers that are allowed to serve, so says more than that the port is open.
/// <https://kafka.apache.org/protocol#The_Messages_Metadata>
fn kafka(address: SocketAddr) -> io::Result<bool> {
    const REQUEST: &[u8] = b"\x00\x03\x00\x01\x00\x00\x00\x2a\x00\x06picket\x00\x00\x00\x00";
    const CORRELATION: [u8; 4] = [0, 0, 0, 0x2a];

    let mut stream = connect(address)?;
    let length = u32::try_from(REQUEST.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), REQUEST].concat())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    if ANSWER_BYTES_MAX < u32::from_be_bytes(length) {
        return Ok(false);
    }
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let [c0, c1, c2, c3, brokers @ ..] = head;
    Ok([c0, c1, c2, c3] == CORRELATION && 0 < i32::from_be_bytes(brokers))
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Whether a peer that sends `answer` and closes passes for a healthy `service`.
    fn check(service: Service, answer: &'static [u8], expected: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The request first: closing with unread bytes would take the answer back.
            assert!(0 < stream.read(&mut [0; 1024]).unwrap());
            stream.write_all(answer).unwrap();
        });
        assert_eq!(is_healthy(service, address), expected, "{answer:?}");
        peer.join().unwrap();
    }

    #[test]
    fn etcd_is_healthy_when_it_says_so() {
        check(Service::Etcd, b"HTTP/1.0 200 OK\r\n\r\n{\"health\":\"true\"}", true);
        check(Service::Etcd, b"HTTP/1.1 503 No\r\n\r\n{\"health\":\"false\"}", false);
        check(Service::Etcd, b"HTTP/1.1 503 No\r\n\r\n{\"health\":\"true\"}", false);
        check(Service::Etcd, b"HTTP/1.0 200 OK\r\n\r\nhello", false);
        check(Service::Etcd, b"", false);
    }

    #[test]
    fn kafka_is_healthy_when_a_broker_may_serve() {
        check(Service::Kafka, b"\x00\x00\x00\x08\x00\x00\x00\x2a\x00\x00\x00\x01", true);
        check(Service::Kafka, b"\x00\x00\x00\x08\x00\x00\x00\x2a\x00\x00\x00\x00", false);
        check(Service::Kafka, b"\x00\x00\x00\x08\x00\x00\x00\x2b\x00\x00\x00\x01", false);
        check(Service::Kafka, b"\x00\x00\x00\x08\x00\x00\x00\x2a\xff\xff\xff\xff", false);
        check(Service::Kafka, b"\x00\x00\x00\x08\x00\x00", false);
        check(Service::Kafka, b"HTTP/1.1 400 Bad Request\r\n\r\n", false);
        check(Service::Kafka, b"", false);
    }

    #[test]
    fn what_is_not_there_is_not_healthy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        for service in Service::ALL {
            assert!(!is_healthy(service, address));
        }
    }
}
