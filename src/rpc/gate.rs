//! What the services need once the model is ready, behind a gate that is closed until then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Semaphore, watch};
use tonic::Status;

use super::Pipeline;
use super::status::unavailable;
use crate::heads::HeadRegistry;
use crate::model::PlacedHead;
use crate::service::{HeadAdmin, ModelInfo};

/// Everything a ready server serves with.
pub struct Serving {
    /// Refuses at once when the server is at its limit: for unary calls.
    pub pipeline: Pipeline,
    /// Waits for its turn: for streams, which have flow control.
    pub patient_pipeline: Pipeline,
    /// The heads.
    pub registry: Arc<HeadRegistry<PlacedHead>>,
    /// How many more requests may wait for heads to be loaded.
    pub load_waits: Semaphore,
    /// Their administration.
    pub heads: Arc<HeadAdmin>,
    /// What DescribeModel tells.
    pub model: ModelInfo,
}

/// Opened once, when the warm-up has passed. A drain ends what has no end of its own: streams take no more requests.
#[derive(Clone, Default)]
pub struct Gate(Arc<State>);

#[derive(Default)]
struct State {
    serving: OnceLock<Arc<Serving>>,
    draining: watch::Sender<bool>,
    closed: AtomicBool,
    /// Requests whose message has arrived and that are not answered yet.
    accepted: watch::Sender<usize>,
}

/// One accepted request, until its answer is on its way. A drain waits for it.
#[must_use = "a drain waits for as long as this lives"]
pub struct Accepted(Arc<State>);

impl Drop for Accepted {
    fn drop(&mut self) {
        self.0.accepted.send_modify(|accepted| *accepted -= 1);
    }
}

impl Gate {
    /// Lets requests in.
    pub fn open(&self, serving: Arc<Serving>) {
        let _ = self.0.serving.set(serving);
    }

    /// What to serve with.
    ///
    /// # Errors
    /// UNAVAILABLE while the model is loading.
    pub fn pass(&self) -> Result<Arc<Serving>, Status> {
        let loading = || unavailable("the model is still loading; retry in a second");
        self.0.serving.get().cloned().ok_or_else(loading)
    }

    /// Counts a request whose whole message has arrived.
    ///
    /// # Errors
    /// UNAVAILABLE once the gate is closed.
    pub fn accept(&self) -> Result<Accepted, Status> {
        self.0.accepted.send_modify(|accepted| *accepted += 1);
        let accepted = Accepted(Arc::clone(&self.0));
        // Counted before asked, so that a drain that has closed the gate and sees no request has seen the last one.
        if self.0.closed.load(Ordering::SeqCst) {
            return Err(unavailable(
                "the server is shutting down; send the request to another replica",
            ));
        }
        Ok(accepted)
    }

    /// Refuses every request from now on.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }

    /// How many accepted requests are not answered yet.
    pub fn accepted(&self) -> usize {
        *self.0.accepted.borrow()
    }

    /// Returns once no accepted request is unanswered.
    pub async fn idle(&self) {
        let mut accepted = self.0.accepted.subscribe();
        // The sender lives as long as the gate.
        let _ = accepted.wait_for(|accepted| *accepted == 0).await;
    }

    /// Ends the streams, once what they accepted is answered.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// Returns once the drain has begun.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut draining = self.0.draining.subscribe();
        async move {
            // The sender lives as long as the gate; without one, nobody is left to serve.
            let _ = draining.wait_for(|draining| *draining).await;
        }
    }
}
