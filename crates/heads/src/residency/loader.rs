//! Waiting for a version, and the work that is waited for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::channel::oneshot;

use super::Residency;
use super::slot::{Loaded, PinnedHead};
use crate::error::HeadError;

/// A version that is being loaded. Dropping this gives up waiting; a load that has begun goes on for the others.
pub struct Pending<R>(pub(crate) oneshot::Receiver<Loaded<R>>);

impl<R> Future for Pending<R> {
    type Output = Result<PinnedHead<R>, Arc<HeadError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let stopped = |_| Err(Arc::new(HeadError::LoadsStopped));
        Pin::new(&mut self.0)
            .poll(context)
            .map(|loaded| loaded.unwrap_or_else(stopped))
    }
}

/// Loads what is waited for until nothing is, and blocks meanwhile: for a thread of its own.
#[must_use = "requests wait for what this loads"]
pub struct LoadTask<R>(pub(crate) Option<Arc<Residency<R>>>);

impl<R> LoadTask<R> {
    /// Does the work.
    pub fn run(mut self) {
        let Some(residency) = &self.0 else { return };
        while let Some(version) = residency.next_load() {
            residency.load(&version);
        }
        self.0 = None;
    }
}

impl<R> Drop for LoadTask<R> {
    /// A task that did not get to its end leaves its place to another, and no one waiting for work that it had taken.
    fn drop(&mut self) {
        if let Some(residency) = &self.0 {
            residency.abandon_loads();
        }
    }
}
