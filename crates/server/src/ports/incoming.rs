//! Connections as they come, and at the end of a listener's life those that the kernel had already accepted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A peer that vanished is noticed after this.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(30);

/// The address of every client of a Unix socket.
const UNIX: &str = "unix";

/// A connection and its client's address.
pub(crate) type Accepted<C> = io::Result<(C, String)>;

/// What accepts connections.
pub(crate) trait Listener: Send + Sync + Sized + 'static {
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = Accepted<Self::Connection>> + Send;

    /// What a closing listener has accepted: closing it resets those connections, though their clients may have sent
    /// requests. Asked of the kernel itself, as the runtime may not have been told yet.
    fn backlog(self) -> Vec<Accepted<Self::Connection>>;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&self) -> Accepted<TcpStream> {
        let (connection, address) = TcpListener::accept(self).await?;
        configured(connection, address)
    }

    fn backlog(self) -> Vec<Accepted<TcpStream>> {
        accepted(self.into_std(), std::net::TcpListener::accept, |connection, address| {
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
        accepted(
            self.into_std(),
            std::os::unix::net::UnixListener::accept,
            |connection, _| {
                connection.set_nonblocking(true)?;
                Ok((UnixStream::from_std(connection)?, UNIX.to_owned()))
            },
        )
    }
}

/// All that `accept` gives without waiting, each as `take` makes it the runtime's.
fn accepted<L, S, A, C>(
    listener: io::Result<L>,
    accept: impl Fn(&L) -> io::Result<(S, A)>,
    take: impl Fn(S, A) -> Accepted<C>,
) -> Vec<Accepted<C>> {
    let Ok(listener) = listener else {
        return Vec::new();
    };
    let connections = std::iter::from_fn(|| accept(&listener).ok());
    connections
        .map(|(connection, address)| take(connection, address))
        .collect()
}

fn configured(connection: TcpStream, address: SocketAddr) -> Accepted<TcpStream> {
    connection.set_nodelay(true)?;
    SockRef::from(&connection).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    Ok((connection, address.to_string()))
}
