//! Decodes pictures to [`Pixels`]: those that torchvision's `VGG16_Weights.IMAGENET1K_V1` transforms make of
//! `PIL.Image.open(file).convert("RGB")` before they normalise them (short side resized to 256 with antialiasing, middle
//! 224x224 cropped). The pixels are the same bit for bit, and what Pillow refuses is refused; `docs/pictures.md` states the
//! rules and the intended differences. With a [`JpegScaling`] other than `Off`, large JPEGs are decoded approximately.
//!
//! [`open`] reads a header and returns what decoding needs; [`Opened::decode`] has the format's decoder write row by row
//! into the resizer.

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
