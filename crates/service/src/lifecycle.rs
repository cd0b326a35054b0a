//! The lifecycle between listeners and use cases: closed until the model is ready, and again when a drain has ended.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};

use super::app_state::AppState;
use super::error::ServiceError;

/// Opened once, when the warm-up has passed. A drain ends what has no end of its own: streams take no more requests.
#[derive(Clone, Default)]
pub struct Lifecycle(Arc<State>);

#[derive(Default)]
struct State {
    serving: OnceLock<Arc<AppState>>,
    draining: watch::Sender<bool>,
    closed: AtomicBool,
    /// Requests whose message has arrived and that are not answered yet.
    accepted: AtomicUsize,
    /// Told when there are none.
    idle: Notify,
}

/// One accepted request, until its answer is on its way. A drain waits for it.
#[must_use = "a drain waits for as long as this lives"]
pub struct Accepted(Arc<State>);

impl Drop for Accepted {
    fn drop(&mut self) {
        if self.0.accepted.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Lifecycle {
    /// Lets requests in.
    pub fn open(&self, serving: Arc<AppState>) {
        let _ = self.0.serving.set(serving);
    }

    /// What to serve with.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] while the model is loading.
    pub fn pass(&self) -> Result<Arc<AppState>, ServiceError> {
        let loading = || ServiceError::Unavailable("the model is still loading; retry in a second".into());
        self.0.serving.get().cloned().ok_or_else(loading)
    }

    /// Counts a request whose whole message has arrived.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] once the lifecycle is closed.
    pub fn accept(&self) -> Result<Accepted, ServiceError> {
        self.0.accepted.fetch_add(1, Ordering::SeqCst);
        let accepted = Accepted(Arc::clone(&self.0));
        // Counted before asked, so that a drain that has closed the lifecycle and sees no request has seen the last one.
        if self.0.closed.load(Ordering::SeqCst) {
            let reason = "the server is shutting down; send the request to another replica";
            return Err(ServiceError::Unavailable(reason.into()));
        }
        Ok(accepted)
    }

    /// Refuses every request from now on.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }

    /// How many accepted requests are not answered yet.
    pub fn accepted(&self) -> usize {
        self.0.accepted.load(Ordering::SeqCst)
    }

    /// Returns once no accepted request is unanswered.
    pub async fn idle(&self) {
        loop {
            let mut told = std::pin::pin!(self.0.idle.notified());
            // Registered before asked, so that the last answer is not missed.
            told.as_mut().enable();
            if self.accepted() == 0 {
                return;
            }
            told.await;
        }
    }

    /// Ends the streams, once what they accepted is answered.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// Returns once the drain has begun.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut draining = self.0.draining.subscribe();
        async move {
            // The sender lives as long as the lifecycle; without one, nothing is served.
            let _ = draining.wait_for(|draining| *draining).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_closed_gate_waits_for_what_it_has_accepted() {
        let lifecycle = Lifecycle::default();
        let (one, two) = (lifecycle.accept().unwrap(), lifecycle.accept().unwrap());
        let mut idle = Box::pin(lifecycle.idle());
        assert!(idle.as_mut().now_or_never().is_none());
        drop(one);
        assert!(idle.as_mut().now_or_never().is_none());
        lifecycle.close();
        assert!(lifecycle.accept().is_err());
        assert_eq!(lifecycle.accepted(), 1);
        drop(two);
        idle.await;
    }
}
