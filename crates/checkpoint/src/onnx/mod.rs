//! Reads ONNX graphs: the modules that a VGG16 and its head are, found among the nodes that an exporter wrote.
//!
//! `wire` walks protobuf's wire format, and `model` keeps what says something: nodes, names, and where each tensor's elements
//! are. A generated decoder, such as prost's, would hold whole tensors in memory; ours reads them one by one, later, by their
//! offsets, as those of other formats. `walk` then follows the nodes from the picture to the output: `fold` and `numbers`
//! compute what depends on constants and shapes alone, `pixels` what is done before the first convolution, and
//! `operators`, `channels`, `arithmetic`, `layers` and `pools` find the modules, which `chain` collects. What a graph computes besides is
//! refused by the name of its node. Nothing is run.

mod arithmetic;
mod axes;
mod chain;
mod channels;
mod constant;
mod fold;
mod function;
mod layers;
mod model;
mod numbers;
mod operators;
mod pixels;
mod pools;
mod refusal;
mod tensor;
mod values;
mod walk;
mod wire;

use std::collections::HashMap;

use super::checkpoint::{Headers, LABELS};
use super::error::CheckpointError;
use super::graph::Graph;
use super::source::Source;

use model::Model;
use refusal::{damaged, refused, short};

/// Keys of the metadata that are kept, if their values are JSON.
const METADATA: [&str; 4] = [LABELS, "class_to_idx", "id2label", super::SPEC];
/// Limit of the outputs that one message lists.
const LISTED_MAX: usize = 4;

/// Reads the headers. Of several outputs, `key` chooses one by its name.
pub(super) fn open(source: &Source, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let mut wire = wire::Wire::new(source);
    let model = model::read(&mut wire)?;
    if !model.has_graph || model.nodes.is_empty() {
        return Err(damaged("it has no graph"));
    }
    let (output, selected) = output(&model, key)?;
    let network = walk::walk(&mut wire, &model, &output)?;
    Ok(Headers {
        entries: network.entries,
        metadata: metadata(model.metadata),
        selected,
        modules: network.modules,
        graph: Some(Graph {
            assumed: Vec::new(),
            size: network.size,
            transform: network.transform,
        }),
        ..Headers::default()
    })
}

/// Returns the output, and the key unless it has chosen it.
fn output(model: &Model, key: Option<&str>) -> Result<(String, Option<String>), CheckpointError> {
    if let Some(output) = model.outputs.iter().find(|output| key == Some(output.as_str())) {
        return Ok((output.clone(), None));
    }
    match &model.outputs[..] {
        [] => Err(damaged("it has no output")),
        [output] => Ok((output.clone(), key.map(str::to_owned))),
        several => {
            let listed = several.iter().take(LISTED_MAX);
            let names: Vec<String> = listed.map(|output| format!("`{}`", short(output))).collect();
            let what = format!("has {} outputs, {}", several.len(), names.join(", "));
            Err(refused(
                what,
                "choose one with --tensors NAME, or export the model with one",
            ))
        }
    }
}

fn metadata(mut metadata: HashMap<String, String>) -> HashMap<String, String> {
    metadata.retain(|key, value| METADATA.contains(&key.as_str()) && value.starts_with(['[', '{']));
    metadata
}
