//! What a head's file may compute, where it leaves that open.

use headswap_checkpoint::{Finding, InspectedModule, Inspection};
use headswap_spec::{Architecture, Framework, HeadInput, HeadLayer, LayerKind};

/// The side of the last pooling's map is the picture's, halved five times.
pub const STRIDE: u32 = 32;

const LINEAR: &str = "linear";
const NORM: &str = "batch_norm";

/// One way of reading a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub input: HeadInput,
    pub layers: Vec<HeadLayer>,
}

/// Every plausible way of reading a file: one, where the file says it all.
pub fn of_file(inspection: &Inspection, framework: Framework) -> Vec<Reading> {
    let mut readings = Vec::new();
    for input in inputs(inspection, framework) {
        for layers in layers(inspection) {
            readings.push(Reading { input, layers });
        }
    }
    readings
}

/// The positions of the map that a reading flattens; none if it takes maps of any size.
pub fn positions(inspection: &Inspection, input: HeadInput) -> Option<u32> {
    let width = width(inspection)?;
    let is_flat = matches!(input, HeadInput::Flatten | HeadInput::FlattenHwc);
    is_flat.then_some((width / channels(inspection.architecture)) as u32)
}

/// True if square pictures of this side have a map of so many positions.
pub fn has_positions(side: u32, positions: u32) -> bool {
    (side / STRIDE).pow(2) == positions
}

/// The channels of the last pooling's map.
fn channels(architecture: Architecture) -> usize {
    let mut channels = 1;
    for layer in architecture.layers(1) {
        if let LayerKind::Conv { output, .. } = layer.kind {
            channels = output;
        }
    }
    channels
}

/// The numbers that the first Linear takes.
fn width(inspection: &Inspection) -> Option<usize> {
    let first = inspection.modules.iter().find(|module| module.kind == LINEAR)?;
    first.shape.last().copied()
}

fn inputs(inspection: &Inspection, framework: Framework) -> Vec<HeadInput> {
    if let Finding::Known(input) | Finding::Assumed(input) = inspection.input {
        return vec![input];
    }
    let (Some(width), channels) = (width(inspection), channels(inspection.architecture)) else {
        return Vec::new();
    };
    if width == channels {
        return vec![HeadInput::GlobalAverage, HeadInput::GlobalMax];
    }
    if width == 2 * channels {
        return vec![HeadInput::GlobalMaxAverage];
    }
    let is_square = width.is_multiple_of(channels) && (width / channels).isqrt().pow(2) == width / channels;
    match (is_square, framework) {
        (false, _) => Vec::new(),
        (true, Framework::Keras) => vec![HeadInput::FlattenHwc, HeadInput::Flatten],
        (true, Framework::PyTorch) => vec![HeadInput::Flatten, HeadInput::FlattenHwc],
    }
}

/// The layers that the file says, or else those that scripts write: a ReLU between Linears, before or after the batch norm.
fn layers(inspection: &Inspection) -> Vec<Vec<HeadLayer>> {
    if let Finding::Known(layers) | Finding::Assumed(layers) = &inspection.layers {
        return vec![layers.clone()];
    }
    let order = in_order(&inspection.modules);
    let mut found: Vec<Vec<HeadLayer>> = Vec::new();
    for norm_first in [true, false] {
        let layers = with_relus(&order, norm_first);
        if !found.contains(&layers) {
            found.push(layers);
        }
    }
    found
}

/// The kinds of the modules in order of computation: a batch norm comes after the Linear that has as many outputs, as files
/// of weights alone name it in the order of the alphabet.
fn in_order(modules: &[InspectedModule]) -> Vec<&'static str> {
    let mut norms: Vec<&InspectedModule> = modules.iter().filter(|module| module.kind != LINEAR).collect();
    let mut order = Vec::new();
    for linear in modules.iter().filter(|module| module.kind == LINEAR) {
        let (output, input) = (linear.shape.first(), linear.shape.last());
        if order.is_empty()
            && norms
                .first()
                .is_some_and(|norm| norm.shape.first() == input && input != output)
        {
            order.push(norms.remove(0).kind);
        }
        order.push(LINEAR);
        if norms.first().is_some_and(|norm| norm.shape.first() == output) {
            order.push(norms.remove(0).kind);
        }
    }
    order.extend(norms.into_iter().map(|norm| norm.kind));
    order
}

fn with_relus(modules: &[&str], norm_first: bool) -> Vec<HeadLayer> {
    let last = modules.iter().rposition(|kind| *kind == LINEAR).unwrap_or_default();
    let mut layers = Vec::new();
    for (index, kind) in modules.iter().enumerate() {
        let norm_follows = index < last && modules[index + 1] == NORM;
        let norm_before = index > 0 && modules[index - 1] == LINEAR;
        let relu = match *kind {
            LINEAR => {
                layers.push(HeadLayer::Linear);
                !(norm_first && norm_follows)
            }
            NORM => {
                layers.push(HeadLayer::BatchNorm(None));
                norm_first && norm_before
            }
            _ => {
                layers.push(HeadLayer::Affine);
                false
            }
        };
        if relu && index < last {
            layers.push(HeadLayer::Relu);
        }
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(kind: &'static str, shape: &[usize]) -> InspectedModule {
        InspectedModule {
            name: String::new(),
            kind,
            shape: shape.to_vec(),
            bias: true,
            activations: None,
        }
    }

    #[test]
    fn a_batch_norm_finds_its_linear() {
        let modules = [module(NORM, &[8]), module(LINEAR, &[8, 16]), module(LINEAR, &[62, 8])];
        assert_eq!(in_order(&modules), [LINEAR, NORM, LINEAR]);
        let modules = [
            module(NORM, &[512]),
            module(LINEAR, &[8, 512]),
            module(NORM, &[8]),
            module(LINEAR, &[3, 8]),
        ];
        assert_eq!(in_order(&modules), [NORM, LINEAR, NORM, LINEAR]);
    }

    #[test]
    fn a_relu_stands_between_linears() {
        use HeadLayer::{BatchNorm, Linear, Relu};
        assert_eq!(with_relus(&[LINEAR], true), [Linear]);
        assert_eq!(with_relus(&[LINEAR, LINEAR], true), [Linear, Relu, Linear]);
        let norm = BatchNorm(None);
        assert_eq!(
            with_relus(&[NORM, LINEAR, NORM, LINEAR], true),
            [norm, Linear, norm, Relu, Linear]
        );
        assert_eq!(with_relus(&[LINEAR, NORM, LINEAR], false), [Linear, Relu, norm, Linear]);
    }
}
