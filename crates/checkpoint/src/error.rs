//! Why a checkpoint was refused.

use std::io;

use safetensors::Dtype;

use super::format::CheckpointFormat;

/// A file that is no checkpoint, or one that is not trusted. Every text is one line without a path: whoever opened the
/// file adds it.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("cannot read the file: {0}")]
    Read(#[from] io::Error),
    /// Its first bytes are no format's.
    #[error(
        "the file is neither safetensors nor what torch.save writes: {reason}; save model.state_dict() with either"
    )]
    Format {
        /// What it looks like.
        reason: String,
    },
    /// The format is clear, the content contradicts it.
    #[error("the {format} file is damaged: {reason}; fetch it or save it again")]
    Damaged {
        /// As its first bytes say.
        format: CheckpointFormat,
        /// What is wrong.
        reason: String,
    },
    /// The pickle names a function or class that is not among the few that are understood. Nothing was run.
    #[error("the file asks Python to run {name}; that is never done: save model.state_dict() alone and give that file")]
    Global {
        /// As `posix.system`.
        name: String,
    },
    /// No dictionary of tensors, or several.
    #[error("the file holds {reason}; save model.state_dict() alone and give that file")]
    StateDict {
        /// What it holds instead.
        reason: String,
    },
    /// A tensor whose place or shape cannot be.
    #[error("{name} {reason}; save the file again")]
    Tensor {
        /// As the file writes it.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Two names in the file mean the same parameter.
    #[error("the file holds {name} twice, as `{first}` and as `{second}`; leave one of them out")]
    Twice {
        /// What both mean.
        name: String,
        /// The one in the file.
        first: String,
        /// The other.
        second: String,
    },
    /// Integers, booleans, 8-bit floats and the like.
    #[error("{name} has dtype {dtype:?}; F32, F16, BF16 and F64 are accepted")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// NaN or infinity, in the file or after narrowing to f32.
    #[error("{name} holds {value} at element {index}; every weight must be finite")]
    NotFinite {
        /// The tensor.
        name: String,
        /// NaN or an infinity.
        value: f32,
        /// Counted row by row from 0.
        index: usize,
    },
    /// Labels in the metadata that cannot be read.
    #[error("the file's metadata has `labels` that are not a JSON list of strings ({reason})")]
    Labels {
        /// What is wrong.
        reason: String,
    },
}
