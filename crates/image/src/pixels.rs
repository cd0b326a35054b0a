//! The input of the network.

use std::fmt;

use bytes::Bytes;
use headswap_spec::{PICTURE_BYTES, PICTURE_SIDE};

use super::error::ImageError;
use super::prepared::Prepared;

/// `[224, 224, 3]` u8: rows from the top, pixels from the left, red, green, blue. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels(Bytes);

impl Pixels {
    /// Wraps raw pixels without a copy.
    ///
    /// # Errors
    /// [`ImageError::PixelsLength`] unless there are exactly [`PICTURE_BYTES`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self, ImageError> {
        let got = bytes.len();
        if got == PICTURE_BYTES {
            return Ok(Self(bytes));
        }
        Err(ImageError::PixelsLength {
            got,
            height: PICTURE_SIDE,
            width: PICTURE_SIDE,
        })
    }

    /// Returns the bytes, row by row.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Pixels> for Prepared {
    fn from(pixels: Pixels) -> Self {
        Self::Bytes {
            size: [PICTURE_SIDE; 2],
            values: pixels.0,
        }
    }
}

/// Prints the type and the size instead of 150,528 numbers.
impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pixels(224x224x3)")
    }
}
