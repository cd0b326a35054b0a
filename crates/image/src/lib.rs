//! Encoded bytes to [`Pixels`], as torchvision's `VGG16_Weights.IMAGENET1K_V1` transforms see
//! `PIL.Image.open(file).convert("RGB")` before they normalise it: the short side resized to 256 with antialiasing, the
//! middle 224x224 cut out. Bit for bit, and what Pillow refuses is refused; `docs/pictures.md` states the rules and where we
//! differ on purpose. With a [`JpegScaling`] other than `Off`, large JPEGs only come near.
//!
//! [`open`] reads a header and tells what decoding takes; [`Opened::decode`] has the format's decoder write rows into the
//! resizer, one by one.

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
mod pointwise;
mod resize;
mod scaling;
mod webp;

pub use decode::{ImageLimits, ImageSettings, Opened, decode, open};
pub use error::ImageError;
pub use filter::Filter;
pub use picture::{Channels, Shape};
pub use pixels::Pixels;
pub use pointwise::{resize_opencv, resize_tensorflow};
pub use resize::{Side, resize};
pub use scaling::JpegScaling;
