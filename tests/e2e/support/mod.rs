//! What the tests share: a real server, and clients that do what no library does.

pub mod program;
pub mod raw_call;
mod server;
pub mod wire;

pub use server::*;
