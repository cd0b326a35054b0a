//! What every forward pass offers, whatever computes it.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tensor::Parameters;

/// A backbone ready to compute on one device, owned by one thread.
pub trait Network: Send {
    /// Runs `count` pictures through the backbone once, then each group of rows through its head.
    ///
    /// `pixels` holds `count` times 224x224x3 u8, RGB interleaved.
    ///
    /// # Errors
    /// [`NetworkError`] if the device failed or a result is not finite; the network stays usable.
    fn forward(
        &mut self,
        pixels: &[u8],
        count: usize,
        groups: &[HeadRows<'_>],
        features: bool,
    ) -> Result<Outputs, NetworkError>;

    /// Places heads on this network's device, from any thread.
    fn placer(&self) -> Arc<dyn Placer>;

    /// What computes and in which element type, as `cpu` and `f32`.
    fn device(&self) -> (String, String);
}

/// Moves a head's parameters to the device.
pub trait Placer: Send + Sync {
    /// Places `parameters` and proves with a trial forward pass of the head that its results are finite.
    ///
    /// # Errors
    /// [`NetworkError`] if there is no room, or if the trial gave NaN or infinity in the device's element type.
    fn place(&self, parameters: Arc<Parameters>) -> Result<PlacedHead, NetworkError>;
}

/// The rows of a batch that one head answers.
pub struct HeadRows<'a> {
    /// The head.
    pub head: &'a PlacedHead,
    /// Indices into the batch.
    pub rows: Vec<usize>,
}

/// The results of one batch.
#[derive(Debug, Default)]
pub struct Outputs {
    /// For each group, its rows' logits one after the other: rows x classes.
    pub logits: Vec<Vec<f32>>,
    /// If asked for, every picture's features: count x features.
    pub features: Option<Vec<f32>>,
}

/// A head's tensors on a device. They are freed when the last owner lets go, which is after its last answer.
pub struct PlacedHead {
    /// K, the length of its rows of logits.
    pub classes: usize,
    tensors: Mutex<Box<dyn Any + Send>>,
    _kept: Option<Box<dyn Any + Send + Sync>>,
}

impl PlacedHead {
    /// Wraps what the network keeps for a head of `classes` outputs.
    pub fn new(classes: usize, tensors: Box<dyn Any + Send>) -> Self {
        Self {
            classes,
            tensors: Mutex::new(tensors),
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

    /// The tensors, for one user at a time: libtorch's are `Send` but not `Sync`.
    pub fn tensors(&self) -> MutexGuard<'_, Box<dyn Any + Send>> {
        self.tensors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PlacedHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlacedHead {{ classes: {} }}", self.classes)
    }
}

/// A forward pass or a placement that failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// libtorch or the device refused; the text is libtorch's first line.
    #[error("the device failed: {0}")]
    Device(String),
    /// Weights that are finite in f32 may overflow in f16.
    #[error("the head's logits are not finite in {0}; try another --precision or smaller weights")]
    NotFinite(String),
    /// A head placed by another kind of network.
    #[error("the head belongs to another network")]
    ForeignHead,
}
