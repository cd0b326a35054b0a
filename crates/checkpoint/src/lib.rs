//! Weights in files and in memory: safetensors files and PyTorch's `.pth`, told apart by their content.
//!
//! A file's claims are checked against its length before memory is allocated for them: opening one takes at most 16 MiB
//! beyond what is read of it, and reading a tensor takes the tensor and, of a file, one block. Nothing in a file is run.

mod checkpoint;
mod cursor;
mod digest;
mod entry;
mod error;
mod fit;
mod format;
mod names;
mod pickle;
mod safetensors;
mod source;
mod state_dict;
mod tensor;
mod text;
mod throttle;
mod torch_legacy;
mod torch_zip;
mod writer;
mod zip;

pub use checkpoint::{Checkpoint, LABELS};
pub use digest::Digest;
pub use entry::TensorEntry;
pub use error::CheckpointError;
pub use fit::{Misfit, fit_backbone, fit_head};
pub use format::CheckpointFormat;
pub use names::Naming;
pub use tensor::{HostTensor, Parameters};
pub use text::excerpt;
pub use throttle::{NICENESS, Throttle, lower_priority};
pub use writer::{ConvertError, StoredDtype, safetensors_bytes, safetensors_header, write_safetensors};
