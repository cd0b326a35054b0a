//! The program as its users meet it: real servers, real clients.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cancelled_swaps;
mod connections;
mod documents;
mod durability;
mod feature_cache;
mod isolation;
mod logs;
mod many_heads;
mod operations;
mod refusals;
mod resources;
mod support;
mod torch;
mod unix_socket;
mod uploads;
mod weights;
