//! Why a picture was refused.

/// Every way for a picture to be wrong; the text is the message that users read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// There are no bytes.
    #[error("the image has 0 bytes; send a JPEG, PNG, WebP, GIF or BMP file")]
    Empty,
    /// The first bytes are those of no format that is read.
    #[error("the image's format is not known by its first bytes; send a JPEG, PNG, WebP, GIF or BMP file")]
    UnknownFormat,
    /// The bytes are something else, which is named with what to do.
    #[error("the image is {0}")]
    Foreign(String),
    /// The header announces more pixels than [`ImageLimits`](super::ImageLimits) allows.
    #[error("the image is {width}x{height} pixels, {pixels_max} pixels are the most; scale it down before sending")]
    TooLarge {
        /// Pixels from left to right.
        width: u64,
        /// Pixels from top to bottom.
        height: u64,
        /// The most pixels allowed, width times height.
        pixels_max: u64,
    },
    /// The file breaks the rules of its format, ends early, or uses a part of the format that is not read.
    #[error("the {format} image is damaged, cut short or of an unusual kind: {reason}; save it anew and send that")]
    Malformed {
        /// The format's usual name.
        format: &'static str,
        /// What the decoder met, on one line.
        reason: String,
    },
    /// Raw pixels were sent, but not as many as the network takes.
    #[error("raw pixels have {got} bytes, {expected} are needed: 224 rows of 224 pixels of red, green, blue")]
    PixelsLength {
        /// The bytes that came.
        got: usize,
        /// The bytes that should have come, [`headswap_spec::PICTURE_BYTES`].
        expected: usize,
    },
}

/// The error of a file whose decoder said `reason`, which is put on one line.
pub(super) fn malformed(format: &'static str, reason: impl ToString) -> ImageError {
    let reason = reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    ImageError::Malformed { format, reason }
}
