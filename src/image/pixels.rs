//! What the network takes.

use std::fmt;

use super::error::ImageError;

/// The side of a picture that enters the network, in pixels.
pub const SIDE: usize = 224;

/// 224 x 224 x 3 u8: rows from the top, pixels from the left, red, green, blue.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels(Box<[u8]>);

impl Pixels {
    /// How many bytes a picture has.
    pub const BYTES: usize = SIDE * SIDE * 3;

    /// Takes raw pixels as they are.
    ///
    /// # Errors
    /// [`ImageError::PixelsLength`] unless there are exactly [`Pixels::BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImageError> {
        Self::check(bytes.len())?;
        Ok(Self(bytes.into()))
    }

    /// As [`Pixels::from_bytes`], without a copy.
    pub(super) fn from_vec(bytes: Vec<u8>) -> Result<Self, ImageError> {
        Self::check(bytes.len())?;
        Ok(Self(bytes.into()))
    }

    fn check(got: usize) -> Result<(), ImageError> {
        let expected = Self::BYTES;
        if got == expected {
            Ok(())
        } else {
            Err(ImageError::PixelsLength { got, expected })
        }
    }

    /// The bytes, row by row.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Says what it is; 150,528 numbers would help nobody.
impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pixels(224x224x3)")
    }
}
