//! Headswap serves image classification over gRPC from one VGG16 backbone and any number of fine-tuned heads, and
//! replaces a head while traffic flows.
//!
//! # Rooms
//! `main → cli → server → rpc → service → {heads, engine, image} → model`; arrows point one way. `ARCHITECTURE.md` has the map.

pub mod cli;
pub mod engine;
pub mod heads;
pub mod image;
pub mod model;
pub mod rpc;
pub mod server;
pub mod service;
