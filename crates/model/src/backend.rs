//! The interface of the backends that compute the forward pass.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use headswap_checkpoint::Parameters;
use headswap_image::Prepared;
use headswap_spec::{CompleteSpec, HeadInput, Preprocessing};

use super::plan::StepKey;
use super::program::picture_size;
use super::settings::Device;

/// Backbones ready to compute, driven by one thread.
pub trait Backend: Send {
    /// Warms up for batches of up to `max_batch` rows, or until `stop` is true. Must be called by the thread that will call
    /// [`Backend::forward`], because what it prepares may belong to that thread.
    ///
    /// # Errors
    /// As [`Backend::forward`].
    fn prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<(), BackendError> {
        let _ = (max_batch, stop);
        Ok(())
    }

    /// Splits the backend into lanes, by device, that share its parameters and heads. Each is driven by its own thread
    /// at the same time as the others. A GPU has two lanes, so that one batch is copied there while another is
    /// computed; a CPU of many cores counts as several devices with one lane each.
    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>>;

    /// Runs rows through the backbone and the heads' layers, each step once for all rows whose heads compute the same up to
    /// it, then each group of rows through its head's last Linear.
    ///
    /// `wanted` lists inputs of heads that are returned, too, as a backbone computes them. `still_wanted` is called right
    /// before the device gets work that cannot be cancelled.
    ///
    /// # Errors
    /// [`BackendError::NotWanted`] if `still_wanted` returns false; [`BackendError::Lost`] if the device will not compute
    /// again; others if the device failed and the backend stays usable.
    fn forward_if(
        &mut self,
        rows: &[InputRow<'_>],
        groups: &[HeadRows<'_>],
        wanted: &[WantedInput],
        still_wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError>;

    /// As [`Backend::forward_if`], for a batch that is always wanted.
    ///
    /// # Errors
    /// As [`Backend::forward_if`].
    fn forward(
        &mut self,
        rows: &[InputRow<'_>],
        groups: &[HeadRows<'_>],
        wanted: &[WantedInput],
    ) -> Result<Outputs, BackendError> {
        self.forward_if(rows, groups, wanted, &mut Always)
    }

    /// Runs rows of heads' inputs, as the backbone computed them, through the layers of heads that [share
    /// them](PlacedHead::shared_input). On the CPU the logits have the same bits as those that [`Backend::forward`] returned
    /// with these inputs. The groups' rows are indices into `inputs`.
    ///
    /// # Errors
    /// As [`Backend::forward`].
    fn logits(&mut self, inputs: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError>;

    /// Returns the placer of heads on this backend's device, for any thread.
    fn placer(&self) -> Arc<dyn Placer>;

    /// Returns, for each backbone, the input of heads that needs most of it: the features or, of one without Linears, the last
    /// pooling's map.
    fn last_inputs(&self) -> Vec<HeadInput> {
        vec![HeadInput::Features]
    }

    /// Returns the names of the steps that [`Outputs::steps`] counts, in order.
    fn steps(&self) -> Vec<String>;

    /// Returns the devices that compute: one, or several with the same parameters.
    fn devices(&self) -> Vec<Device>;

    /// Returns the name of the element type that it computes in, for example `f32`.
    fn precision(&self) -> &'static str;
}

/// Decides, at the last moment, whether a batch is computed.
pub trait StillWanted {
    /// Returns true if every row of the batch is still wanted.
    fn still_wanted(&mut self) -> bool;
}

/// For batches that are always wanted.
struct Always;

impl StillWanted for Always {
    fn still_wanted(&mut self) -> bool {
        true
    }
}

/// Moves a head's parameters to the device.
pub trait Placer: Send + Sync {
    /// Places a head's `parameters`, those of its own layers and all others in which it differs from the backbone of this index,
    /// and checks by a trial forward pass of its layers that its results are finite. A tensor that another head has already placed is shared.
    ///
    /// # Errors
    /// [`BackendError`] if the parameters do not fit the spec, the device has too little memory, or the trial returned NaN
    /// or infinity in the device's element type.
    fn place_on(
        &self,
        backbone: usize,
        parameters: &Parameters,
        spec: &CompleteSpec,
    ) -> Result<PlacedHead, BackendError>;

    /// As [`Placer::place_on`], on the first backbone.
    ///
    /// # Errors
    /// As there.
    fn place(&self, parameters: &Parameters, spec: &CompleteSpec) -> Result<PlacedHead, BackendError> {
        self.place_on(0, parameters, spec)
    }
}

/// A row of a batch: a prepared picture, and how its values become the network's input.
#[derive(Clone, Copy)]
pub struct InputRow<'a> {
    /// The picture.
    pub picture: &'a Prepared,
    /// How it was prepared, and how it is normalised.
    pub preprocessing: &'a Preprocessing,
}

/// An input of heads to return of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedInput {
    /// The index into the batch.
    pub row: usize,
    /// The index of the backbone that computes it.
    pub backbone: usize,
    /// The input.
    pub input: HeadInput,
}

/// The rows of a batch that one head computes.
pub struct HeadRows<'a> {
    /// The head.
    pub head: &'a PlacedHead,
    /// Indices into the batch, ascending and distinct.
    pub rows: Vec<usize>,
}

/// The results of one batch.
#[derive(Debug, Default)]
pub struct Outputs {
    /// The logits of each group: `[rows, classes]`.
    pub logits: Vec<Vec<f32>>,
    /// The inputs that were asked for, each a vector.
    pub inputs: Vec<Vec<f32>>,
    /// The work of each step of the backbone.
    pub steps: Vec<StepCount>,
}

/// The work of one step for a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCount {
    /// Distinct sequences of parameters up to this step: 1 if all rows share them.
    pub passes: usize,
    /// Rows, over all passes.
    pub rows: usize,
}

/// A head's tensors on a device. They are freed when the last owner drops them, which is after the head's last answer.
pub struct PlacedHead {
    /// The length of a row of logits: all outputs of the last Linear.
    pub classes: usize,
    /// The bytes of its own tensors on the device. A tensor shared with another head counts for both.
    pub device_bytes: usize,
    /// How its pictures are prepared.
    pub preprocessing: Preprocessing,
    /// Height and width of its pictures.
    pub size: [u32; 2],
    /// The index of the backbone that it stands on.
    pub backbone: usize,
    /// What its own layers begin with.
    pub input: HeadInput,
    /// The keys of its steps after the pictures' entrance, up to its last Linear.
    pub keys: Vec<StepKey>,
    /// True if the backbone computes its input without parameters of the head.
    shares_input: bool,
    placed: Box<dyn Any + Send + Sync>,
    /// True if the last forward pass failed because of it.
    suspect: AtomicBool,
    _kept: Option<Box<dyn Any + Send + Sync>>,
}

impl PlacedHead {
    /// Wraps a backend's own data of a head with `classes` logits.
    pub fn new(spec: &CompleteSpec, classes: usize, device_bytes: usize, placed: Box<dyn Any + Send + Sync>) -> Self {
        Self {
            classes,
            device_bytes,
            preprocessing: spec.preprocessing,
            size: picture_size(spec),
            backbone: 0,
            input: spec.input,
            keys: Vec::new(),
            shares_input: true,
            placed,
            suspect: AtomicBool::new(false),
            _kept: None,
        }
    }

    /// Keeps `kept`, for example a reservation of memory, for as long as the tensors live.
    #[must_use]
    pub fn keeping(self, kept: impl Any + Send + Sync) -> Self {
        Self {
            _kept: Some(Box::new(kept)),
            ..self
        }
    }

    /// Sets the index of the backbone that it stands on, which is 0 otherwise.
    #[must_use]
    pub fn on_backbone(self, backbone: usize) -> Self {
        Self { backbone, ..self }
    }

    /// Returns the input that the backbone computes for it; none if the head has parameters of its own before that.
    pub fn shared_input(&self) -> Option<HeadInput> {
        self.shares_input.then_some(self.input)
    }

    /// Records whether the last forward pass with this head failed because of it.
    pub fn set_suspect(&self, failed: bool) {
        self.suspect.store(failed, Ordering::Relaxed);
    }

    /// Returns true if the last forward pass with this head failed because of it. It should not share a batch with others.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Sets whether the backbone computes its input without parameters of the head.
    #[must_use]
    pub(super) fn with_shared_input(self, shares_input: bool) -> Self {
        Self { shares_input, ..self }
    }

    /// Sets the keys of its steps, of which the backbone computes its input in the first `input_steps`.
    #[must_use]
    pub fn with_keys(self, keys: Vec<StepKey>, input_steps: usize) -> Self {
        let shares_input = !keys.iter().take(input_steps).any(|key| key.is_own());
        Self {
            keys,
            shares_input,
            ..self
        }
    }

    /// Returns the data that the backend's own placer stored in it.
    ///
    /// # Errors
    /// [`BackendError::ForeignHead`] if another backend placed the head.
    pub fn placed<T: 'static>(&self) -> Result<&T, BackendError> {
        self.placed.downcast_ref().ok_or(BackendError::ForeignHead)
    }
}

/// Returns the data that a backend's own placer stored in the heads of a batch.
///
/// # Errors
/// [`BackendError::ForeignHead`] if another backend placed one of them.
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

/// A forward pass or a placement failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BackendError {
    /// The settings contradict each other, or the device does not exist.
    #[error("{0}")]
    Settings(String),
    /// The head's parameters do not fit its spec or the backbone.
    #[error("{0}")]
    Misfit(String),
    /// libtorch or the device failed; the text is libtorch's first line.
    #[error("the device failed: {0}")]
    Device(String),
    /// The device has too little memory; the text is libtorch's first line.
    #[error("the device has too little memory: {0}")]
    OutOfMemory(String),
    /// The logits are not finite: weights that are finite in f32 may overflow in f16.
    #[error("the head's logits are not finite in {0}; try another --precision or smaller weights")]
    NotFinite(String),
    /// The device will not compute again.
    #[error("the device is lost: {0}")]
    Lost(String),
    /// The batch was no longer wanted when its turn came.
    #[error("the batch is no longer wanted")]
    NotWanted,
    /// The head was placed by another backend.
    #[error("the head belongs to another backend")]
    ForeignHead,
}
