//! How far a port's shutdown has come.

use tokio::sync::watch;

/// Only ever moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Connections and requests are accepted.
    #[default]
    AppState,
    /// No new connection is accepted, every connection is told to go away, and requests on their way are still taken.
    Leaving,
    /// Requests whose message has not arrived are refused.
    Closed,
    /// All accepted requests are answered, and connections with nothing left to write are closed.
    Flushing,
    /// Whatever is left is closed.
    Cut,
}

/// What a port and its connections know of the stage.
#[derive(Clone, Debug)]
pub(crate) struct Stages(watch::Receiver<Stage>);

impl Stages {
    pub fn new() -> (watch::Sender<Stage>, Self) {
        let (sender, receiver) = watch::channel(Stage::default());
        (sender, Self(receiver))
    }

    /// Returns once the stage is `stage` or a later one.
    pub async fn reached(&self, stage: Stage) {
        // A sender that is gone will not announce a stage, and is taken for the last one.
        let _ = self.0.clone().wait_for(|now| *now >= stage).await;
    }
}
