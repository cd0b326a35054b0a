//! The engine's requests and answers, and the entry that carries a request through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use headswap_image::Prepared;
use headswap_model::PlacedHead;
use headswap_spec::{HeadInput, Preprocessing};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::Admitted;
use super::class::{Class, FlowId};
use super::cost::{Cost, PICTURE_COST, pictures_cost};
use super::error::{EngineError, Stage};
use super::family::Family;
use super::metrics::Counted;
use super::scheduler::Scheduled;

/// The input of a request.
#[derive(Clone, Debug)]
pub enum Input {
    /// An encoded picture.
    Image(Bytes),
    /// A resized and cropped picture, `[height, width, 3]` of red, green and blue, for heads whose pictures have as many
    /// bytes.
    Pixels(Bytes),
    /// What backbones computed of a picture, for heads that [share](PlacedHead::shared_input) these inputs.
    HeadInputs(Vec<CachedInput>),
    /// Prepared pictures, as the engine makes them of the others.
    Prepared(Vec<PreparedPicture>),
}

/// A picture that was prepared for heads of one preprocessing.
#[derive(Clone, Debug)]
pub struct PreparedPicture {
    /// The preprocessing.
    pub preprocessing: Preprocessing,
    /// The picture, which preprocessings that differ in their normalisation share.
    pub picture: Arc<Prepared>,
}

/// An input of heads that was computed before.
#[derive(Clone, Debug)]
pub struct CachedInput {
    /// Whose input it is.
    pub of: Wanted,
    /// Its values.
    pub values: Arc<[f32]>,
}

/// An input of heads to return.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// The index of the backbone that computes it.
    pub backbone: usize,
    /// How the picture is prepared.
    pub preprocessing: Preprocessing,
    /// What the backbone computes of it.
    pub input: HeadInput,
}

/// Heads on the device, which stay there until they are dropped.
pub type PinnedHeads = Vec<Arc<PlacedHead>>;

/// The source of a request's heads. A bulk request pins them when it is scheduled, so that waiting requests hold no device
/// memory; an interactive one pins them at once.
pub trait HeadSource: Send + Sync {
    /// Returns true if all heads are on the device.
    fn resident(&self) -> bool;

    /// Returns how the heads' pictures are prepared, each way once.
    fn preprocessings(&self) -> Vec<Preprocessing>;

    /// Pins the heads: at once if they are on the device, otherwise once they are loaded.
    fn pin(self: Arc<Self>) -> Pinned;
}

/// The result of [`HeadSource::pin`].
pub enum Pinned {
    /// The heads that can answer; empty if all failed.
    Now(PinnedHeads),
    /// The same, once the missing ones are loaded.
    Later(BoxFuture<'static, PinnedHeads>),
}

/// One picture and the heads to run on it.
pub struct Request {
    /// The picture.
    pub input: Input,
    /// The heads; none if only inputs are wanted.
    pub heads: Option<Arc<dyn HeadSource>>,
    /// Inputs of heads to return, too.
    pub wanted: Vec<Wanted>,
    /// The request is not computed after this time.
    pub deadline: Option<Instant>,
    /// The flow that it belongs to.
    pub flow: FlowId,
}

impl Request {
    /// Returns how its pictures are prepared, each way once.
    pub(super) fn preprocessings(&self) -> Vec<Preprocessing> {
        let mut all = self
            .heads
            .as_ref()
            .map(|heads| heads.preprocessings())
            .unwrap_or_default();
        for wanted in &self.wanted {
            add_distinct(&mut all, wanted.preprocessing);
        }
        all
    }

    /// Returns the predicted cost of computing its pictures. Cached inputs cost as much as one, so that no batch of them
    /// is larger than one of pictures.
    pub(super) fn cost(&self, preprocessings: &[Preprocessing]) -> Cost {
        if matches!(self.input, Input::HeadInputs(_)) {
            return PICTURE_COST;
        }
        pictures_cost(preprocessings).max(1)
    }
}

/// The numbers for one picture.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// For each pinned head of the request, in its order, one logit per class, or the head's error.
    pub logits: Vec<Result<Vec<f32>, EngineError>>,
    /// The inputs of heads that are wanted, in their order.
    pub inputs: Vec<Vec<f32>>,
    /// How long each stage took.
    pub timing: Timing,
}

