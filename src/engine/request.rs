//! What goes into the engine and what comes out.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::EngineError;
use super::metrics::Counted;
use crate::image::Pixels;
use crate::model::PlacedHead;

/// What a row of a batch begins with.
#[derive(Clone, Debug)]
pub enum Row {
    /// A picture, for the whole network.
    Pixels(Pixels),
    /// The backbone's features of one, for the last Linear of heads that override nothing else.
    Features(Arc<[f32]>),
}

impl Row {
    /// The picture, if that is what it is.
    pub fn pixels(&self) -> Option<Pixels> {
        match self {
            Self::Pixels(pixels) => Some(pixels.clone()),
            Self::Features(_) => None,
        }
    }

    /// The features, if that is what it is.
    pub fn features(&self) -> Option<Arc<[f32]>> {
        match self {
            Self::Features(features) => Some(Arc::clone(features)),
            Self::Pixels(_) => None,
        }
    }
}

/// One picture and the heads to run on it. `P` is a [`Row`] when it reaches the engine and whatever that is made from in
/// the layers before.
#[derive(Clone, Debug)]
pub struct Request<P> {
    /// The picture.
    pub input: P,
    /// The heads; each is kept alive by this reference until its answer is out.
    pub heads: Vec<Arc<PlacedHead>>,
    /// Whether the features are wanted, too.
    pub features: bool,
    /// After this the answer is worthless.
    pub deadline: Option<Instant>,
}

impl<P> Request<P> {
    /// The same request with another input.
    pub fn with_input<Q>(self, input: Q) -> Request<Q> {
        Request {
            input,
            heads: self.heads,
            features: self.features,
            deadline: self.deadline,
        }
    }

    /// Whether the deadline has passed at `now`.
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// The numbers for one picture.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// For each head of the request, in its order, one logit per class.
    pub logits: Vec<Vec<f32>>,
    /// The features, if asked for.
    pub features: Option<Vec<f32>>,
    /// Where the time went.
    pub timing: Timing,
}

/// Where one request's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Decoding; zero for raw pixels.
    pub decode: Duration,
    /// From the queue's entrance to the start of the forward pass.
    pub queue: Duration,
    /// The batch's forward pass.
    pub compute: Duration,
    /// Pictures in that batch.
    pub batch_size: usize,
}

/// A request on its way through the queue.
pub(super) struct Entry {
    pub request: Request<Row>,
    pub queued_at: Instant,
    /// Until the forward pass begins.
    pub in_queue: Option<Counted>,
    pub answer: oneshot::Sender<Result<Answer, EngineError>>,
}

impl Entry {
    /// Whether the caller has gone.
    pub fn cancelled(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers; a caller that has gone is no error.
    pub fn answer(self, answer: Result<Answer, EngineError>) {
        let _ = self.answer.send(answer);
    }
}
