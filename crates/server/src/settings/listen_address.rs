//! The address of a listener.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The value of `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `IP:PORT`.
    Tcp(SocketAddr),
    /// `unix:PATH` or `unix:///PATH`, gRPC's names for a Unix socket
    /// (<https://github.com/grpc/grpc/blob/master/doc/naming.md>).
    Unix(PathBuf),
}

/// The address is invalid.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an address; use IP:PORT, such as 127.0.0.1:50051, or unix:/PATH")]
pub struct ParseListenAddressError(String);

impl FromStr for ListenAddress {
    type Err = ParseListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = match text.strip_prefix("unix:") {
            None => text.parse().ok().map(Self::Tcp),
            Some(path) => unix_path(path).map(|path| Self::Unix(path.into())),
        };
        address.ok_or_else(|| ParseListenAddressError(text.to_owned()))
    }
}

/// Returns the path behind `unix:`. Behind `unix://` it must be absolute.
fn unix_path(text: &str) -> Option<&str> {
    match text.strip_prefix("//") {
        None => Some(text).filter(|path| !path.is_empty()),
        Some(path) => Some(path).filter(|path| path.starts_with('/')),
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

    fn check(text: &str, expected: Option<&str>) {
        let parsed = text.parse::<ListenAddress>().ok().map(|address| address.to_string());
        assert_eq!(parsed.as_deref(), expected, "{text}");
    }

    #[test]
    fn addresses_parse_as_in_grpc() {
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
