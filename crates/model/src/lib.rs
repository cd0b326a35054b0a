//! VGG16's forward pass: the backbones' weights, batches as tries, and the backends that compute them.
//!
//! A [`Backend`] gets the backbones' parameters at start and places those of heads at any time. [`native_backend`] is
//! our own for CPUs; [`null_backend`] computes nothing; the libtorch backend, in the crate `headswap-torch`, is passed
//! in as a [`TorchRuntime`]. [`open_backend`] chooses among them.

mod backend;
mod demo;
mod devices;
mod host_linear;
mod intern;
mod layers;
mod native;
mod null;
mod open;
mod plan;
mod pooling;
mod prediction;
mod program;
mod settings;
mod stack;
mod threads;
mod walk;
mod weights;

pub use backend::{
    Backend, BackendError, HeadRows, InputRow, Outputs, PlacedHead, Placer, StepCount, StillWanted, WantedInput, placed,
};
pub use demo::{demo_head, demo_head_from, demo_parameters};
pub use devices::on_devices;
pub use host_linear::{HeadProduct, HostLinear};
pub use layers::{apply_affine, apply_layer};
pub use native::native_backend;
pub use null::{NullFault, NullSettings, ParseFaultError, null_backend};
pub use open::{TorchRuntime, open_backend};
pub use plan::{BACKBONES_MAX, StepKey};
pub use pooling::pool_maps;
pub use prediction::{Answered, Prediction};
pub use program::{HeadParts, Operation, ParameterPlacer, Program, ProgramBuilder, check_parameters};
pub use settings::{BackendChoice, BackendSettings, Device, DeviceChoice, Precision};
pub use stack::{Stack, StepParameters};
pub use threads::{THREADS_MAX, ThreadsError, check_threads};
pub use walk::{ExecScratch, LeafRows, Leaves, Stepper, Walked, walk};
pub use weights::{Backbone, WeightsError, WeightsSource};
