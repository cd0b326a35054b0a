//! The readers of `src/model/checkpoint`, built from their own files but without the rest of the crate, so that neither
//! building nor starting a target needs libtorch; and what every target asserts.

#![allow(
    dead_code,
    unused_imports,
    missing_docs,
    reason = "a part of a room stands for the whole"
)]

mod allocator;
mod check;
mod container;

mod model;

pub use check::check;
pub use container::archive;
