//! What the network takes.

use std::fmt;

use bytes::Bytes;

use super::error::ImageError;

/// The side of a picture that enters the network, in pixels.
pub const SIDE: usize = 224;

/// 224 x 224 x 3 u8: rows from the top, pixels from the left, red, green, blue. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels(Bytes);

impl Pixels {
    /// How many bytes a picture has.
    pub const BYTES: usize = SIDE * SIDE * 3;

    /// Takes raw pixels as they are, without a copy.
    ///
    /// # Errors
    /// [`ImageError::PixelsLength`] unless there are exactly [`Pixels::BYTES`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self, ImageError> {
        let (got, expected) = (bytes.len(), Self::BYTES);
        if got == expected {
            Ok(Self(bytes))
        } else {
            Err(ImageError::PixelsLength { got, expected })
        }
    }

    /// The bytes, row by row.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The type and size alone, instead of 150,528 numbers.
impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pixels(224x224x3)")
    }
}
