//! Where a link comes in: a serial port, or a TCP connection to a host that exposes one.

use std::fmt;
use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use proto::address::ServerAddress;

/// How long a read waits for a byte, and with it how long the end of the process may wait for a reader.
const READ_TIMEOUT: Duration = Duration::from_millis(200);

/// How long each address of a host may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A host that vanished without a word is found after 60 s. Nothing is ever sent to it, so only TCP can tell.
#[cfg(unix)]
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// What `--serial` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortAddress {
    /// A device file of a serial port.
    Path(PathBuf),
    /// A host and port to connect to.
    Tcp(String),
}

/// The text names no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortAddressError {
    #[error("it must be the PATH of a serial port or tcp:HOST:PORT")]
    Empty,
    #[error("it must be tcp:HOST:PORT with a port of 1 to 65535 (an IPv6 host in brackets)")]
    Tcp,
}

impl FromStr for PortAddress {
    type Err = PortAddressError;

    fn from_str(text: &str) -> Result<Self, PortAddressError> {
        let Some(address) = text.strip_prefix("tcp:") else {
            let is_path = !text.trim().is_empty();
            return if is_path {
                Ok(Self::Path(text.into()))
            } else {
                Err(PortAddressError::Empty)
            };
        };
        // The form is that of a server's address, but there is no port that could go without saying.
        let has_port = address.contains(':') && !address.ends_with(']');
        if !has_port || address.parse::<ServerAddress>().is_err() {
            return Err(PortAddressError::Tcp);
        }
        Ok(Self::Tcp(address.to_owned()))
    }
}

impl fmt::Display for PortAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// An open port. A read that waits in vain for [`READ_TIMEOUT`] fails with [`io::ErrorKind::WouldBlock`] or
/// [`io::ErrorKind::TimedOut`]; one that answers 0 bytes means that the other side is gone.
pub(crate) type Port = Box<dyn Read + Send>;

/// Opens `address`, a serial port with `baud` bits per second.
///
/// # Errors
///
/// With the remedy in its text where there is a usual one.
pub(crate) fn open(address: &PortAddress, baud: u32) -> io::Result<Port> {
    match address {
        PortAddress::Path(path) => serial::open(path, baud),
        PortAddress::Tcp(address) => connect(address),
    }
}

fn connect(address: &str) -> io::Result<Port> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(READ_TIMEOUT))?;
                keep_alive(&stream)?;
                return Ok(Box::new(stream));
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[cfg(unix)]
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;

    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "it can fail elsewhere")]
fn keep_alive(_stream: &TcpStream) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
mod serial {
    use std::fs::{File, OpenOptions, TryLockError};
    use std::io::{self, Read};
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::Path;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::OFlags;
    use rustix::io::Errno;
    use rustix::termios::{
        ControlModes, InputModes, OptionalActions, QueueSelector, tcflush, tcgetattr, tcsetattr,
    };

    use super::{Port, READ_TIMEOUT};

    struct SerialPort {
        // Does not block: a terminal has no read timeout that could be told from a hang-up.
        file: File,
    }

    pub(super) fn open(path: &Path, baud: u32) -> io::Result<Port> {
        // Without NONBLOCK the open itself waits for a modem; with NOCTTY the port never becomes our terminal.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|error| with_remedy(error, path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = "another program has the port";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        configure(&file, baud)?;
        Ok(Box::new(SerialPort { file }))
    }

    /// Eight bits, no parity, one stop bit, no flow control, and every byte as it is.
    fn configure(file: &File, baud: u32) -> io::Result<()> {
        let mut termios = tcgetattr(file).map_err(|error| match error {
            Errno::NOTTY => io::Error::new(io::ErrorKind::InvalidInput, "this is no serial port"),
            other => other.into(),
        })?;
        termios.make_raw();
        termios.input_modes -= InputModes::IXOFF | InputModes::IXANY | InputModes::INPCK;
        termios.control_modes -= ControlModes::CSTOPB | ControlModes::CRTSCTS;
        // Modem lines say nothing on three wires.
        termios.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        let unknown_baud = |_| {
            let text = format!("the port does not know {baud} baud (set another with --baud)");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        termios.set_speed(baud).map_err(unknown_baud)?;
        tcsetattr(file, OptionalActions::Now, &termios).map_err(unknown_baud)?;
        // What came before with other settings is garbage.
        Ok(tcflush(file, QueueSelector::IFlush)?)
    }

    fn with_remedy(error: io::Error, path: &Path) -> io::Error {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return error;
        }
        let path = path.display();
        let text = format!(
            "permission denied; the agent's user must be in the group that owns {path}: on Debian `usermod -aG \
             dialout USER`, in a systemd unit `SupplementaryGroups=dialout`"
        );
        io::Error::new(io::ErrorKind::PermissionDenied, text)
    }

    impl Read for SerialPort {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let mut polled = [PollFd::new(&self.file, PollFlags::IN)];
            let timeout = Timespec { tv_sec: 0, tv_nsec: READ_TIMEOUT.subsec_nanos().into() };
            if poll(&mut polled, Some(&timeout))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.file.read(buffer)
        }
    }
}

#[cfg(not(unix))]
mod serial {
    use std::io;
    use std::path::Path;

    use super::Port;

    pub(super) fn open(_path: &Path, _baud: u32) -> io::Result<Port> {
        let text = "serial ports can be opened on Unix only; use tcp:HOST:PORT";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_path_or_a_tcp_address() {
        let parse = |text: &str| text.parse::<PortAddress>();
        assert_eq!(parse("/dev/ttyUSB0"), Ok(PortAddress::Path("/dev/ttyUSB0".into())));
        assert_eq!(parse("tcp:h:4001"), Ok(PortAddress::Tcp("h:4001".to_owned())));
        assert_eq!(parse("tcp:[::1]:4001"), Ok(PortAddress::Tcp("[::1]:4001".to_owned())));
        for bad in ["tcp:", "tcp:h", "tcp:h:0", "tcp::1", "tcp:h:70000", "tcp:::1:5"] {
            assert_eq!(parse(bad), Err(PortAddressError::Tcp), "{bad}");
        }
        assert_eq!(parse(" "), Err(PortAddressError::Empty));
        for text in ["/dev/ttyS0", "tcp:h:1"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_serial_port_is_refused() {
        let open = |path: &str| open(&PortAddress::Path(path.into()), 9600).err().unwrap();
        assert_eq!(open("/dev/null").to_string(), "this is no serial port");
        assert_eq!(open("/no/such/port").kind(), io::ErrorKind::NotFound);
    }
}
