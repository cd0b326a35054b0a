//! The reasons for which a picture is refused.

/// A picture that is refused. The text is the message that users read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// There are no bytes.
    #[error("the image has 0 bytes; send a JPEG, PNG, WebP, GIF or BMP file")]
    Empty,
    /// The first bytes are those of no known format.
    #[error("the image's first bytes are those of no known format; send a JPEG, PNG, WebP, GIF or BMP file")]
    UnknownFormat,
    /// The bytes are something else, which the text names, with what to do about it.
    #[error("the image is {0}")]
    Foreign(String),
    /// The header announces more pixels than [`ImageLimits`](super::ImageLimits) allows.
    #[error("the image is {width}x{height} pixels, the limit is {pixels_max} pixels; scale it down before sending")]
    TooLarge {
        /// The width in pixels.
        width: u64,
        /// The height in pixels.
        height: u64,
        /// The limit of width times height.
        pixels_max: u64,
    },
    /// The file violates its format, ends early, or uses a part of the format that is not supported.
    #[error("the {format} image is damaged, cut short or of an unusual kind: {reason}; save it again and send that")]
    Malformed {
        /// The format's usual name.
        format: &'static str,
        /// What the decoder found, on one line.
        reason: String,
    },
    /// The number of raw pixels is not that of the network's input.
    #[error(
        "raw pixels have {got} bytes, {} are needed: {height} rows of {width} pixels of red, green, blue",
        height * width * 3
    )]
    PixelsLength {
        /// The bytes received.
        got: usize,
        /// The rows expected.
        height: usize,
        /// The pixels of a row that are expected.
        width: usize,
    },
}

/// Returns the error of a file whose decoder reported `reason`, which is put on one line.
pub(super) fn malformed(format: &'static str, reason: impl ToString) -> ImageError {
    let reason = reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    ImageError::Malformed { format, reason }
}
