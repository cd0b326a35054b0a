//! One gRPC connection over HTTP/2, from its preface to its end.

pub(crate) mod fair_reads;
mod opening;
mod stream_tasks;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::edge::activity::Activity;
use crate::edge::arrival::Peer;
use crate::edge::{Connection, Edge};
use crate::http2::fair_reads::{FairReads, MoreToRead, ReadTurns};
use crate::http2::opening::{Opened, OpeningMonitor};
use crate::http2::stream_tasks::StreamTasks;
use crate::protocol::{Ended, KEEPALIVE, Protocol};
use crate::stage::{Stage, Stages};

/// Flow-control windows, large enough for several pictures, so that the round-trip time does not limit the throughput.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Limit on all headers of a request together (SETTINGS_MAX_HEADER_LIST_SIZE).
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// The connection is closed if a ping is not answered within this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The client must have sent its preface and SETTINGS within this time.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// The same limit from the start of a shutdown, for connections that were made just before it.
const HANDSHAKE_MAX_AT_SHUTDOWN: Duration = Duration::from_millis(100);
/// Limit on streams that the client reset before the server accepted them. All cancelled requests of a burst may arrive in one
/// read, so hyper's default of 20 is too low.
const PENDING_RESETS_MAX: usize = 2_048;
/// Limit on streams that the server refuses or resets because of protocol errors, over the life of the connection. Clients
/// that open streams before they know the limit cause some, so hyper's default of 1,024 would close long-lived connections.
const REFUSED_STREAMS_MAX: usize = 8_192;
/// After a GOAWAY for too many cancelled requests, the time for the other requests to finish.
const TOO_MANY_RESETS_GRACE: Duration = Duration::from_secs(1);
/// How long a connection may take to write its last response.
pub(crate) const FLUSH_MAX: Duration = Duration::from_millis(500);

/// The gRPC protocol of one port.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    pub edge: Arc<Edge>,
    pub streams_per_connection_max: u32,
    /// The connections of all ports share the turns.
    pub turns: ReadTurns,
}

/// Why the server sends a GOAWAY.
enum GoawayReason {
    Shutdown,
    TooManyResets,
}

impl Protocol for Grpc {
    async fn serve<IO>(self, io: IO, peer: Peer, stages: Stages) -> Ended
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (tasks, opened, more) = (StreamTasks::default(), Opened::default(), MoreToRead::default());
        let connection = Arc::new(Connection {
            peer,
            activity: Activity::new(),
            stages,
        });
        let io = TokioIo::new(FairReads::new(OpeningMonitor::new(io, opened.clone()), more.clone()));
        let run = self.run(io, &connection, &opened, tasks.clone());
        let ended = self.turns.drive(&more, run).await;
        tasks.end().await;
        ended
    }
}

impl Grpc {
    async fn run<IO>(&self, io: IO, shared: &Arc<Connection>, opened: &Opened, tasks: StreamTasks) -> Ended
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.edge.handle(shared, request));
        let mut http = pin!(self.builder(tasks).serve_connection(io, service));
        let reason = tokio::select! {
            biased;
            reason = goaway_reason(shared, opened) => reason,
            result = &mut http => return closed(&shared.peer, result),
        };
        let Some(reason) = reason else {
            tracing::debug!(
                peer = shared.peer.address,
                "no HTTP/2 preface and settings after {HANDSHAKE_MAX:?}"
            );
            return Ended::Unopened;
        };
        http.as_mut().graceful_shutdown();
        tokio::select! {
            result = &mut http => closed(&shared.peer, result),
            ended = closing_deadline(&reason, shared, opened) => ended,
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

/// Returns the reason when the server must send a GOAWAY, or None if the preface did not arrive in time.
async fn goaway_reason(shared: &Connection, opened: &Opened) -> Option<GoawayReason> {
    let mut handshake = pin!(sleep(HANDSHAKE_MAX));
    loop {
        tokio::select! {
            () = shared.stages.reached(Stage::Leaving) => return Some(GoawayReason::Shutdown),
            () = shared.activity.too_many_resets() => {
                tracing::warn!(peer = shared.peer.address, "a client cancels too many requests; closing its connection");
                return Some(GoawayReason::TooManyResets);
            }
            () = &mut handshake, if !handshake.is_elapsed() => {
                if !opened.get() {
                    return None;
                }
            }
        }
    }
}

/// Returns when the server must close a connection to which it has sent a GOAWAY, and how it ended.
async fn closing_deadline(reason: &GoawayReason, shared: &Connection, opened: &Opened) -> Ended {
    let (stages, activity) = (&shared.stages, &shared.activity);
    if matches!(reason, GoawayReason::TooManyResets) {
        let _ = timeout(TOO_MANY_RESETS_GRACE, stages.reached(Stage::Flushing)).await;
        return Ended::Cut { open: activity.open() };
    }
    sleep(HANDSHAKE_MAX_AT_SHUTDOWN).await;
    if !opened.get() {
        return Ended::Unopened;
    }
    stages.reached(Stage::Flushing).await;
    // A client that reads closes the connection itself once it has its responses.
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
    use crate::edge::RefusedRequests;
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
        /// Serves a connection whose client has sent `bytes`.
        async fn start(bytes: &[&[u8]]) -> Self {
            let grpc = Grpc {
                edge: Arc::new(Edge {
                    router: Router::new(),
                    services: Services::for_port(CLASSIFICATION),
                    message_setting: "--message-bytes-max",
                    stream_idle_max: Duration::from_secs(300),
                    refused: RefusedRequests::default(),
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

        /// Returns how the connection ended, after how many milliseconds, and true if the server sent a GOAWAY.
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
    async fn a_connection_must_send_its_preface_in_time() {
        for bytes in [&[][..], &[&PREFACE[..8]], &[PREFACE], &[PREFACE, &SETTINGS[..5]]] {
            let served = Served::start(bytes).await;
            assert_eq!(served.end().await, (Ended::Unopened, 10_000, false), "{bytes:?}");
        }
        // An idle connection is kept while it answers pings. This one does not: it is pinged after 30 s and closed 20 s later.
        let served = Served::start(&[PREFACE, SETTINGS]).await;
        let (ended, took, _) = served.end().await;
        assert_eq!((ended, took / 1000), (Ended::Closed, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_closes_unopened_connections_first() {
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
