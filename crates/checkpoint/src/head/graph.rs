//! Checks what is said of a head's input against its file's graph.

use headswap_spec::HeadInput;

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

/// True for the same input. What VGG16's own Linears take has several names; the widths are checked besides.
fn may_be(said: HeadInput, given: HeadInput) -> bool {
    let is_map = |input| matches!(input, HeadInput::Flatten | HeadInput::Adaptive7x7);
    let is_flat = is_map(said) || said == HeadInput::FlattenHwc;
    said == given || is_map(said) && is_map(given) || is_flat && given == HeadInput::Features
}
