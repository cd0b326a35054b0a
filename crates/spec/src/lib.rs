//! VGG16 as values: its layers, their names and shapes, and its input pictures.

mod architecture;
mod describe;
mod imagenet;
mod picture;
mod step;

pub use architecture::{Architecture, Layer, LayerKind};
pub use describe::describe_layers;
pub use imagenet::imagenet_labels;
pub use picture::{IMAGENET_MEAN, IMAGENET_STD, PICTURE_BYTES, PICTURE_SIDE};
pub use step::Step;

/// The weight of the last Linear, `[classes, features]`. Every head has its own.
pub const LAST_WEIGHT: &str = "classifier.6.weight";
/// The bias of the last Linear, `[classes]`. Every head has its own.
pub const LAST_BIAS: &str = "classifier.6.bias";
