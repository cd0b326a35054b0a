//! The interface of the formats' decoders.

use super::error::ImageError;
use super::sink::RowSink;

/// A file whose header has been read, ready to be decoded.
pub(super) trait Picture {
    /// Returns the size and the channels of the decoded picture.
    fn shape(&self) -> Shape;

    /// Returns an upper bound of the memory that [`Picture::decode`] allocates at any time, in bytes, without the
    /// resizer's.
    fn memory(&self) -> u64;

    /// Has the picture decoded in its whole size, where the settings ask for a part of it.
    fn decode_whole(&mut self) {}

    /// Writes every row to `rows`, from the top.
    ///
    /// # Errors
    /// [`ImageError::Malformed`] where Pillow refuses to load the file.
    fn decode(self: Box<Self>, rows: &mut dyn RowSink) -> Result<(), ImageError>;
}

/// The shape of a decoded picture, before it is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
    /// The bytes of a pixel.
    pub channels: Channels,
}

/// The bytes of one pixel. Channels are resized separately, so that only the pixels of the result are converted to RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// One byte.
    Grey,
    /// Red, green, blue and an unused byte: four are resized faster than three.
    Rgbx,
}

impl Channels {
    /// Returns the bytes of a pixel.
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgbx => 4,
        }
    }
}
