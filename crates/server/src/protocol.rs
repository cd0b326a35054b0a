//! What a port speaks: how one connection is served, and how it ended.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::edge::arrival::Peer;
use crate::stage::Stages;

/// How long a connection may be quiet before a keepalive probe checks whether its client is still there.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(30);

/// An application protocol, such as gRPC or HTTP/1.
pub(crate) trait Protocol: Clone + Send + Sync + 'static {
    /// Serves one connection until it ends or [`Stage::Cut`](crate::stage::Stage::Cut) is reached.
    fn serve<IO>(self, io: IO, peer: Peer, stages: Stages) -> impl Future<Output = Ended> + Send
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static;
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The client closed it, or both sides did after a GOAWAY.
    Closed,
    /// The server closed it because the client had not sent a complete HTTP/2 preface.
    Unopened,
    /// The server closed it while this many requests were open.
    Cut { open: usize },
}
