//! One gRPC connection: HTTP/2, from its opening to its end.

pub(crate) mod activity;
pub(crate) mod fair_reads;
mod opening;
mod reset_budget;
mod stream_tasks;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::edge::arrival::Peer;
use crate::edge::{Connection, Edge};
use crate::http2::activity::Activity;
use crate::http2::fair_reads::{FairReads, Hungry, ReadTurns};
use crate::http2::opening::{Opened, Watched};
use crate::http2::stream_tasks::StreamTasks;
use crate::ports::incoming::KEEPALIVE;
use crate::ports::port::{Ended, Protocol};
use crate::ports::stage::{Stage, Stages};

/// Flow-control windows: room for some pictures on each stream, so that one round trip does not bound the rate.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// All headers of a request.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// A ping that is not answered for so long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection must have sent its preface and settings by then.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// When the server shuts down, the same for a connection that may have only just been made.
const HANDSHAKE_MAX_LEAVING: Duration = Duration::from_millis(100);
/// Streams that were reset before this server looked at them. They arrive in one read, so a burst that is allowed in time
/// must be allowed at once.
const PENDING_RESETS_MAX: usize = 2_048;
/// Streams that this server refuses or resets for errors in their frames, over the connection's whole life. Clients that
/// open streams before they know the limit cause some, so hyper's default of 1,024 would end connections that live long.
const REFUSED_STREAMS_MAX: usize = 8_192;
/// What a connection with too many cancelled requests has left, from the GOAWAY, for those that are not cancelled.
const TOO_MANY_RESETS_GRACE: Duration = Duration::from_secs(1);
/// After its last answer, how long a connection may take to write it.
pub(crate) const FLUSH_MAX: Duration = Duration::from_millis(500);

/// gRPC on one port.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    pub edge: Arc<Edge>,
    pub streams_per_connection_max: u32,
    /// Shared by all connections of all ports.
    pub turns: ReadTurns,
}

/// Why a connection is told to go away.
enum Leave {
    Shutdown,
    TooManyResets,
}

impl Protocol for Grpc {
    async fn serve<IO>(self, io: IO, peer: Peer, stages: Stages) -> Ended
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (tasks, opened, hungry) = (StreamTasks::default(), Opened::default(), Hungry::default());
        let connection = Arc::new(Connection {
            peer,
            activity: Activity::new(),
            stages,
        });
        let io = TokioIo::new(FairReads::new(Watched::new(io, opened.clone()), hungry.clone()));
        let run = self.run(io, &connection, &opened, tasks.clone());
        let ended = self.turns.drive(&hungry, run).await;
        tasks.end().await;
        ended
    }
}

impl Grpc {
    async fn run<IO>(&self, io: IO, shared: &Arc<Connection>, opened: &Opened, tasks: StreamTasks) -> Ended
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.edge.answer(shared, request));
        let mut http = pin!(self.builder(tasks).serve_connection(io, service));
        let leave = tokio::select! {
            biased;
            leave = told_to_leave(shared, opened) => leave,
            result = &mut http => return closed(&shared.peer, result),
        };
        let Some(leave) = leave else {
            tracing::debug!(
                peer = shared.peer.address,
                "no HTTP/2 preface and settings after {HANDSHAKE_MAX:?}"
            );
            return Ended::Unopened;
        };
        http.as_mut().graceful_shutdown();
        tokio::select! {
            result = &mut http => closed(&shared.peer, result),
            ended = time_is_up(&leave, shared, opened) => ended,
        }
    }

    fn builder(&self, tasks: StreamTasks) -> http2::Builder<StreamTasks> {
        let mut builder = http2::Builder::new(tasks);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_concurrent_streams(self.streams_per_connection_max)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(REFUSED_STREAMS_MAX)
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        builder
    }
}

/// Returns when the connection is to be told to go away, with the reason; none if it was not opened in time.
async fn told_to_leave(shared: &Connection, opened: &Opened) -> Option<Leave> {
    let mut handshake = pin!(sleep(HANDSHAKE_MAX));
    loop {
        tokio::select! {
            () = shared.stages.reached(Stage::Leaving) => return Some(Leave::Shutdown),
            () = shared.activity.too_many_resets() => {
                tracing::warn!(peer = shared.peer.address, "a client cancels too many requests; its connection is closed");
                return Some(Leave::TooManyResets);
            }
            () = &mut handshake, if !handshake.is_elapsed() => {
                if !opened.get() {
                    return None;
                }
            }
        }
    }
}

