//! Checks what is said of a head against its file's graph.

use headswap_spec::{HeadInput, HeadLayer, Output};

use super::error::HeadFileError;
use super::plan::Plan;

/// Refuses another input than the one that the file's graph computes.
///
/// # Errors
/// [`HeadFileError::GraphInput`] with both.
pub(super) fn check(plan: &Plan<'_>, input: HeadInput) -> Result<(), HeadFileError> {
    let features = plan.found.features.iter().map(|(_, index)| index);
    let first = features.chain(&plan.found.layers).next();
    let said = first.and_then(|index| plan.modules.input(plan.parts[*index].path));
    match said {
        Some(said) if plan.modules.is_graph() && !may_be(said, input) => Err(HeadFileError::GraphInput {
            given: input.name(),
            said: said.name(),
        }),
        _ => Ok(()),
    }
}

/// Refuses other layers, or another output, than the file's graph computes.
///
/// # Errors
/// [`HeadFileError::GraphLayers`] and [`HeadFileError::GraphOutput`] with both, and [`HeadFileError::GraphEnd`] if the graph
/// ends as no head does.
pub(super) fn check_layers(plan: &Plan<'_>, layers: &[HeadLayer], output: Option<Output>) -> Result<(), HeadFileError> {
    if !plan.modules.is_graph() {
        return Ok(());
    }
    let said = plan.modules.read(&plan.head());
    let Some(computed) = said.layers else {
        return Err(HeadFileError::GraphEnd);
    };
    if computed != layers {
        return Err(HeadFileError::GraphLayers {
            given: list(layers),
            said: list(&computed),
        });
    }
    match (output, said.output) {
        (Some(given), Some(said)) if given != said => Err(HeadFileError::GraphOutput {
            given: name(given),
            said: name(said),
        }),
        _ => Ok(()),
    }
}

fn list(layers: &[HeadLayer]) -> String {
    let names: Vec<String> = layers.iter().map(ToString::to_string).collect();
    names.join(",")
}

fn name(output: Output) -> &'static str {
    match output {
        Output::Softmax => "softmax",
        Output::Sigmoid => "sigmoid",
        Output::Linear => "linear",
        Output::Groups(_) => "groups",
    }
}

/// True for the same input. What VGG16's own Linears take has several names; the widths are checked besides.
fn may_be(said: HeadInput, given: HeadInput) -> bool {
    let is_map = |input| matches!(input, HeadInput::Flatten | HeadInput::Adaptive7x7);
    let is_flat = is_map(said) || said == HeadInput::FlattenHwc;
    said == given || is_map(said) && is_map(given) || is_flat && given == HeadInput::Features
}
