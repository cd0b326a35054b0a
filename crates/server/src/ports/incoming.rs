//! Listeners: accepting connections, and at the end those that the kernel has already accepted.

use std::io;
use std::net::SocketAddr;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::protocol::KEEPALIVE;

/// The peer address of every client of a Unix socket.
const UNIX: &str = "unix";

/// A connection and its client's address.
pub(crate) type Accepted<C> = io::Result<(C, String)>;

/// A socket that accepts connections.
pub(crate) trait Listener: Send + Sync + Sized + 'static {
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = Accepted<Self::Connection>> + Send;

    /// Returns the connections that the kernel has accepted for a listener that is being closed. Closing it would reset them,
    /// although their clients may have sent requests. Reads the kernel's queue itself, because the runtime may not have been
    /// notified of the latest.
    fn backlog(self) -> Vec<Accepted<Self::Connection>>;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&self) -> Accepted<TcpStream> {
        let (connection, address) = TcpListener::accept(self).await?;
        configured(connection, address)
    }

    fn backlog(self) -> Vec<Accepted<TcpStream>> {
        accept_all(self.into_std(), std::net::TcpListener::accept, |connection, address| {
            connection.set_nonblocking(true)?;
            configured(TcpStream::from_std(connection)?, address)
        })
    }
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn accept(&self) -> Accepted<UnixStream> {
        let (connection, _) = UnixListener::accept(self).await?;
        Ok((connection, UNIX.to_owned()))
    }

    fn backlog(self) -> Vec<Accepted<UnixStream>> {
        accept_all(
            self.into_std(),
            std::os::unix::net::UnixListener::accept,
            |connection, _| {
                connection.set_nonblocking(true)?;
                Ok((UnixStream::from_std(connection)?, UNIX.to_owned()))
            },
        )
    }
}

/// Accepts until `accept` would block, and registers each connection with the runtime by `register`.
fn accept_all<L, S, A, C>(
    listener: io::Result<L>,
    accept: impl Fn(&L) -> io::Result<(S, A)>,
    register: impl Fn(S, A) -> Accepted<C>,
) -> Vec<Accepted<C>> {
    let mut connections = Vec::new();
    if let Ok(listener) = listener {
        while let Ok((connection, address)) = accept(&listener) {
            connections.push(register(connection, address));
        }
    }
    connections
}

fn configured(connection: TcpStream, address: SocketAddr) -> Accepted<TcpStream> {
    connection.set_nodelay(true)?;
    SockRef::from(&connection).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    Ok((connection, address.to_string()))
}
