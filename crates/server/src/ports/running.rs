//! The ports while they serve, and their shutdown, which no connection and no client can delay without a bound.

use std::time::Duration;

use headswap_service::Lifecycle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use crate::ServerError;
use crate::edge::RefusedRequests;
use crate::http2::FLUSH_MAX;
use crate::ports::port::ClosedConnections;
use crate::ports::socket_file::SocketFile;
use crate::stage::Stage;

/// How long the server still accepts requests that were in transit when it sent the GOAWAYs. A client that reads has closed
/// its connection by then.
const GRACE: Duration = Duration::from_secs(1);
/// Connections end at once in the last stage, so this timeout is only reached if a task blocks its thread.
const JOIN_MAX: Duration = Duration::from_secs(2);

/// Ports that shut down together: their tasks and their stage.
#[derive(Debug)]
pub(crate) struct Ports {
    pub stage: watch::Sender<Stage>,
    pub tasks: JoinSet<ClosedConnections>,
}

impl Ports {
    /// Enters the stage and waits up to `longest` for the ports to end. Returns the connections that they closed.
    async fn enter(&mut self, stage: Stage, longest: Duration) -> ClosedConnections {
        self.stage.send_replace(stage);
        let mut closed = ClosedConnections::default();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok(more) => closed.extend(more),
                    Err(error) => tracing::error!(%error, "a port failed"),
                }
            }
        };
        // The remaining ports end in a later stage.
        let _ = timeout(longest, all).await;
        closed
    }

    /// Enters the last stage; ends and joins every task.
    async fn end(&mut self) -> ClosedConnections {
        let closed = self.enter(Stage::Cut, JOIN_MAX).await;
        if !self.tasks.is_empty() {
            tracing::error!("connections did not end after {JOIN_MAX:?}");
            let _ = timeout(JOIN_MAX, self.tasks.shutdown()).await;
        }
        closed
    }

    /// Returns when a port has ended without a shutdown.
    async fn failed(&mut self) -> Option<JoinError> {
        self.tasks.join_next().await.and_then(Result::err)
    }
}

/// All ports.
#[derive(Debug)]
pub(crate) struct Running {
    /// Classification and administration.
    pub grpc: Ports,
    /// Metrics and probes, served until the end of the shutdown.
    pub http: Ports,
    pub refused: RefusedRequests,
    pub socket: Option<SocketFile>,
}

impl Running {
    /// Returns when a port no longer accepts connections.
    pub async fn failed(&mut self) -> ServerError {
        let error = tokio::select! {
            error = self.grpc.failed() => error,
            error = self.http.failed() => error,
        };
        let cause = error.map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        ServerError::Listener(cause)
    }

    /// Shuts down: accepts requests in transit for up to [`GRACE`], waits up to `longest` for the accepted requests, then
    /// closes the remaining connections.
    ///
    /// # Errors
    /// [`ServerError::Drain`] if accepted requests are still unanswered.
    pub async fn drain(mut self, lifecycle: &Lifecycle, longest: Duration) -> Result<(), ServerError> {
        let deadline = Instant::now() + longest;
        // Remove the file while its listener is open, so that no other server takes it for a stale one.
        drop(self.socket.take());
        lifecycle.drain();
        let mut closed = self.grpc.enter(Stage::Leaving, GRACE.min(longest)).await;

        lifecycle.close();
        self.grpc.stage.send_replace(Stage::Closed);
        let accepted = lifecycle.accepted();
        if accepted > 0 {
            tracing::info!(
                accepted,
                "waiting for accepted requests, up to {longest:?} (--drain-ms-max)"
            );
        }
        let left = match timeout_at(deadline, lifecycle.idle()).await {
            Ok(()) => 0,
            Err(_) => lifecycle.accepted(),
        };

        closed.extend(self.grpc.enter(Stage::Flushing, FLUSH_MAX).await);
        closed.extend(self.grpc.end().await);
        self.http.end().await;
        report(self.refused.get(), closed);
        if left > 0 {
            return Err(ServerError::Drain { left, longest });
        }
        Ok(())
    }
}

/// Logs what the shutdown refused and closed.
fn report(refused: usize, closed: ClosedConnections) {
    if refused > 0 {
        tracing::warn!("refused {refused} requests whose messages had not arrived {GRACE:?} after the GOAWAY");
    }
    if closed.has_clients() {
        tracing::warn!("closed connections that their clients had left open: {closed}");
    } else if !closed.is_empty() {
        tracing::info!("closed connections that their clients had left open: {closed}");
    }
}
