//! What every forward pass offers, whatever computes it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use headswap_checkpoint::Parameters;

use super::plan::StepKey;
use super::settings::Device;

/// A backbone ready to compute, driven by one thread.
pub trait Backend: Send {
    /// Does what is slow the first time, for batches of up to this many rows, until it has or is told to stop. To be called
    /// by the thread that will call [`Backend::forward`]: what it makes ready may end with that thread.
    ///
    /// # Errors
    /// As [`Backend::forward`].
    fn prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<(), BackendError> {
        let _ = (max_batch, stop);
        Ok(())
    }

    /// This network as several, with the same parameters, that as many threads drive at the same time: for each device
    /// one, or on a GPU two, so that one batch's pictures are copied there while the other's are computed. A CPU of many
    /// cores counts as several devices. All take the same heads.
    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>>;

    /// Runs pictures through the backbone and the heads' own layers, each step once for all rows whose heads agree up to
    /// it, then each group of rows through its head's last Linear.
    ///
    /// `pictures` has 224x224x3 u8 for each row of the batch, RGB interleaved; `features` names the rows whose features, of
    /// the backbone alone, are wanted, ascending. `wanted` is asked right before the device is given work that cannot be
    /// taken back.
    ///
    /// # Errors
    /// [`BackendError::NotWanted`] if `wanted` says so; [`BackendError::Lost`] if the device will not compute again;
    /// others if the device failed and the network stays usable.
    fn forward_if(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
        wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError>;

    /// [`Backend::forward_if`] for a batch that is always wanted.
    ///
    /// # Errors
    /// As [`Backend::forward_if`].
    fn forward(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
    ) -> Result<Outputs, BackendError> {
        self.forward_if(pictures, groups, features, &mut Always)
    }

    /// Runs rows of the backbone's features through the last Linear of heads that override nothing else. On the CPU the
    /// logits have the same bits as those that [`Backend::forward`] gave with these features.
    ///
    /// # Errors
    /// As [`Backend::forward`].
    fn logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError>;

    /// Places heads on this network's device, from any thread.
    fn placer(&self) -> Arc<dyn Placer>;

    /// The names of the steps that [`Outputs::steps`] counts, in their order.
    fn steps(&self) -> Vec<String>;

    /// What computes: one device, or several with the same parameters.
    fn devices(&self) -> Vec<Device>;

    /// The element type that it computes in, as `f32`.
    fn precision(&self) -> &'static str;
}

/// Says at the last moment whether a batch is still worth computing.
pub trait StillWanted {
    /// Whether every row of the batch is still wanted.
    fn still_wanted(&mut self) -> bool;
}

/// A batch that is wanted in any case.
struct Always;

impl StillWanted for Always {
    fn still_wanted(&mut self) -> bool {
        true
    }
}

/// Moves a head's parameters to the device.
pub trait Placer: Send + Sync {
    /// Places `parameters`, the last Linear and whatever else the head overrides, and proves with a trial forward pass of
    /// its layers that its results are finite. A tensor that another head has placed already is shared.
    ///
    /// # Errors
    /// [`BackendError`] if there is no room, or if the trial gave NaN or infinity in the device's element type.
    fn place(&self, parameters: &Parameters) -> Result<PlacedHead, BackendError>;
}

/// The rows of a batch that one head answers.
pub struct HeadRows<'a> {
    /// The head.
    pub head: &'a PlacedHead,
    /// Indices into the batch, ascending, each once.
    pub rows: Vec<usize>,
}

/// The results of one batch.
#[derive(Debug, Default)]
pub struct Outputs {
    /// For each group, its rows' logits one after the other: rows x classes.
    pub logits: Vec<Vec<f32>>,
    /// The features of the rows that asked for them, one after the other: rows x features.
    pub features: Vec<f32>,
    /// What each step was asked to do.
    pub steps: Vec<StepCount>,
}

/// How often a batch went through one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCount {
    /// Different paths of parameters up to it: 1 where all rows are still together.
    pub passes: usize,
    /// Rows over all passes.
    pub rows: usize,
}

/// A head's tensors on a device. They are freed when the last owner lets go, which is after its last answer.
pub struct PlacedHead {
    /// K, the length of its rows of logits.
    pub classes: usize,
    /// What its own tensors take on the device; one shared with another head counts for both.
    pub device_bytes: usize,
    /// Which parameters each step uses, from the first on; empty if only the last Linear is the head's own.
    pub keys: Vec<StepKey>,
    placed: Box<dyn Any + Send + Sync>,
    /// Whether a forward pass failed because of it.
    suspect: AtomicBool,
    _kept: Option<Box<dyn Any + Send + Sync>>,
}

impl PlacedHead {
    /// Wraps what the network keeps for a head of `classes` outputs, which shares all steps with the backbone.
    pub fn new(classes: usize, device_bytes: usize, placed: Box<dyn Any + Send + Sync>) -> Self {
        Self {
            classes,
            device_bytes,
            keys: Vec::new(),
            placed,
            suspect: AtomicBool::new(false),
            _kept: None,
        }
    }

    /// Keeps something, as the room that it takes, for as long as the tensors live.
    #[must_use]
    pub fn keeping(self, kept: impl Any + Send + Sync) -> Self {
        Self {
            _kept: Some(Box::new(kept)),
            ..self
        }
    }

    /// Whether the last Linear is all that it overrides, so that the backbone's features are what it needs.
    pub fn shares_features(&self) -> bool {
        self.keys.is_empty()
    }

    /// Records whether the last forward pass with this head failed because of it.
    pub fn suspect(&self, failed: bool) {
        self.suspect.store(failed, Ordering::Relaxed);
    }

    /// Whether the last forward pass with this head failed because of it, so that it should not share a batch with others.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// The same with steps of its own.
    pub fn with_keys(self, keys: Vec<StepKey>) -> Self {
        Self { keys, ..self }
    }

    /// What the network's own placer put into it.
    pub fn placed<T: 'static>(&self) -> Result<&T, BackendError> {
        self.placed.downcast_ref().ok_or(BackendError::ForeignHead)
    }
}

/// What a network's own placer put into the heads of a batch.
pub fn placed<'a, T: 'static>(groups: &[HeadRows<'a>]) -> Result<Vec<&'a T>, BackendError> {
    let mut own = Vec::with_capacity(groups.len());
    for group in groups {
        own.push(group.head.placed()?);
    }
    Ok(own)
}

impl fmt::Debug for PlacedHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlacedHead {{ classes: {} }}", self.classes)
    }
}

/// A forward pass or a placement that failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BackendError {
    /// Choices that do not fit together, or a device that is not there.
    #[error("{0}")]
    Settings(String),
    /// libtorch or the device refused; the text is libtorch's first line.
    #[error("the device failed: {0}")]
    Device(String),
    /// The device has too little memory; the text is libtorch's first line.
    #[error("the device has too little memory: {0}")]
    OutOfMemory(String),
    /// Weights that are finite in f32 may overflow in f16.
    #[error("the head's logits are not finite in {0}; try another --precision or smaller weights")]
    NotFinite(String),
    /// The device will not compute again.
    #[error("the device is lost: {0}")]
    Lost(String),
    /// The batch was no longer wanted when its turn came.
    #[error("the batch is no longer wanted")]
    NotWanted,
    /// A head placed by another kind of network.
    #[error("the head belongs to another network")]
    ForeignHead,
}
