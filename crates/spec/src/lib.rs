//! VGG16 and its heads as values: the layers, their names and shapes, how pictures are prepared, and what a head's numbers
//! do not say.

mod architecture;
mod bounded;
mod channel_transform;
mod complete_spec;
mod describe;
mod error;
mod head_layer;
mod head_spec;
mod imagenet;
mod object;
mod partial_spec;
mod picture;
mod preprocessing;
mod preset;
mod spec_draft;
mod step;

pub use architecture::{Architecture, Layer, LayerKind};
pub use channel_transform::ChannelTransform;
pub use complete_spec::CompleteSpec;
pub use describe::{describe_backbone, describe_layers};
pub use error::SpecError;
pub use head_layer::{Framework, GeluKind, HeadLayer};
pub use head_spec::{HeadInput, HeadSpec, LABEL_BYTES_MAX, LABELS_MAX, LAYERS_MAX, Output, SPEC_BYTES_MAX};
pub use imagenet::imagenet_labels;
pub use partial_spec::PartialSpec;
pub use picture::{IMAGENET_MEAN, IMAGENET_STD, PICTURE_BYTES, PICTURE_SIDE};
pub use preprocessing::{ChannelOrder, Preprocessing, Resize, ResizeFilter, SIDE_MAX, SIDE_MIN, ValueRange};
pub use preset::Preset;
pub use spec_draft::SpecDraft;
pub use step::Step;

/// The weight of the last Linear, `[classes, features]`. Every head has its own.
pub const LAST_WEIGHT: &str = "classifier.6.weight";
/// The bias of the last Linear, `[classes]`. Every head has its own.
pub const LAST_BIAS: &str = "classifier.6.bias";
