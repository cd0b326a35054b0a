//! End-to-end tests: the real program with real clients.

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
mod support;
mod torch;
mod unix_socket;
mod uploads;
mod weights;
