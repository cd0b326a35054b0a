//! The ports while they serve, and how they shut down: no connection and no client can hold the process.

use std::time::Duration;

use headswap_service::Lifecycle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use crate::ServerError;
use crate::edge::Refused;
use crate::http2::FLUSH_MAX;
use crate::ports::port::Tally;
use crate::ports::socket_file::SocketFile;
use crate::ports::stage::Stage;

/// How long requests that were on their way when the connections were told to go away are still taken. A client that reads
/// has closed its connection by then.
const GRACE: Duration = Duration::from_secs(1);
/// Connections end at once in the last stage, so this is only reached if a task blocks its thread.
const JOIN_MAX: Duration = Duration::from_secs(2);

/// The tasks of ports that shut down together, and their stage.
#[derive(Debug)]
pub(crate) struct Ports {
    pub stage: watch::Sender<Stage>,
    pub tasks: JoinSet<Tally>,
}

impl Ports {
    /// Enters the stage; returns what the ports closed that end within `longest`.
    async fn enter(&mut self, stage: Stage, longest: Duration) -> Tally {
        self.stage.send_replace(stage);
        let mut tally = Tally::default();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok(closed) => tally.extend(closed),
                    Err(error) => tracing::error!(%error, "a port failed"),
                }
            }
        };
        // Those that are left end in a later stage.
        let _ = timeout(longest, all).await;
        tally
    }

    /// The last stage: every task is ended and joined.
    async fn end(&mut self) -> Tally {
        let tally = self.enter(Stage::Cut, JOIN_MAX).await;
        if !self.tasks.is_empty() {
            tracing::error!("connections did not end after {JOIN_MAX:?}");
            let _ = timeout(JOIN_MAX, self.tasks.shutdown()).await;
        }
        tally
    }

    /// Returns when a port ends though nothing asked it to.
    async fn failed(&mut self) -> Option<JoinError> {
        self.tasks.join_next().await.and_then(Result::err)
    }
}

/// All ports.
#[derive(Debug)]
pub(crate) struct Running {
    /// Classification and administration.
    pub grpc: Ports,
    /// Metrics and probes, which are answered to the very end.
    pub http: Ports,
    pub refused: Refused,
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

    /// Shuts down: requests on their way are taken for a short grace, everything accepted is answered, for `longest` at
    /// most, and what is left is closed.
    ///
    /// # Errors
    /// [`ServerError::Drain`] if accepted requests were left.
    pub async fn drain(mut self, lifecycle: &Lifecycle, longest: Duration) -> Result<(), ServerError> {
        let deadline = Instant::now() + longest;
        // While its listener lives, so that no other server takes it for a stale one meanwhile.
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

/// Says what was waited for and given up.
fn report(refused: usize, closed: Tally) {
    if refused > 0 {
        tracing::warn!("refused {refused} requests whose messages had not arrived {GRACE:?} after the GOAWAY");
    }
    if closed.has_clients() {
        tracing::warn!("closed connections that their clients did not close: {closed}");
    } else if !closed.is_empty() {
        tracing::info!("closed connections that their clients did not close: {closed}");
    }
}
