//! SIGTERM and SIGINT, and SIGXFSZ, which would end the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Remembers that a signal has come. Clones share the state.
#[derive(Clone, Debug)]
pub(super) struct Signals(watch::Receiver<bool>);

impl Signals {
    /// Starts listening. A second signal ends the process at once. From then on, a write beyond the limit on the size of files
    /// (RLIMIT_FSIZE) fails with EFBIG.
    pub fn listen() -> io::Result<Self> {
        // The handler, which does nothing, stays when its stream is dropped.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_beyond_the_limit_of_files_does_not_end_the_process() {
        let _signals = Signals::listen().unwrap();
        // SAFETY: raising a signal has no preconditions; its handler was registered by the line above.
        assert_eq!(unsafe { libc::raise(libc::SIGXFSZ) }, 0);
    }
}
