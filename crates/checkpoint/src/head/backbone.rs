//! The parameters of a file that are VGG16's own.

use std::sync::Arc;

use headswap_spec::{Architecture, HeadInput, Step};

use super::error::HeadFileError;
use super::fold::Join;
use super::network::channels;
use super::normal::{HeadOptions, HeadReport, read_head};
use super::plan::Plan;
use super::policy::Kept;
use super::values::Reader;
use crate::{Checkpoint, HostTensor, Parameters, Throttle};

/// Reads a whole VGG16 of any form: the parameters under torchvision's names, the last Linear's included.
///
/// # Errors
/// As [`read_head`], and [`HeadFileError::Incomplete`] for a file that lacks a parameter.
pub fn read_backbone(
    checkpoint: &Checkpoint,
    architecture: Architecture,
    throttle: &Throttle,
) -> Result<Parameters, HeadFileError> {
    let options = HeadOptions {
        architecture,
        spec: None,
        labels: &[],
        throttle,
    };
    let head = read_head(checkpoint, &options)?;
    for (name, _) in architecture.parameters(head.rows) {
        if !head.parameters.contains_key(&name) {
            return Err(HeadFileError::Incomplete { name });
        }
    }
    Ok(head.parameters)
}

/// Returns a line on the layers, weights and biases that the file lacks after one that it has: the server's backbone computes them. A head that is
/// alone, or that begins in the middle of the network, lacks none.
pub(super) fn lacked(plan: &Plan<'_>, input: HeadInput) -> Option<String> {
    let mut has_any = false;
    let mut lacked = Vec::new();
    for step in plan.architecture.steps() {
        let [weight, bias] = has(plan, &step);
        let counts = step.is_convolution() || input == HeadInput::Features;
        has_any |= weight || bias;
        if !(counts && has_any) {
            continue;
        }
        match (weight, bias) {
            (true, true) => {}
            (true, false) => lacked.push(step.bias()),
            (false, true) => lacked.push(step.weight()),
            (false, false) => lacked.push(step.name),
        }
    }
    (!lacked.is_empty()).then(|| format!("{}: the backbone's, as the file lacks them", lacked.join(", ")))
}

/// Returns a line on the layers of a whole network without a bias, if others have one: theirs counts as zeros.
pub(super) fn without_bias(plan: &Plan<'_>) -> Option<String> {
    let convolutions = plan.network.convolutions.iter();
    let mut layers: Vec<(&str, usize)> = convolutions
        .filter(|c| plan.network.whole && c.norm.is_none())
        .map(|c| (c.name.as_str(), c.part))
        .collect();
    layers.extend(plan.found.features.iter().filter(|_| plan.network.whole));
    let count = layers.len();
    layers.retain(|(_, part)| plan.parts[*part].bias.is_none());
    let names: Vec<String> = layers.iter().map(|(name, _)| format!("{name}.bias")).collect();
    (!names.is_empty() && names.len() < count).then(|| format!("{}: zeros, as the file lacks them", names.join(", ")))
}

/// Whether the head computes a layer of VGG16 with a weight and a bias of its file. A whole network's layers without a bias
/// have none.
fn has(plan: &Plan<'_>, step: &Step) -> [bool; 2] {
    let convolution = plan.network.convolutions.iter().find(|c| c.name == step.name);
    let linear = plan.found.features.iter().find(|(name, _)| *name == step.name);
    let part = convolution.map(|c| c.part).or(linear.map(|(_, index)| *index));
    let is_alone = plan.alone.iter().any(|(name, _)| *name == step.bias());
    match part {
        Some(part) => [true, plan.network.whole || plan.parts[part].bias.is_some() || is_alone],
        None => [false, is_alone],
    }
}

/// Reads the convolutions, with their batch norms, and the Linears that compute `features`.
pub(super) fn read_parameters(
    plan: &Plan<'_>,
    reader: &Reader<'_>,
    kept: &mut Kept<'_>,
    report: &mut HeadReport,
) -> Result<(), HeadFileError> {
    let mut is_eps_assumed = false;
    for convolution in &plan.network.convolutions {
        let part = &plan.parts[convolution.part];
        let norm = match convolution.norm {
            None => None,
            Some(index) => {
                let norm = &plan.parts[index];
                let eps = plan.modules.eps(norm.path);
                is_eps_assumed |= eps.is_none() && norm.running_var.is_some();
                let usual = plan.framework.batch_norm_eps();
                Some(reader.batch_norm(norm, eps.unwrap_or(usual))?)
            }
        };
        let weight = reader.weight(part)?;
        let rows = part.weight.map_or(0, |weight| weight.entry().shape[0]);
        let bias = reader.bias(part, rows)?;
        let join = Join {
            before: None,
            after: norm.as_ref(),
            part,
            throttle: reader.throttle,
        };
        let (weight, bias) = join.apply(weight, bias)?;
        let shape = part.weight.map_or_else(Vec::new, |weight| weight.entry().shape.clone());
        insert(kept, &convolution.name, (shape, weight));
        if part.bias.is_some() || plan.network.whole {
            insert_bias(kept, &convolution.name, bias);
        }
    }
    if is_eps_assumed {
        let (eps, framework) = (plan.framework.batch_norm_eps(), plan.framework.name());
        report.assumed.push(format!(
            "the convolutions' batch norms: eps {eps}, {framework}'s default"
        ));
    }
    for (name, index) in &plan.found.features {
        let part = &plan.parts[*index];
        let (input, output) = part.linear().unwrap_or_default();
        let weight = match part.weight {
            Some(weight) if plan.found.is_channels_last && input != plan.architecture.features() => {
                let map = [7, 7, channels(plan.architecture)];
                let entry = weight.entry().with_columns_channels_first(map);
                reader.checkpoint.read_throttled(&entry, reader.throttle)?.values
            }
            _ => reader.weight(part)?,
        };
        insert(kept, name, (vec![output, input], weight));
        if part.bias.is_some() || plan.network.whole {
            insert_bias(kept, name, reader.bias(part, output)?);
        }
    }
    for (name, entry) in &plan.alone {
        let tensor = reader.checkpoint.read_throttled(entry, reader.throttle)?;
        kept.insert(name.clone(), Arc::new(tensor));
    }
    Ok(())
}

fn insert(kept: &mut Kept<'_>, layer: &str, (shape, values): (Vec<usize>, Vec<f32>)) {
    kept.insert(format!("{layer}.weight"), Arc::new(HostTensor::new(shape, values)));
}

fn insert_bias(kept: &mut Kept<'_>, layer: &str, values: Vec<f32>) {
    let tensor = HostTensor::new(vec![values.len()], values);
    kept.insert(format!("{layer}.bias"), Arc::new(tensor));
}
