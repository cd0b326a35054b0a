//! One port: accepts connections, each served by a task, until it is told to leave, and ends when all of them have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinError, JoinSet};

use crate::edge::arrival::Peer;
use crate::ports::incoming::{Accepted, Listener};
use crate::ports::stage::{Stage, Stages};

/// How long accepting pauses when the system has no room for another connection, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is spoken on a port.
pub(crate) trait Protocol: Clone + Send + Sync + 'static {
    /// Serves one connection until it ends or the last stage is reached.
    fn serve<IO>(self, io: IO, peer: Peer, stages: Stages) -> impl Future<Output = Ended> + Send
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static;
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By its client, or by both sides after a shutdown.
    Closed,
    /// By this server: the client had not opened it as its protocol asks.
    Unopened,
    /// By this server: with this many requests open.
    Cut { open: usize },
}

/// Numbers for the connections of all ports.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionIds(Arc<AtomicU64>);

/// The connections that the server closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    unopened: usize,
    idle: usize,
    busy: usize,
    open: usize,
}

impl Tally {
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

    /// Whether one of them spoke the port's protocol.
    pub fn has_clients(&self) -> bool {
        self.idle + self.busy > 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            unopened,
            idle,
            busy,
            open,
        } = self;
        write!(
            f,
            "{unopened} that had not sent a whole preface, {idle} idle, {busy} with {open} requests open"
        )
    }
}

/// Accepts and serves until [`Stage::Leaving`], then what the backlog holds; ends when every connection has.
pub(crate) async fn serve<L: Listener, P: Protocol>(
    name: &'static str,
    listener: L,
    protocol: P,
    ids: ConnectionIds,
    stages: Stages,
) -> Tally {
    let mut connections = Connections {
        name,
        protocol,
        ids,
        tasks: JoinSet::new(),
        stages,
    };
    let leaving = connections.stages.clone();
    let mut leaving = std::pin::pin!(leaving.reached(Stage::Leaving));
    loop {
        tokio::select! {
            biased;
            () = &mut leaving => break,
            // What ends before the shutdown is not counted.
            Some(ended) = connections.tasks.join_next() => { ended_well(name, ended); }
            accepted = listener.accept() => {
                if let Err(error) = connections.add(accepted)
                    && !of_one_connection(&error)
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
            tracing::debug!(%error, "a waiting connection for {name} failed");
        }
    }
    let mut tally = Tally::default();
    while let Some(ended) = connections.tasks.join_next().await {
        tally.add(ended_well(name, ended));
    }
    tally
}

/// The connections of one port. Dropping them cancels them.
struct Connections<P> {
    name: &'static str,
    protocol: P,
    ids: ConnectionIds,
    tasks: JoinSet<Ended>,
    stages: Stages,
}

impl<P: Protocol> Connections<P> {
    fn add<C>(&mut self, accepted: Accepted<C>) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (io, address) = accepted?;
        let connection = self.ids.0.fetch_add(1, Ordering::Relaxed);
        tracing::trace!(connection, address, "accepted for {}", self.name);
        let peer = Peer { connection, address };
        self.tasks
            .spawn(self.protocol.clone().serve(io, peer, self.stages.clone()));
        Ok(())
    }
}

fn ended_well(name: &str, ended: Result<Ended, JoinError>) -> Ended {
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "a connection for {name} ended by a panic");
        Ended::Closed
    })
}

/// Whether an error of accepting concerns that connection alone, so that the next one can be accepted at once (accept(2)).
fn of_one_connection(error: &io::Error) -> bool {
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

    /// Gives what it is made of, as permits allow.
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

    /// Sends the connection's number, then waits for a byte or the last stage.
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
    async fn accepting_outlives_errors_and_takes_the_backlog() {
        let started = Instant::now();
        let (mut first, one) = tokio::io::duplex(8);
        let (mut second, two) = tokio::io::duplex(8);
        let (mut third, three) = tokio::io::duplex(8);
        let emfile = || Err(io::Error::from_raw_os_error(libc::EMFILE));
        let aborted = Err(io::ErrorKind::ConnectionAborted.into());
        let listener = Scripted {
            next: Mutex::new([emfile(), Ok(one), emfile(), aborted, Ok(two)].into()),
            permits: Arc::new(Semaphore::new(5)),
            backlog: vec![three],
        };
        let (stage, stages) = Stages::new();
        let port = tokio::spawn(serve("tests", listener, Number, ConnectionIds::default(), stages));
        assert_eq!(
            (first.read_u8().await.unwrap(), second.read_u8().await.unwrap()),
            (0, 1)
        );
        // A pause for each time that the system had no room, none for a client that went away.
        assert_eq!(started.elapsed(), 2 * ACCEPT_PAUSE);
        stage.send_replace(Stage::Leaving);
        assert_eq!(third.read_u8().await.unwrap(), 2);
        first.write_u8(0).await.unwrap();
        stage.send_replace(Stage::Cut);
        let tally = port.await.unwrap();
        assert_eq!((tally.busy, tally.open), (2, 4));
    }
}
