//! One port: accepts connections until [`Stage::Leaving`], serves each in a task, and ends when all tasks have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinError, JoinSet};

use crate::edge::arrival::Peer;
use crate::ports::incoming::{Accepted, Listener};
use crate::protocol::{Ended, Protocol};
use crate::stage::{Stage, Stages};

/// Pause after a failed accept, such as when the process has no free file descriptor, so that accepting does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Allocates connection numbers. All ports share the counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionIds(Arc<AtomicU64>);

/// Counts of the connections that the server closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClosedConnections {
    /// Connections without a complete HTTP/2 preface.
    unopened: usize,
    /// Connections without open requests.
    idle: usize,
    /// Connections with open requests.
    busy: usize,
    /// Open requests of the busy connections.
    open: usize,
}

impl ClosedConnections {
    fn add(&mut self, ended: Ended) {
        match ended {
            Ended::Closed => {}
            Ended::Unopened => self.unopened += 1,
            Ended::Cut { open: 0 } => self.idle += 1,
            Ended::Cut { open } => {
                self.busy += 1;
                self.open += open;
            }
        }
    }

    pub fn extend(&mut self, other: Self) {
        self.unopened += other.unopened;
        self.idle += other.idle;
        self.busy += other.busy;
        self.open += other.open;
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if one of the connections was opened as its protocol requires.
    pub fn has_clients(&self) -> bool {
        self.idle + self.busy > 0
    }
}

impl fmt::Display for ClosedConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            unopened,
            idle,
            busy,
            open,
        } = self;
        write!(
            f,
            "{unopened} without a complete preface, {idle} idle, {busy} with {open} open requests"
        )
    }
}

/// A port before it is served.
pub(crate) struct Port<P> {
    /// The port's name in log messages.
    pub name: &'static str,
    pub protocol: P,
    pub ids: ConnectionIds,
    pub stages: Stages,
}

impl<P: Protocol> Port<P> {
    /// Accepts and serves connections until [`Stage::Leaving`], then those of the backlog. Returns when every connection has
    /// ended.
    pub async fn serve<L: Listener>(self, listener: L) -> ClosedConnections {
        let (name, stages) = (self.name, self.stages.clone());
        let mut connections = Connections {
            port: self,
            tasks: JoinSet::new(),
        };
        let mut leaving = std::pin::pin!(stages.reached(Stage::Leaving));
        loop {
            tokio::select! {
                biased;
                () = &mut leaving => break,
                // Connections that end before the shutdown are not counted.
                Some(ended) = connections.tasks.join_next() => { log_panic(name, ended); }
                accepted = listener.accept() => {
                    if let Err(error) = connections.add(accepted)
                        && !is_per_connection(&error)
                    {
                        tracing::warn!(%error, "cannot accept a connection for {name}; trying again in {ACCEPT_PAUSE:?}");
                        tokio::select! {
                            () = &mut leaving => break,
                            () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                        }
                    }
                }
            }
        }
        for accepted in listener.backlog() {
            if let Err(error) = connections.add(accepted) {
                tracing::debug!(%error, "a connection from the backlog of {name} failed");
            }
        }
        let mut closed = ClosedConnections::default();
        while let Some(ended) = connections.tasks.join_next().await {
            closed.add(log_panic(name, ended));
        }
        closed
    }
}

/// The connections of one port. Dropping them cancels their tasks.
struct Connections<P> {
    port: Port<P>,
    tasks: JoinSet<Ended>,
}

impl<P: Protocol> Connections<P> {
    fn add<C>(&mut self, accepted: Accepted<C>) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (io, address) = accepted?;
        let connection = self.port.ids.0.fetch_add(1, Ordering::Relaxed);
        tracing::trace!(connection, address, "accepted a connection for {}", self.port.name);
        let peer = Peer { connection, address };
        let protocol = self.port.protocol.clone();
        self.tasks.spawn(protocol.serve(io, peer, self.port.stages.clone()));
        Ok(())
    }
}

/// Returns how the connection's task ended; logs a panic and counts it as closed.
fn log_panic(name: &str, ended: Result<Ended, JoinError>) -> Ended {
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "the task of a connection for {name} panicked");
        Ended::Closed
    })
}

/// Returns true if an error of accept(2) concerns only that connection, so that the next one can be accepted at once.
fn is_per_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected
    )
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::Semaphore;
    use tokio::time::Instant;

    use super::*;

    /// Returns the listed results, one for each permit.
    struct Scripted {
        next: Mutex<VecDeque<io::Result<DuplexStream>>>,
        permits: Arc<Semaphore>,
        backlog: Vec<DuplexStream>,
    }

    impl Listener for Scripted {
        type Connection = DuplexStream;

        async fn accept(&self) -> Accepted<DuplexStream> {
            self.permits.acquire().await.unwrap().forget();
            let next = self.next.lock().unwrap().pop_front().unwrap();
            next.map(|io| (io, "test".to_owned()))
        }

        fn backlog(self) -> Vec<Accepted<DuplexStream>> {
            let connections = self.backlog.into_iter();
            connections.map(|io| Ok((io, "test".to_owned()))).collect()
        }
    }

    /// Sends the connection's number, then waits for a byte or [`Stage::Cut`].
    #[derive(Clone)]
    struct Number;

    impl Protocol for Number {
        async fn serve<IO>(self, mut io: IO, peer: Peer, stages: Stages) -> Ended
        where
            IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        {
            io.write_all(&[peer.connection as u8]).await.unwrap();
            tokio::select! {
                biased;
                _ = io.read_u8() => Ended::Closed,
                () = stages.reached(Stage::Cut) => Ended::Cut { open: 2 },
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_survives_errors_and_takes_the_backlog() {
        let started = Instant::now();
        let (mut first, one) = tokio::io::duplex(8);
        let (mut second, two) = tokio::io::duplex(8);
        let (mut third, three) = tokio::io::duplex(8);
        let [emfile, again] = [libc::EMFILE; 2].map(|number| Err(io::Error::from_raw_os_error(number)));
        let aborted = Err(io::ErrorKind::ConnectionAborted.into());
        let listener = Scripted {
            next: Mutex::new([emfile, Ok(one), again, aborted, Ok(two)].into()),
            permits: Arc::new(Semaphore::new(5)),
            backlog: vec![three],
        };
        let (stage, stages) = Stages::new();
        let port = Port {
            name: "tests",
            protocol: Number,
            ids: ConnectionIds::default(),
            stages,
        };
        let port = tokio::spawn(port.serve(listener));
        assert_eq!(
            (first.read_u8().await.unwrap(), second.read_u8().await.unwrap()),
            (0, 1)
        );
        // One pause for each EMFILE, none for the aborted connection.
        assert_eq!(started.elapsed(), 2 * ACCEPT_PAUSE);
        stage.send_replace(Stage::Leaving);
        assert_eq!(third.read_u8().await.unwrap(), 2);
        first.write_u8(0).await.unwrap();
        stage.send_replace(Stage::Cut);
        let closed = port.await.unwrap();
        assert_eq!((closed.busy, closed.open), (2, 4));
    }
}
