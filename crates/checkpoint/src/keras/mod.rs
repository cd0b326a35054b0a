//! Reads what Keras saves: `.h5` of Keras 2 and 3, `.keras`, and files of weights alone. Nothing in them is run.
//!
//! `config` reads a model's configuration. `network` follows it from the picture to the output with the help of `picture`,
//! `preprocess_input` and `normalization` (what comes before the convolutions) and of `layer` and `map_history` (what comes
//! after). `variables` and `entry` find the layers' numbers, and `weights` reads files without a configuration.

mod config;
mod entry;
mod layer;
mod map_history;
mod network;
mod normalization;
mod picture;
mod preprocess_input;
mod variables;
mod weights;

use self::network::File;
use self::variables::Variables;
use super::checkpoint::Headers;
use super::entry::{Encoding, Storage};
use super::error::CheckpointError;
use super::format::CheckpointFormat;
use super::gather;
use super::hdf5::{Attribute, Hdf5};
use super::source::Source;
use super::text::excerpt;
use super::zip::Archive;

/// The entries of a `.keras` archive.
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.weights.h5";
/// The group of a model's weights in an `.h5` file.
const MODEL_WEIGHTS: &str = "model_weights";

/// Opens an HDF5 file.
pub(super) fn open(source: &Source, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let whole = Storage {
        start: 0,
        bytes: source.length(),
        encoding: Encoding::default(),
    };
    let file = Hdf5::open(source, &whole)?;
    let root = match attribute(&file, MODEL_WEIGHTS, "layer_names") {
        Some(_) => MODEL_WEIGHTS,
        None => "",
    };
    match attribute(&file, "", "model_config") {
        Some(Attribute::Text(config)) => {
            let variables = Variables::Named { file: &file, root };
            headers(config.as_bytes(), File { variables, source }, key)
        }
        _ => weights::headers(&file, root, key),
    }
}

/// Opens a `.keras` archive.
pub(super) fn open_archive(source: &Source, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let archive = Archive::open(source)?;
    let locate = |name: &str| {
        let found = archive.locate(source, name)?;
        found.ok_or_else(|| CheckpointError::Damaged {
            format: CheckpointFormat::KerasZip,
            reason: format!("it lacks {name}"),
        })
    };
    let config = locate(CONFIG)?;
    let mut json = Vec::new();
    // What is too long is cut off, and refused for its length.
    let length = config.bytes.min(config::BYTES_MAX as u64 + 1);
    gather::decode_blocks(source, config.start, config.encoding, length, |block| {
        json.extend_from_slice(block);
    })?;
    let file = Hdf5::open(source, &locate(WEIGHTS)?)?;
    let variables = Variables::Numbered { file: &file };
    headers(&json, File { variables, source }, key)
}

/// Returns true if a zip archive is Keras's.
pub(super) fn is_archive(archive: &Archive) -> bool {
    [CONFIG, WEIGHTS]
        .iter()
        .all(|name| archive.names().any(|entry| entry == *name))
}

/// An attribute of a group.
fn attribute<'a>(file: &'a Hdf5, group: &str, name: &str) -> Option<&'a Attribute> {
    let mut attributes = file.attributes(group).iter();
    attributes.find(|(own, _)| own == name).map(|(_, value)| value)
}

/// The paths of the groups in a group.
fn groups_in<'a>(file: &'a Hdf5, group: &str) -> Vec<&'a str> {
    let is_in = |path: &str| {
        path.strip_prefix(group)
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|rest| !rest.contains('/'))
    };
    file.groups()
        .iter()
        .map(|group| group.path.as_str())
        .filter(|path| is_in(path))
        .collect()
}

fn headers(config: &[u8], file: File<'_>, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let mut network = network::read(&config::read(config)?, file)?;
    if let Some(graph) = &mut network.graph {
        graph.assumed = network.assumed;
    }
    Ok(Headers {
        entries: network.entries,
        modules: network.modules,
        graph: network.graph,
        selected: key.map(str::to_owned),
        ..Headers::default()
    })
}

fn refused(layer: &str, reason: &str) -> CheckpointError {
    CheckpointError::Layer {
        name: excerpt(layer),
        reason: reason.to_owned(),
    }
}