/// Returns when a connection that has been told to go away is closed.
async fn time_is_up(leave: &Leave, shared: &Connection, opened: &Opened) -> Ended {
    let (stages, activity) = (&shared.stages, &shared.activity);
    if matches!(leave, Leave::TooManyResets) {
        let _ = timeout(TOO_MANY_RESETS_GRACE, stages.reached(Stage::Flushing)).await;
        return Ended::Cut { open: activity.open() };
    }
    sleep(HANDSHAKE_MAX_LEAVING).await;
    if !opened.get() {
        return Ended::Unopened;
    }
    stages.reached(Stage::Flushing).await;
    // A client that reads closes the connection itself once it has its answers.
    let flushed = match (activity.open(), activity.last_end()) {
        (0, None) => Instant::now(),
        (0, Some(end)) => end + FLUSH_MAX,
        _ => Instant::now() + FLUSH_MAX,
    };
    let _ = timeout_at(flushed, stages.reached(Stage::Cut)).await;
    Ended::Cut { open: activity.open() }
}

fn closed(peer: &Peer, result: hyper::Result<()>) -> Ended {
    if let Err(error) = result {
        tracing::debug!(peer = peer.address, %error, "a connection ended");
    }
    Ended::Closed
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::edge::Refused;
    use crate::edge::services::{CLASSIFICATION, Services};

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;

    struct Served {
        client: DuplexStream,
        stage: watch::Sender<Stage>,
        started: Instant,
        ended: JoinHandle<Ended>,
    }

    impl Served {
        /// A connection whose client has sent `bytes`.
        async fn start(bytes: &[&[u8]]) -> Self {
            let grpc = Grpc {
                edge: Arc::new(Edge {
                    router: Router::new(),
                    services: Services::of(CLASSIFICATION),
                    message_setting: "--message-bytes-max",
                    stream_idle_max: Duration::from_secs(300),
                    refused: Refused::default(),
                }),
                streams_per_connection_max: 100,
                turns: ReadTurns::new(1),
            };
            let (mut client, io) = duplex(1 << 16);
            client.write_all(&bytes.concat()).await.unwrap();
            let (stage, stages) = Stages::new();
            let peer = Peer {
                connection: 0,
                address: "test".into(),
            };
            let (started, ended) = (Instant::now(), tokio::spawn(grpc.serve(io, peer, stages)));
            Self {
                client,
                stage,
                started,
                ended,
            }
        }

        /// How it ended and when, in milliseconds, and whether it was told to go away.
        async fn end(mut self) -> (Ended, u128, bool) {
            let ended = self.ended.await.unwrap();
            let took = self.started.elapsed().as_millis();
            let mut received = Vec::new();
            self.client.read_to_end(&mut received).await.unwrap();
            let mut rest = received.as_slice();
            let mut goaway = false;
            while let [a, b, c, kind, ..] = *rest {
                goaway |= kind == GOAWAY;
                rest = &rest[9 + u32::from_be_bytes([0, a, b, c]) as usize..];
            }
            (ended, took, goaway)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_must_be_opened_in_time() {
        for bytes in [&[][..], &[&PREFACE[..8]], &[PREFACE], &[PREFACE, &SETTINGS[..5]]] {
            let served = Served::start(bytes).await;
            assert_eq!(served.end().await, (Ended::Unopened, 10_000, false), "{bytes:?}");
        }
        // An idle one is kept for as long as it answers pings, which this one does not: 30 s and 20 s.
        let served = Served::start(&[PREFACE, SETTINGS]).await;
        let (ended, took, _) = served.end().await;
        assert_eq!((ended, took / 1000), (Ended::Closed, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_waits_longer_for_a_connection_that_may_have_requests() {
        for bytes in [&[][..], &[&PREFACE[..8]], &[PREFACE]] {
            let served = Served::start(bytes).await;
            served.stage.send_replace(Stage::Leaving);
            assert_eq!(served.end().await.0, Ended::Unopened, "{bytes:?}");
        }
        let served = Served::start(&[PREFACE, SETTINGS]).await;
        served.stage.send_replace(Stage::Leaving);
        sleep(Duration::from_secs(7)).await;
        served.stage.send_replace(Stage::Closed);
        sleep(Duration::from_secs(7)).await;
        assert!(!served.ended.is_finished());
        served.stage.send_replace(Stage::Flushing);
        assert_eq!(served.end().await, (Ended::Cut { open: 0 }, 14_000, true));
    }
}
