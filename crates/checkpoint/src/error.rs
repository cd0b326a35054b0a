//! The reasons for which a checkpoint is refused.

use std::io;

use safetensors::Dtype;

use super::format::CheckpointFormat;

/// A file that is not a checkpoint, or one that is not trusted. Every message is one line without the path, which the
/// caller adds.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system returned an error.
    #[error("cannot read the file: {0}")]
    Read(#[from] io::Error),
    /// The first bytes are not those of any supported format.
    #[error(
        "the file is neither safetensors nor what torch.save or Keras writes: {reason}; save model.state_dict(), or a Keras \
         model with model.save(\"model.keras\")"
    )]
    Format {
        /// What the file looks like.
        reason: String,
    },
    /// The file is something else that people take for weights.
    #[error("the file is {what}: {remedy}")]
    Other {
        /// What it is.
        what: &'static str,
        /// How to get the weights.
        remedy: &'static str,
    },
    /// The first bytes are those of a format that the rest contradicts.
    #[error("the {format} file is damaged: {reason}; fetch it or save it again")]
    Damaged {
        /// The format, by the first bytes.
        format: CheckpointFormat,
        /// What is wrong.
        reason: String,
    },
    /// The network, or a tensor of it, is what a function returns that is not one of the few supported. Nothing was run.
    #[error("the file asks Python to run {name}; that is never done: save model.state_dict() alone and give that file")]
    Global {
        /// The full name, for example `posix.system`.
        name: String,
    },
    /// Several dictionaries or modules could be the network.
    #[error("the file holds several networks, under the keys {keys}; choose one with --tensors KEY")]
    Several {
        /// The keys, each quoted.
        keys: String,
    },
    /// A tensor has no numbers, or not in a form that is read.
    #[error("{name} {reason}")]
    Unreadable {
        /// The name in the file.
        name: String,
        /// What is wrong, and the remedy.
        reason: String,
    },
    /// A graph of nodes computes something that is not read.
    #[error("the network in the file {what}; {remedy}")]
    Graph {
        /// What it computes or lacks.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The file holds no dictionary of tensors.
    #[error("the file holds {reason}; save model.state_dict() alone and give that file")]
    StateDict {
        /// What it holds instead.
        reason: String,
    },
    /// A Keras file that has no network, or none that is read.
    #[error("the Keras file cannot be read: {reason}")]
    Keras {
        /// What it has, and the remedy.
        reason: String,
    },
    /// A layer of the network that a file describes computes what heads and VGG16 do not.
    #[error("the layer {name} {reason}")]
    Layer {
        /// Its name in the file.
        name: String,
        /// What is wrong, and the remedy.
        reason: String,
    },
    /// A tensor's shape or storage is impossible.
    #[error("{name} {reason}; save the file again")]
    Tensor {
        /// The name in the file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Two names in the file mean the same parameter.
    #[error(
        "the file holds {name} twice, as `{first}` and as `{second}`; leave one of them out, or choose a network with --tensors KEY"
    )]
    Twice {
        /// The parameter.
        name: String,
        /// The first name in the file.
        first: String,
        /// The second name in the file.
        second: String,
    },
    /// The elements are integers, booleans, 8-bit floats or of another type that is not accepted.
    #[error("{name} has dtype {dtype:?}; F32, F16, BF16 and F64 are accepted")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// A value is NaN or infinite, in the file or once converted to f32.
    #[error("{name} holds {value} at element {index}; every weight must be finite")]
    NotFinite {
        /// The tensor.
        name: String,
        /// NaN or an infinity.
        value: f32,
        /// The element's index in row-major order, from 0.
        index: usize,
    },
    /// A number of double precision that single precision does not have.
    #[error(
        "{name} holds {value} at element {index} once its F64 is converted to f32, whose largest number is 3.4e38; every \
         weight must be finite there"
    )]
    BeyondSingle {
        /// The tensor.
        name: String,
        /// An infinity.
        value: f32,
        /// The element's index in row-major order, from 0.
        index: usize,
    },
    /// The labels in the metadata are not a JSON list of strings.
    #[error("the file's metadata has `labels` that are not a JSON list of strings ({reason})")]
    Labels {
        /// What is wrong.
        reason: String,
    },
}
