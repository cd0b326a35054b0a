//! Connections as they come, and at the end of a listener's life those that the kernel had already accepted.

use std::io;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt as _};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tonic::transport::server::Connected;

/// A peer that vanished is noticed after this.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(30);

/// What accepts connections.
pub(super) trait Listener: Send + Sized + 'static {
    type Connection: AsyncRead + AsyncWrite + Connected<ConnectInfo: Clone + Send + Sync> + Unpin + Send + 'static;

    /// The next connection.
    fn next(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;

    /// What a closing listener has accepted. Asked of the kernel itself, as the runtime may not have been told yet.
    fn backlog(self) -> Vec<io::Result<Self::Connection>>;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        configured(self.accept().await?.0)
    }

    fn backlog(self) -> Vec<io::Result<TcpStream>> {
        accepted(self.into_std(), std::net::TcpListener::accept, |connection| {
            connection.set_nonblocking(true)?;
            configured(TcpStream::from_std(connection)?)
        })
    }
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }

    fn backlog(self) -> Vec<io::Result<UnixStream>> {
        accepted(
            self.into_std(),
            std::os::unix::net::UnixListener::accept,
            |connection| {
                connection.set_nonblocking(true)?;
                UnixStream::from_std(connection)
            },
        )
    }
}

/// All that `accept` gives without waiting, each as `take` makes it the runtime's.
fn accepted<L, S, A, C>(
    listener: io::Result<L>,
    accept: impl Fn(&L) -> io::Result<(S, A)>,
    take: impl Fn(S) -> io::Result<C>,
) -> Vec<io::Result<C>> {
    let Ok(listener) = listener else {
        return Vec::new();
    };
    let connections = std::iter::from_fn(|| accept(&listener).ok());
    connections.map(|(connection, _)| take(connection)).collect()
}

/// Connections until `stopped`, then those that wait in the listener's backlog: closing a listener resets them, though
/// their clients may have sent requests.
pub(super) fn incoming<L: Listener>(
    listener: L,
    stopped: impl Future<Output = ()>,
) -> impl Stream<Item = io::Result<L::Connection>> {
    let state = Some((listener, Box::pin(stopped)));
    let live = stream::unfold(state, async |state| {
        let (listener, mut stopped) = state?;
        tokio::select! {
            biased;
            () = &mut stopped => Some((Next::Backlog(listener.backlog()), None)),
            connection = listener.next() => Some((Next::One(connection), Some((listener, stopped)))),
        }
    });
    live.flat_map(|next| match next {
        Next::One(connection) => stream::iter(vec![connection]),
        Next::Backlog(connections) => stream::iter(connections),
    })
}

enum Next<C> {
    One(io::Result<C>),
    Backlog(Vec<io::Result<C>>),
}

fn configured(connection: TcpStream) -> io::Result<TcpStream> {
    connection.set_nodelay(true)?;
    SockRef::from(&connection).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    Ok(connection)
}
