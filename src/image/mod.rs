//! Encoded bytes to [`Pixels`], as torchvision's `VGG16_Weights.IMAGENET1K_V1` transforms see a Pillow image converted to
//! RGB: the short side resized to 256 with antialiasing, the middle 224x224 cut out.
//!
//! As in torchvision, the EXIF orientation is not applied, alpha is dropped rather than composited, and of an animation
//! the first frame counts. The room knows nothing of the others.

mod decode;
mod error;
mod jpeg;
mod pixels;
mod raster;
mod resize;

pub use decode::{ImageLimits, decode};
pub use error::ImageError;
pub use pixels::{Pixels, SIDE};
