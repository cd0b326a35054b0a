//! Why a request got no logits, or why there is no engine.

use std::fmt;

use headswap_image::ImageError;
use headswap_model::BackendError;

/// The setting that bounds the memory for decoding.
pub const DECODE_BYTES_MAX: &str = "--decode-bytes-max";

/// What the engine answers instead of logits.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// As many unary calls as allowed are under way.
    #[error("the server is at its limit of requests in flight; retry later")]
    Full,
    /// The picture was refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Decoding the picture takes more memory than there may be in all.
    #[error(
        "decoding the picture takes {needed} bytes, {DECODE_BYTES_MAX} leaves {available} for one; scale it down, or save it neither progressive nor interlaced"
    )]
    PictureTooCostly {
        /// The memory that it takes.
        needed: u64,
        /// The most that one picture may take.
        available: u64,
    },
    /// None of the request's heads is on the device; their source knows why.
    #[error("none of the heads can answer")]
    NoHeads,
    /// The deadline passed.
    #[error("the deadline passed while the request was {0}")]
    Expired(Stage),
    /// The forward pass failed for this request; the engine goes on with the next.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The logits or features have NaN or infinity, which is no answer.
    #[error("the {0} are not finite: this head or picture exceeds the numbers that the device computes in")]
    NotFinite(&'static str),
    /// The device no longer computes.
    #[error("the device no longer computes; send the request to another replica")]
    DeviceLost,
    /// The engine has been shut down.
    #[error("the server is shutting down")]
    Stopped,
}

/// What an admitted request is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stage {
    /// It waits for its turn, before or after decoding.
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

    /// One word, for metrics.
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
        /// The size that was tried.
        max_batch: usize,
        /// What the network said.
        error: BackendError,
    },
    /// A thread panicked.
    #[error("the device's thread ended before it was ready")]
    Ended,
    /// The operating system gives no thread.
    #[error("no thread for the device could be started: {0}")]
    Thread(#[from] std::io::Error),
}
