//! What the decoders of all formats have in common.

use super::error::ImageError;
use super::resize::Resizer;

/// A file whose header was read: a decoder that has not begun.
pub(super) trait Picture {
    /// The size and the kind of its rows.
    fn shape(&self) -> Shape;

    /// The most bytes of memory that [`Picture::decode`] takes at one time, the resizer's apart; rather too many than too
    /// few.
    fn memory(&self) -> u64;

    /// Writes every row to `rows`, from the top.
    ///
    /// # Errors
    /// [`ImageError::Malformed`] where Pillow refuses to load the file.
    fn decode(self: Box<Self>, rows: &mut Resizer) -> Result<(), ImageError>;
}

/// Of a decoded picture, before it is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// What its bytes are.
    pub channels: Channels,
}

/// What the bytes of one pixel are. Resizing treats each channel alone, so that 224x224 pixels rather than all of them are
/// turned to RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// One byte.
    Grey,
    /// Red, green, blue and an unused byte: four are resized faster than three.
    Rgbx,
}

impl Channels {
    /// Bytes of a pixel.
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgbx => 4,
        }
    }
}
