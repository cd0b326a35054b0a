//! The backend on libtorch, for GPUs, and for CPUs as the reference. Only this crate links libtorch.

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