/// How long each stage of one request took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Decoding; zero for raw pixels.
    pub decode: Duration,
    /// From its admission to the start of the forward pass, without decoding.
    pub queue: Duration,
    /// The batch's forward pass.
    pub compute: Duration,
    /// The number of pictures in that batch.
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

/// A request inside the engine.
pub(super) struct Entry {
    pub input: Input,
    pub heads: Heads,
    pub wanted: Vec<Wanted>,
    /// The predicted cost of computing it.
    pub cost: Cost,
    /// How its pictures were to be prepared when its cost and memory were computed.
    pub priced: Vec<Preprocessing>,
    pub deadline: Option<Instant>,
    pub flow: FlowId,
    pub admitted: Admitted,
    pub arrived: Instant,
    pub decode: Duration,
    /// The bytes of memory that decoding takes; 0 if the input is not encoded.
    pub memory: u64,
    pub progress: Progress,
    /// Counts the entry as queued until its forward pass begins.
    pub in_queue: Option<Counted>,
    pub answer: oneshot::Sender<Result<Answer, EngineError>>,
}

/// The heads of an entry.
pub(super) enum Heads {
    /// Not pinned yet.
    Source(Arc<dyn HeadSource>),
    /// Pinned until the entry is answered.
    Pinned(PinnedHeads),
}

impl Entry {
    /// Returns true if the caller gave up.
    pub fn cancelled(&self) -> bool {
        self.answer.is_closed()
    }

    /// Returns true if the deadline has passed at `now`.
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Returns true if it is neither cancelled nor expired at `now`.
    pub fn is_alive(&self, now: Instant) -> bool {
        !self.cancelled() && !self.expired(now)
    }

    /// Returns true if its picture must be decoded.
    pub fn is_encoded(&self) -> bool {
        matches!(self.input, Input::Image(_))
    }

    /// Returns how its pictures are prepared, each way once.
    pub fn preprocessings(&self) -> Vec<Preprocessing> {
        let mut all = Vec::new();
        for head in self.pinned() {
            add_distinct(&mut all, head.preprocessing);
        }
        for wanted in &self.wanted {
            add_distinct(&mut all, wanted.preprocessing);
        }
        all
    }

    /// Leaves out prepared pictures that neither its heads nor what is wanted need.
    pub fn leave_out_pictures(&mut self) {
        let needed = self.preprocessings();
        if let Input::Prepared(pictures) = &mut self.input {
            pictures.retain(|picture| needed.contains(&picture.preprocessing));
        }
    }

    /// Makes prepared pictures of raw pixels, for the preprocessings whose pictures have as many.
    pub fn prepare_pixels(&mut self) {
        let Input::Pixels(bytes) = &self.input else { return };
        let mut pictures = Vec::new();
        for preprocessing in self.preprocessings() {
            if let Some(picture) = Prepared::from_pixels(bytes.clone(), &preprocessing) {
                pictures.push(PreparedPicture {
                    preprocessing,
                    picture: Arc::new(picture),
                });
            }
        }
        self.input = Input::Prepared(pictures);
    }

    /// Its pinned heads; empty before they are pinned.
    pub fn pinned(&self) -> &[Arc<PlacedHead>] {
        match &self.heads {
            Heads::Pinned(heads) => heads,
            Heads::Source(_) => &[],
        }
    }

    /// Sends the answer, unless the caller gave up. Its permit and heads are released first, so that they are free when the
    /// caller receives the answer.
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

    fn cost(&self) -> Cost {
        self.cost
    }

    /// That of its first head. Cached inputs go with any: their convolutions are not computed.
    fn family(&self) -> Option<Family> {
        if matches!(self.input, Input::HeadInputs(_)) {
            return None;
        }
        match &self.heads {
            Heads::Source(_) => None,
            Heads::Pinned(heads) => match heads.first() {
                Some(head) => Family::of_head(head),
                None => self.wanted.first().and_then(Family::of_wanted),
            },
        }
    }
}

/// Adds a preprocessing unless an equal one is there.
pub(super) fn add_distinct(all: &mut Vec<Preprocessing>, preprocessing: Preprocessing) {
    if !all.contains(&preprocessing) {
        all.push(preprocessing);
    }
}
