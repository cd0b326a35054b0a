//! End-to-end tests: the real program with real clients.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bench_command;
mod cancelled_swaps;
mod classify_command;
mod connections;
mod coverage;
mod doctor;
mod documents;
mod durability;
mod embed_command;
mod feature_cache;
mod head_commands;
mod isolation;
mod keras;
mod logs;
mod many_heads;
mod operations;
mod refusals;
mod replace_command;
mod resources;
mod several_backbones;
mod specs;
mod support;
mod torch;
mod unix_socket;
mod uploads;
mod weights;
