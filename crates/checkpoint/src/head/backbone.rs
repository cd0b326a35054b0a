//! The parameters of a file that are VGG16's own.

use std::sync::Arc;

use headswap_spec::{Architecture, HeadInput, HeadLayer, LAST_BIAS, LAST_WEIGHT, Output, Step};

use super::error::HeadFileError;
use super::fold::Join;
use super::found::Found;
use super::modules::Modules;
use super::network::{self, architecture_name, channels};
use super::normal::{HeadOptions, HeadReport, NormalHead, read_head};
use super::part;
use super::plan::Plan;
use super::policy::{HeadPolicy, Kept};
use super::values::Reader;
use crate::{Checkpoint, HostTensor, Parameters, Throttle};

/// Reads a VGG16 of any form as a backbone: the parameters of its convolutions under torchvision's names and, where its
/// classifier is VGG16's, those of `classifier.0` and `classifier.3`, and of a last Linear that follows them. A file without a
/// classifier, or with one of another shape, is a backbone without Linears.
///
/// # Errors
/// [`HeadFileError`] if the file has not all convolutions of this architecture, or if they cannot be read.
pub fn read_backbone(
    checkpoint: &Checkpoint,
    architecture: Architecture,
    throttle: &Throttle,
) -> Result<Parameters, HeadFileError> {
    let plan = convolutions(checkpoint, architecture)?;
    let options = HeadOptions {
        architecture,
        spec: None,
        labels: &[],
        throttle,
    };
    // A classifier that is not understood is left out, so that the convolutions can be served.
    if let Ok(head) = read_head(checkpoint, &options) {
        return Ok(with_known_linears(head, architecture));
    }
    let reader = Reader { checkpoint, throttle };
    let mut kept = Kept {
        policy: HeadPolicy::default(),
        throttle,
        parameters: Parameters::new(),
    };
    read_parameters(&plan, &reader, &mut kept, &mut HeadReport::default())?;
    Ok(kept.parameters)
}

/// Returns the plan of a file's convolutions alone.
fn convolutions(checkpoint: &Checkpoint, architecture: Architecture) -> Result<Plan<'_>, HeadFileError> {
    let modules = Modules::new(checkpoint.modules(), checkpoint.graph().is_some());
    let parts = part::parts(checkpoint, &modules)?;
    let network = network::find(&parts, &modules)?;
    if let Some(found) = network.architecture.filter(|found| *found != architecture) {
        return Err(HeadFileError::Architecture {
            found: architecture_name(found).to_owned(),
            expected: architecture_name(architecture).to_owned(),
        });
    }
    let steps = network::steps(architecture);
    for step in &steps {
        if !network.convolutions.iter().any(|found| found.name == step.name) {
            return Err(HeadFileError::Incomplete { name: step.weight() });
        }
    }
    let mut convolutions = Vec::with_capacity(steps.len());
    for (convolution, step) in network.convolutions.iter().zip(&steps) {
        convolutions.push((parts[convolution.part].path, step.pool));
    }
    modules.check_convolutions(&convolutions)?;
    Ok(Plan {
        parts,
        network,
        architecture,
        framework: checkpoint.format().framework(),
        found: Found::default(),
        modules,
        alone: Vec::new(),
        prefixes: Vec::new(),
        left_out: Vec::new(),
    })
}

/// Returns the backbone of a file whose classifier was understood: of the head's own layers, those that VGG16 has.
fn with_known_linears(mut head: NormalHead, architecture: Architecture) -> Parameters {
    let linears = [HeadLayer::Linear, HeadLayer::Relu, HeadLayer::Linear, HeadLayer::Relu];
    let own: Vec<String> = head.parameters.keys().filter(|name| is_own(name)).cloned().collect();
    let mut taken = Parameters::new();
    for name in own {
        if let Some((name, tensor)) = head.parameters.remove_entry(&name) {
            taken.insert(name, tensor);
        }
    }
    let is_softmax = matches!(head.output, None | Some(Output::Softmax));
    let layers = &head.layers[..];
    if head.input == HeadInput::Features && layers == [HeadLayer::Linear] && is_softmax {
        head.parameters.append(&mut taken);
    } else if layers.starts_with(&linears) && takes_map(head.input, &taken, architecture) {
        for (index, name) in [(0, "classifier.0"), (2, "classifier.3"), (4, "classifier.6")] {
            let is_last = layers.len() == 5 && is_softmax;
            for parameter in ["weight", "bias"] {
                let Some(tensor) = taken.remove(&format!("head.{index}.{parameter}")) else {
                    continue;
                };
                let tensor = match (head.input, index, parameter) {
                    (HeadInput::FlattenHwc, 0, "weight") => Arc::new(by_channel_first(&tensor)),
                    _ => tensor,
                };
                if index < 4 || is_last {
                    head.parameters.insert(format!("{name}.{parameter}"), tensor);
                }
            }
        }
    }
    head.parameters
}

/// True for the parameters of a head's own layers.
fn is_own(name: &str) -> bool {
    name.starts_with("head.") || [LAST_WEIGHT, LAST_BIAS].contains(&name)
}

/// True if the first two Linears are of VGG16's shapes and take the map of pictures of 224x224.
fn takes_map(input: HeadInput, own: &Parameters, architecture: Architecture) -> bool {
    let flattened = [HeadInput::Flatten, HeadInput::FlattenHwc, HeadInput::Adaptive7x7];
    let (features, map) = (architecture.features(), 49 * channels(architecture));
    let has = |index: usize, shape: [usize; 2]| {
        let weight = own.get(&format!("head.{index}.weight"));
        weight.is_some_and(|weight| weight.shape == shape)
    };
    flattened.contains(&input) && has(0, [features, map]) && has(2, [features, features])
}

/// Returns a Linear's weight whose columns are those of a map by row, column and channel, with the columns by channel, row and
/// column.
fn by_channel_first(weight: &HostTensor) -> HostTensor {
    const PLACES: usize = 49;
    let (rows, columns) = (weight.shape[0], weight.shape[1]);
    let channels = columns / PLACES;
    let mut values = Vec::with_capacity(rows * columns);
    for row in weight.values.chunks_exact(columns) {
        for channel in 0..channels {
            values.extend((0..PLACES).map(|place| row[place * channels + channel]));
        }
    }
    HostTensor::new(weight.shape.clone(), values)
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
