//! Weights in files and in memory: safetensors files, and what PyTorch saves (state dicts, whole models, training
//! scripts' dictionaries, TorchScript archives), detected by their content.
//!
//! A file's claims are checked against its length before memory is allocated for them. Opening a file allocates at most
//! 16 MiB beyond the bytes read; reading a tensor allocates the tensor and, for a file, one block. No code in a file is
//! run.

mod candidate;
mod checkpoint;
mod chunks;
mod cursor;
mod digest;
mod entry;
mod error;
mod fit;
mod foreign;
mod format;
mod gather;
mod graph;
mod hdf5;
mod head;
mod keras;
mod label_lists;
mod module;
mod module_kind;
mod module_tree;
mod names;
mod network;
mod onnx;
mod pickle;
mod pixels;
mod plain_pickle;
mod safetensors;
mod scatter;
mod source;
mod sparse;
mod state_dict;
mod stream;
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
pub use graph::Graph;
#[doc(hidden)]
pub use hdf5::Hdf5Listing;
pub use head::{
    Finding, HeadFileError, HeadOptions, HeadPolicy, HeadReport, InspectedModule, Inspection, IsDropped, Missing,
    NormalHead, SPEC, compose_preprocessing, inspect_head, inspect_head_with, read_backbone, read_head, read_head_for,
    stored_spec, write_head,
};
pub use label_lists::from_json as labels_from_json;
pub use module::{Module, ModuleKind};
pub use names::Naming;
pub use tensor::{HostTensor, Parameters};
pub use text::excerpt;
pub use throttle::{NICENESS, Throttle, lower_priority};
pub use writer::{ConvertError, StoredDtype, safetensors_bytes, safetensors_header, write_safetensors};
