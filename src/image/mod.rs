//! Encoded bytes to [`Pixels`], as torchvision's `VGG16_Weights.IMAGENET1K_V1` transforms see
//! `PIL.Image.open(file).convert("RGB")` before they normalise it: the short side resized to 256 with antialiasing, the
//! middle 224x224 cut out. `scripts/parity/images.py` computes the references that `tests/image.rs` compares with.
//!
//! What Pillow and torchvision do, this room does too, also where one may not expect it:
//! - The EXIF orientation is not applied: a photograph that is stored lying on its side is classified lying on its side.
//! - Alpha is dropped, not composited; transparent pixels show the colour stored beneath.
//! - Of an animation the first frame counts.
//! - 16-bit colour keeps the high byte, but 16-bit grey without alpha is clipped at 255 (Pillow's mode `I;16`).
//! - Gamma and colour profiles are not applied.
//!
//! Where Pillow shows what it can of a damaged file, this room refuses it: a checksum or a code that is wrong is an error.
//! With a [`JpegScaling`] other than `Off`, large JPEGs only come near. The room knows nothing of the others.

mod axis;
mod bmp;
mod columns;
mod decode;
mod error;
mod filter;
mod foreign;
mod format;
mod gif;
mod jpeg;
mod kernel;
mod picture;
mod pixels;
mod png;
mod resize;
mod scaling;
mod webp;

pub use decode::{ImageLimits, ImageSettings, Opened, decode, open};
pub use error::ImageError;
pub use filter::Filter;
pub use picture::{Channels, Shape};
pub use pixels::{Pixels, SIDE};
pub use resize::{Side, resize};
pub use scaling::JpegScaling;
