//! Request extensions that the server adds: the client's address, and when the request arrived.

use tokio::time::Instant;

/// The client's end of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Unique among all connections of this process.
    pub connection: u64,
    /// `IP:PORT`, or `unix` for a Unix socket.
    pub address: String,
}

/// When the request's headers arrived. `grpc-timeout` counts from here, not from the end of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival(pub Instant);
