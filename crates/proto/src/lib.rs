//! The messages, clients and servers that are generated from `proto/headswap/v1`.

#![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]

mod uploaded;

tonic::include_proto!("headswap.v1");

/// The services' descriptors, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/headswap_descriptor.bin"));
