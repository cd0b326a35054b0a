//! The forward pass on libtorch: the reference, for the CPU and for CUDA. The only crate that links libtorch.

mod accelerator;
mod allocator;
mod backend;
mod cuda;
mod device;
mod error;
mod graphs;
mod head;
mod input;
mod lane;
mod last;
mod placement;
mod runtime;
mod steps;

pub use runtime::LIBTORCH;
