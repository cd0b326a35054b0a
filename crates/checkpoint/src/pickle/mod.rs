//! A reader of the pickles in which PyTorch saves models: a small stack machine for protocols 2 to 5 that runs no code.
//! It builds plain values and tensors with the functions and classes in `globals.rs`; whatever any other function or
//! class makes is kept as data: its name and its state.

mod array;
mod globals;
mod input;
mod leaf;
mod machine;
mod objects;
mod rebuild;
mod stack;
mod value;

use crate::error::CheckpointError;
pub(super) use globals::QUANTISED;
pub(super) use input::Input;
pub(super) use machine::read;
pub(super) use objects::{Objects, Ref};
pub(super) use rebuild::UNSUPPORTED;
pub(super) use value::{Object, PickledStorage, PickledTensor, Place, Value};

fn malformed(reason: &str) -> CheckpointError {
    CheckpointError::StateDict {
        reason: format!("a pickle that is damaged or not torch.save's ({reason})"),
    }
}
