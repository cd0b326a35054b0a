//! Decodes pictures to [`Pixels`]: those that torchvision's `VGG16_Weights.IMAGENET1K_V1` transforms make of
//! `PIL.Image.open(file).convert("RGB")` before they normalise them (short side resized to 256 with antialiasing, middle
//! 224x224 cropped). The pixels are the same bit for bit, and what Pillow refuses is refused; `docs/pictures.md` states the
//! rules and the intended differences. With a [`JpegScaling`] other than `Off`, large JPEGs are decoded approximately.
//!
//! [`open`] reads a header and returns what decoding needs; [`Opened::decode`] has the format's decoder write row by row
//! into the resizer. [`Opened::prepare`] decodes once for any number of [`Preprocessing`](headswap_spec::Preprocessing)s,
//! each with its own resizer, and [`Prepared::normalised`] returns the network's input.

mod axis;
mod bmp;
mod columns;
mod decode;
mod error;
mod fanout;
mod filter;
mod foreign;
mod format;
mod geometry;
mod gif;
mod jpeg;
mod kernel;
mod picture;
mod pixels;
mod plan;
mod png;
mod pointwise;
mod preparation;
mod prepare_all;
mod prepared;
mod resize;
mod scaling;
mod side;
mod sink;
mod webp;

pub use decode::{ImageLimits, ImageSettings, Opened, decode, open};
pub use error::ImageError;
pub use filter::Filter;
pub use picture::{Channels, Shape};
pub use pixels::Pixels;
pub use prepare_all::{memory_to_prepare_all, prepare_all};
pub use prepared::{InputChannel, Prepared};
pub use resize::resize;
pub use scaling::JpegScaling;
pub use side::Side;
