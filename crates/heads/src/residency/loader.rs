//! The future of a version that is being loaded, and the task that loads it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::channel::oneshot;

use super::Residency;
use super::slot::{Loaded, PinnedHead};
use crate::error::HeadError;

/// A version that is being loaded. Dropping this gives up waiting; a load that has begun continues for other requests.
pub struct Pending<R>(pub(crate) oneshot::Receiver<Loaded<R>>);

impl<R> Future for Pending<R> {
    type Output = Result<PinnedHead<R>, Arc<HeadError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|loaded| loaded.unwrap_or_else(|_| Err(Arc::new(HeadError::LoadsStopped))))
    }
}

/// Loads queued versions until the queue is empty. It blocks, so it needs a thread of its own.
#[must_use = "requests wait for what this loads"]
pub struct LoadTask<R>(pub(crate) Option<Arc<Residency<R>>>);

impl<R> LoadTask<R> {
    /// Loads until the queue is empty.
    pub fn run(mut self) {
        let Some(residency) = &self.0 else { return };
        while let Some(version) = residency.next_load() {
            residency.load(&version);
        }
        self.0 = None;
    }
}

impl<R> Drop for LoadTask<R> {
    /// Frees the place of a task that did not finish; if no other task runs, the queued requests fail.
    fn drop(&mut self) {
        if let Some(residency) = &self.0 {
            residency.abandon_loads();
        }
    }
}
