//! A reader of the pickles in which PyTorch saves state dicts: a small stack machine for protocols 2 to 5 that runs no
//! code. It builds plain values and supports only the functions and classes in `globals.rs`; the error for any other
//! names it.

mod globals;
mod input;
mod machine;
mod objects;
mod rebuild;
mod stack;

use crate::error::CheckpointError;
pub(super) use machine::read;
pub(super) use objects::{Objects, PickledStorage, PickledTensor, Ref, Value};

/// Limit of the bytes of a pickle. A VGG16's has 5 kB.
pub(super) const PICKLE_BYTES_MAX: usize = 8 * 1024 * 1024;

fn malformed(reason: &str) -> CheckpointError {
    CheckpointError::StateDict {
        reason: format!("a pickle that is damaged or not torch.save's ({reason})"),
    }
}
