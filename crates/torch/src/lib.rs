//! The backend on libtorch, for GPUs, and for CPUs as the reference. Only this crate links libtorch.

mod accelerator;
mod allocator;
mod backend;
mod batch;
mod cuda;
mod device;
mod error;
mod graphs;
mod head;
mod host;
mod input;
mod inputs;
mod lane;
mod last;
mod layers;
mod pass;
mod pictures;
mod placement;
mod rows;
mod runtime;
mod staging;
mod steps;
mod weight;

pub use runtime::LIBTORCH;
