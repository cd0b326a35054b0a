//! The errors of requests and of the engine's start.

use std::fmt;

use headswap_image::ImageError;
use headswap_model::BackendError;

/// The setting that limits the memory for decoding.
pub const DECODE_BYTES_MAX: &str = "--decode-bytes-max";

/// A request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The limit of unary calls in flight is reached.
    #[error("the server is at its limit of requests in flight; retry later")]
    Full,
    /// The picture was refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The raw pixels are those of another size than the head's pictures.
    #[error(
        "the raw pixels are not those of this head's pictures: {height} rows of {width} pixels of red, green, blue"
    )]
    PixelsOfAnotherSize {
        /// The rows of the head's pictures.
        height: usize,
        /// The pixels of a row.
        width: usize,
    },
    /// The head was replaced by one of another spec while the request waited for it.
    #[error("the head was replaced by one whose pictures are prepared otherwise while the request waited; retry")]
    HeadChanged,
    /// Decoding the picture takes more memory than the limit of one picture.
    #[error(
        "decoding the picture takes {needed} bytes, {DECODE_BYTES_MAX} leaves {available} for one; scale it down, save it \
         without progressive or interlaced coding, or ask for fewer heads in one request"
    )]
    PictureTooCostly {
        /// The bytes that it takes.
        needed: u64,
        /// The limit of one picture, in bytes.
        available: u64,
    },
    /// None of the request's heads could be pinned; their [`HeadSource`](crate::HeadSource) has the errors.
    #[error("none of the heads can answer")]
    NoHeads,
    /// The deadline passed.
    #[error("the deadline passed while the request was {0}")]
    Expired(Stage),
    /// The forward pass failed for this request; the engine continues with others.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The logits or features contain NaN or infinity.
    #[error("the {0} are not finite: this head or picture exceeds the range of the device's numbers")]
    NotFinite(&'static str),
    /// The device no longer computes.
    #[error("the device no longer computes; send the request to another replica")]
    DeviceLost,
    /// The engine has been shut down.
    #[error("the server is shutting down; send the request to another replica")]
    Stopped,
}

/// The stage of an admitted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stage {
    /// It waits to be scheduled, before or after decoding.
    Waiting,
    /// Its heads are being loaded.
    Loading,
    /// Its picture is being decoded.
    Decoding,
    /// Its batch is being computed.
    Computing,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Loading, Self::Decoding, Self::Computing];

    /// Returns the stage as one word, for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Loading => "loading",
            Self::Decoding => "decoding",
            Self::Computing => "computing",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting for its turn",
            Self::Loading => "waiting for a head to be loaded",
            Self::Decoding => "decoding its picture",
            Self::Computing => "computing",
        })
    }
}

/// The engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The network could not be prepared.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The largest batch does not run.
    #[error("a batch of {max_batch} pictures, which --max-batch allows, fails: {error}; lower --max-batch")]
    MaxBatch {
        /// That size.
        max_batch: usize,
        /// The network's error.
        error: BackendError,
    },
    /// A thread panicked.
    #[error("the device's thread ended before it was ready")]
    Ended,
    /// A thread could not be started.
    #[error("cannot start a thread for the device: {0}")]
    Thread(#[from] std::io::Error),
}
