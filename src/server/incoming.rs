//! Connections as they come, and at the end of a listener's life those that the kernel had already accepted.

use std::io;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt as _};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

/// A peer that vanished is noticed after this.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(30);

/// Connections until `stopped`, then those that wait in the listener's backlog: closing a listener resets them, though
/// their clients may have sent requests.
pub(super) fn incoming(
    listener: TcpListener,
    stopped: impl Future<Output = ()>,
) -> impl Stream<Item = io::Result<TcpStream>> {
    let state = Some((listener, Box::pin(stopped)));
    let live = stream::unfold(state, async |state| {
        let (listener, mut stopped) = state?;
        tokio::select! {
            biased;
            () = &mut stopped => Some((Next::Backlog(backlog(listener)), None)),
            accepted = listener.accept() => {
                let connection = accepted.map(|(connection, _)| connection);
                Some((Next::One(connection), Some((listener, stopped))))
            }
        }
    });
    live.flat_map(|next| match next {
        Next::One(connection) => stream::iter(vec![connection]),
        Next::Backlog(connections) => stream::iter(connections),
    })
    .map(|connection| connection.and_then(configured))
}

enum Next {
    One(io::Result<TcpStream>),
    Backlog(Vec<io::Result<TcpStream>>),
}

/// What a closing listener has accepted. Asked of the kernel itself, as the runtime may not have been told yet.
fn backlog(listener: TcpListener) -> Vec<io::Result<TcpStream>> {
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    let accept = || {
        let (connection, _) = listener.accept().ok()?;
        Some(
            connection
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(connection)),
        )
    };
    std::iter::from_fn(accept).collect()
}

fn configured(connection: TcpStream) -> io::Result<TcpStream> {
    connection.set_nodelay(true)?;
    SockRef::from(&connection).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    Ok(connection)
}
