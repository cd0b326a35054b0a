//! Why a picture was refused.

use super::pixels::Pixels;

/// Every way for a picture to be wrong; the text is the message that users read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ImageError {
    #[error("the image has 0 bytes; send a JPEG, PNG, WebP, GIF or BMP file")]
    Empty,
    #[error("the image's format is not known by its first bytes; send a JPEG, PNG, WebP, GIF or BMP file")]
    UnknownFormat,
    #[error("the image is {width}x{height} pixels, {pixels_max} pixels are the most; scale it down before sending")]
    TooLarge { width: u64, height: u64, pixels_max: u64 },
    #[error("the {format} image is damaged or cut short: {reason}")]
    Malformed { format: &'static str, reason: String },
    #[error("`pixels` has {0} bytes; 224 x 224 x 3 = {expected} are needed", expected = Pixels::BYTES)]
    PixelsLength(usize),
}
