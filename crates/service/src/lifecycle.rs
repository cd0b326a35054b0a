//! The lifecycle of the service: loading, serving, draining, closed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};

use super::app_state::AppState;
use super::error::ServiceError;

/// The service's state; clones share it. It opens once, after the warm-up. A drain ends the streams, which have no end of
/// their own; closing refuses every further request.
#[derive(Clone, Default)]
pub struct Lifecycle(Arc<State>);

#[derive(Default)]
struct State {
    serving: OnceLock<Arc<AppState>>,
    draining: watch::Sender<bool>,
    closed: AtomicBool,
    /// The number of requests whose message has arrived and that are not answered yet.
    accepted: AtomicUsize,
    /// Notified when `accepted` becomes 0.
    idle: Notify,
}

/// An accepted request, held until its answer is sent. A drain waits for it.
#[must_use = "a drain waits until this is dropped"]
pub struct Accepted(Arc<State>);

impl Drop for Accepted {
    fn drop(&mut self) {
        if self.0.accepted.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Lifecycle {
    /// Starts to serve.
    pub fn open(&self, serving: Arc<AppState>) {
        let _ = self.0.serving.set(serving);
    }

    /// Returns the state to serve with.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] while the model is loading.
    pub fn pass(&self) -> Result<Arc<AppState>, ServiceError> {
        self.0
            .serving
            .get()
            .cloned()
            .ok_or_else(|| ServiceError::Unavailable("the model is still loading; retry in a second".into()))
    }

    /// Counts a request whose whole message has arrived.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] once the lifecycle is closed.
    pub fn accept(&self) -> Result<Accepted, ServiceError> {
        self.0.accepted.fetch_add(1, Ordering::SeqCst);
        let accepted = Accepted(Arc::clone(&self.0));
        // Counted before the check, so that no request can be accepted after a drain has closed this and counted none.
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

    /// The number of accepted requests that are not answered yet.
    pub fn accepted(&self) -> usize {
        self.0.accepted.load(Ordering::SeqCst)
    }

    /// Waits until every accepted request is answered.
    pub async fn idle(&self) {
        loop {
            let mut notified = std::pin::pin!(self.0.idle.notified());
            // Enabled before the check, so that the last answer is not missed.
            notified.as_mut().enable();
            if self.accepted() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Begins the drain: each stream ends once its accepted requests are answered.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// Waits until the drain has begun.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut draining = self.0.draining.subscribe();
        async move {
            // It fails only if the lifecycle was dropped, which ends the streams, too.
            let _ = draining.wait_for(|draining| *draining).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn idle_waits_for_accepted_requests_and_close_refuses_more() {
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
