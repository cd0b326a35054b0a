//! The forward pass on a CPU, by the `winograd` crate.
//!
//! The backbone is packed for speed: convolutions as Winograd's filters, in f32 or 16-bit integers. Heads' own
//! parameters are packed for memory and computed in f32: convolutions directly, Linears in the memory they were read
//! into.

mod accuracy;
mod backend;
mod head;
mod pass;
mod rows;
mod weight;
mod workspace;

pub use backend::native_backend;
