//! VGG16: its layers as data, its weights from files, and its forward pass on a device.
//!
//! The room knows nothing of gRPC, of tokio or of head names. A file of weights becomes [`Parameters`]; a
//! [`Network`] takes those of the backbone at start and places those of heads at any time.

mod architecture;
mod checkpoint;
mod convert;
mod demo;
mod describe;
mod devices;
mod digest;
mod fit;
mod host_linear;
mod memory;
mod native;
mod network;
mod null;
mod pace;
mod plan;
mod prediction;
mod settings;
mod stack;
mod step;
mod tensor;
mod torch;
mod walk;
mod weights;

pub use architecture::{Architecture, Layer, LayerKind};
pub use checkpoint::{Checkpoint, CheckpointError, CheckpointFormat, Naming, TensorEntry};
pub use convert::{ConvertError, StoredDtype, safetensors_bytes, write_safetensors};
pub use demo::{demo_head, demo_head_from, demo_parameters};
pub use describe::describe_layers;
pub use digest::Digest;
pub use fit::{Misfit, fit_backbone, fit_head};
pub use network::{HeadRows, Network, NetworkError, Outputs, PlacedHead, Placer, StepCount, StillWanted};
pub use null::{NullFault, NullSettings, ParseFaultError, null_network};
pub use pace::{NICENESS, breathe, give_way, paced, waited};
pub use prediction::{Prediction, top_k};
pub use settings::{DeviceChoice, EngineChoice, NetworkSettings, Precision, network};
pub use step::Step;
pub use tensor::{HostTensor, Parameters};
pub use weights::{Backbone, WeightsError, WeightsSource};

/// The parameters that every head overrides: the last Linear's.
pub const LAST_WEIGHT: &str = "classifier.6.weight";
/// See [`LAST_WEIGHT`].
pub const LAST_BIAS: &str = "classifier.6.bias";
