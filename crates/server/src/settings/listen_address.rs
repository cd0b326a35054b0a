//! Where a service listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// What `--listen` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `IP:PORT`.
    Tcp(SocketAddr),
    /// `unix:PATH` or `unix:///PATH`, as gRPC's clients spell a Unix socket.
    Unix(PathBuf),
}

/// The address was spelled wrong.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no address; use IP:PORT, as 127.0.0.1:50051, or unix:/PATH")]
pub struct ParseListenAddressError(String);

impl FromStr for ListenAddress {
    type Err = ParseListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseListenAddressError(text.to_owned());
        let Some(path) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Tcp).map_err(|_| error());
        };
        match path.strip_prefix("//") {
            None if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(absolute) if absolute.starts_with('/') => Ok(Self::Unix(absolute.into())),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_grpc_spells_them() {
        let check = |text: &str, expected: Option<&str>| {
            let read = text.parse::<ListenAddress>().ok().map(|address| address.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        };
        check("127.0.0.1:50051", Some("127.0.0.1:50051"));
        check("[::1]:0", Some("[::1]:0"));
        check("unix:/run/x.sock", Some("unix:/run/x.sock"));
        check("unix:///run/x.sock", Some("unix:/run/x.sock"));
        check("unix:x.sock", Some("unix:x.sock"));
        check("unix://x.sock", None);
        check("unix:", None);
        check("localhost", None);
    }
}
