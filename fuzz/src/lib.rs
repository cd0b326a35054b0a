//! What holds for any bytes that the readers of weights and pictures get: asserted by every fuzz target, and on seeds by tests.

mod allocator;
mod check;
mod check_picture;
mod container;

pub use check::check;
pub use check_picture::check_picture;
pub use container::archive;
