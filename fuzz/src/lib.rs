//! The readers of `src/model/checkpoint` and `src/image`, built from their own files but without the rest of the crate, so
//! that neither building nor starting a target needs libtorch; and what every target asserts.

#![allow(
    dead_code,
    unused_imports,
    missing_docs,
    reason = "a part of a room stands for the whole"
)]

mod allocator;
mod check;
mod check_picture;
mod container;

#[path = "../../src/image/mod.rs"]
pub mod image;
mod model;

pub use check::check;
pub use check_picture::check_picture;
pub use container::archive;
