//! SIGTERM and SIGINT.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Remembers that a signal has come. Clones share the state.
#[derive(Clone, Debug)]
pub(super) struct Signals(watch::Receiver<bool>);

impl Signals {
    /// Starts listening. A second signal ends the process at once.
    pub fn listen() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            let _ = sender.send(true);
            either(&mut terminate, &mut interrupt).await;
            tracing::warn!("second signal: stopping without draining");
            std::process::exit(1);
        });
        Ok(Self(receiver))
    }

    /// Returns once a signal has come.
    pub async fn received(&self) {
        let _ = self.0.clone().wait_for(|received| *received).await;
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
