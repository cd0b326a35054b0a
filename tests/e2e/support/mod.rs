//! Test support: a real server process, and low-level HTTP/2 and gRPC clients.

pub mod fixture_heads;
pub mod program;
pub mod raw_call;
mod server;
pub mod wire;

pub use server::*;
