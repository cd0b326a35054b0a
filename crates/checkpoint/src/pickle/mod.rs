//! Pickles, as far as state dicts need them: a small stack machine for protocols 2 to 5 that runs no code. It builds
//! plain values, and of the functions and classes a pickle may name it knows the few in `globals.rs`; any other is
//! refused by its name.

mod globals;
mod input;
mod machine;
mod objects;
mod rebuild;
mod stack;

use crate::error::CheckpointError;
pub(super) use machine::read;
pub(super) use objects::{Objects, PickledStorage, PickledTensor, Ref, Value};

/// Bytes of a pickle at most. One of a VGG16 has 5 kB.
pub(super) const PICKLE_BYTES_MAX: usize = 8 * 1024 * 1024;

fn wrong(reason: &str) -> CheckpointError {
    CheckpointError::StateDict {
        reason: format!("a pickle that is damaged or not torch.save's ({reason})"),
    }
}
