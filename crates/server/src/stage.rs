//! The stages of a port's shutdown.

use tokio::sync::watch;

/// A stage of the shutdown. Stages only move forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Accepts connections and requests.
    #[default]
    Serving,
    /// Accepts no new connection and sends a GOAWAY on every connection; still accepts requests that are in transit.
    Leaving,
    /// Refuses requests whose message has not arrived.
    Closed,
    /// All accepted requests are answered; closes connections that have nothing left to write.
    Flushing,
    /// Closes every connection that is left.
    Cut,
}

/// The receiving end of a port's stage. Clones follow the same stage.
#[derive(Clone, Debug)]
pub(crate) struct Stages(watch::Receiver<Stage>);

impl Stages {
    pub fn new() -> (watch::Sender<Stage>, Self) {
        let (sender, receiver) = watch::channel(Stage::default());
        (sender, Self(receiver))
    }

    /// Returns once the stage is `stage` or a later one.
    pub async fn reached(&self, stage: Stage) {
        // An error means that the sender was dropped, which counts as the last stage.
        let _ = self.0.clone().wait_for(|now| *now >= stage).await;
    }
}
