//! Where the server is.

use std::fmt;
use std::str::FromStr;

use crate::DEFAULT_PORT;

/// `HOST:PORT`, or a host alone with the default port. An IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    host: String,
    port: u16,
}

impl ServerAddress {
    /// The flag, or else what the two variables say, or else `localhost:50051`.
    ///
    /// # Errors
    ///
    /// When the variables make no address.
    pub fn choose(
        flag: Option<Self>,
        host_variable: Option<&str>,
        port_variable: Option<&str>,
    ) -> Result<Self, AddressError> {
        if let Some(address) = flag {
            return Ok(address);
        }
        let host = host_variable.unwrap_or("localhost");
        let port = match port_variable {
            Some(text) => text.parse().map_err(|_| AddressError::Port)?,
            None => DEFAULT_PORT,
        };
        Self::new(host, port)
    }

    fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let name = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let valid = match name {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                !host.is_empty() && host.bytes().all(allowed)
            }
        };
        if !valid {
            return Err(AddressError::Host);
        }
        if port == 0 {
            return Err(AddressError::Port);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl Default for ServerAddress {
    /// `localhost:50051`.
    fn default() -> Self {
        Self { host: "localhost".to_owned(), port: DEFAULT_PORT }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => {
                Self::new(host, port.parse().map_err(|_| AddressError::Port)?)
            }
            _ => Self::new(text, DEFAULT_PORT),
        }
    }
}

/// Several servers that share a bus, in the order in which they are tried: `HOST:PORT` with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddresses(Vec<ServerAddress>);

impl ServerAddresses {
    /// The addresses; at least one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &ServerAddress> {
        self.0.iter()
    }
}

impl From<ServerAddress> for ServerAddresses {
    fn from(address: ServerAddress) -> Self {
        Self(vec![address])
    }
}

impl fmt::Display for ServerAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, address) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

impl FromStr for ServerAddresses {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let addresses = text.split(',').map(|address| address.trim().parse());
        addresses.collect::<Result<_, _>>().map(Self)
    }
}

/// Why a text is no address of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The host cannot be one.
    #[error("the host is no host name, IPv4 address or IPv6 address in brackets")]
    Host,
    /// The port cannot be one.
    #[error("the port is no number from 1 to 65535")]
    Port,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        let check = |text: &str, expected: Result<&str, AddressError>| {
            let parsed = text.parse::<ServerAddress>().map(|it| it.to_string());
            assert_eq!(parsed, expected.map(str::to_owned), "{text}");
        };
        check("localhost:50051", Ok("localhost:50051"));
        check("10.0.0.1:1", Ok("10.0.0.1:1"));
        check("edge-server", Ok("edge-server:50051"));
        check("[::1]:7", Ok("[::1]:7"));
        check("[::1]", Ok("[::1]:50051"));
        check("::1", Err(AddressError::Host));
        check("host:port", Err(AddressError::Port));
        check("host:0", Err(AddressError::Port));
        check("host:65536", Err(AddressError::Port));
        check("http://host:1", Err(AddressError::Host));
        check("a b:1", Err(AddressError::Host));
        check("", Err(AddressError::Host));
    }

    #[test]
    fn several_servers_stand_in_their_order() {
        let parsed = |text: &str| text.parse::<ServerAddresses>().map(|it| it.to_string());
        assert_eq!(parsed("b:2"), Ok("b:2".into()));
        assert_eq!(parsed("b:2, a,[::1]:3"), Ok("b:2,a:50051,[::1]:3".into()));
        assert_eq!(parsed("b:2,"), Err(AddressError::Host));
        assert_eq!(parsed(""), Err(AddressError::Host));
    }

    #[test]
    fn the_flag_goes_before_the_variables() {
        let flag = "a:1".parse().ok();
        let choose = |flag, host, port| {
            ServerAddress::choose(flag, host, port).map(|address| address.to_string())
        };
        assert_eq!(choose(flag, Some("b"), Some("2")), Ok("a:1".into()));
        assert_eq!(choose(None, Some("b"), Some("2")), Ok("b:2".into()));
        assert_eq!(choose(None, Some("b"), None), Ok("b:50051".into()));
        assert_eq!(choose(None, None, None), Ok("localhost:50051".into()));
        assert_eq!(choose(None, None, Some("x")), Err(AddressError::Port));
    }
}
