//! What goes into the engine and what comes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use headswap_image::Pixels;
use headswap_model::PlacedHead;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::Admitted;
use super::class::{Class, FlowId};
use super::error::{EngineError, Stage};
use super::metrics::Counted;
use super::scheduler::Scheduled;

/// What a request is computed from.
#[derive(Clone, Debug)]
pub enum Input {
    /// An encoded picture.
    Image(Bytes),
    /// A picture, for the whole network.
    Pixels(Pixels),
    /// The backbone's features of one, for the last Linear of heads that override nothing else.
    Features(Arc<[f32]>),
}

/// Heads as placed on the device. While a request has them, they stay there.
pub type PinnedHeads = Vec<Arc<PlacedHead>>;

/// Where a request's heads come from: a bulk request takes them when its turn comes, so that what waits keeps no
/// device memory; an interactive one takes them at once.
pub trait HeadSource: Send + Sync {
    /// Whether [`HeadSource::pin`] would find all of them on the device.
    fn resident(&self) -> bool;

    /// Takes the heads, at once if they are on the device, else once they have been loaded.
    fn pin(self: Arc<Self>) -> Pinned;
}

/// What a [`HeadSource`] gives.
pub enum Pinned {
    /// The heads that can answer; none if all failed.
    Now(PinnedHeads),
    /// The same, once the missing ones are loaded.
    Later(BoxFuture<'static, PinnedHeads>),
}

/// One picture and the heads to run on it.
pub struct Request {
    /// The picture.
    pub input: Input,
    /// The heads; none if the features alone are wanted.
    pub heads: Option<Arc<dyn HeadSource>>,
    /// Whether the features are wanted, too.
    pub features: bool,
    /// After this the answer is worthless.
    pub deadline: Option<Instant>,
    /// The flow that it takes turns for.
    pub flow: FlowId,
}

/// The numbers for one picture.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// For each pinned head of the request, in its order, one logit per class, or why this head has none.
    pub logits: Vec<Result<Vec<f32>, EngineError>>,
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
    /// Everything between its admission and the start of the forward pass, but decoding.
    pub queue: Duration,
    /// The batch's forward pass.
    pub compute: Duration,
    /// Pictures in that batch.
    pub batch_size: usize,
}

/// The stage that a request is in, shared with its caller for error messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

impl Progress {
    pub fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    pub fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }
}

/// A request on its way through the engine.
pub(super) struct Entry {
    pub input: Input,
    pub heads: Heads,
    pub features: bool,
    pub deadline: Option<Instant>,
    pub flow: FlowId,
    pub admitted: Admitted,
    pub arrived: Instant,
    pub decode: Duration,
    /// The bytes of memory that decoding takes; 0 for what is not encoded.
    pub memory: u64,
    pub progress: Progress,
    /// Until the forward pass begins.
    pub in_queue: Option<Counted>,
    pub answer: oneshot::Sender<Result<Answer, EngineError>>,
}

/// The heads of an entry.
pub(super) enum Heads {
    /// To be taken.
    Source(Arc<dyn HeadSource>),
    /// On the device until the entry is answered.
    Pinned(PinnedHeads),
}

impl Entry {
    /// Whether the caller is gone.
    pub fn cancelled(&self) -> bool {
        self.answer.is_closed()
    }

    /// Whether the deadline has passed at `now`.
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Whether no answer is wanted any more at `now`.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.cancelled() || self.expired(now)
    }

    /// Whether its picture has yet to be decoded.
    pub fn is_encoded(&self) -> bool {
        matches!(self.input, Input::Image(_))
    }

    /// Its heads on the device; none before they are pinned.
    pub fn pinned(&self) -> &[Arc<PlacedHead>] {
        match &self.heads {
            Heads::Pinned(heads) => heads,
            Heads::Source(_) => &[],
        }
    }

    /// Answers; a caller that is gone is no error. Its place and its heads are free before the caller hears of it.
    pub fn answer(self, answer: Result<Answer, EngineError>) {
        let Self {
            answer: sender,
            admitted,
            heads,
            in_queue,
            ..
        } = self;
        drop((admitted, heads, in_queue));
        let _ = sender.send(answer);
    }
}

impl Scheduled for Entry {
    fn class(&self) -> Class {
        self.admitted.class()
    }

    fn flow(&self) -> FlowId {
        self.flow
    }
}
