//! Layouts of heads that are known from their names and widths.

use headswap_spec::{HeadInput, HeadLayer};

use super::found::parent;
use super::network::channels;
use super::part::{PartKind, is_within};
use super::plan::Plan;

/// A layout that is known from its names and widths.
pub(super) struct Layout {
    pub name: &'static str,
    pub input: HeadInput,
    pub layers: Vec<HeadLayer>,
}

/// fastai's `create_head`: the pooled map's batch norm, then Dropout and Linear, with ReLU, batch norm and Dropout before each
/// further Linear. Its modules are numbered, and the convolutions are in its Sequential's first part.
pub(super) fn fastai(plan: &Plan<'_>) -> Option<Layout> {
    let head = plan.head();
    let width = head.first()?.input();
    let channels = channels(plan.architecture);
    let input = match width {
        width if width == 2 * channels => HeadInput::GlobalMaxAverage,
        width if width == channels => HeadInput::GlobalAverage,
        _ => return None,
    };
    let around = parent(head.first()?.path);
    let body = match around.strip_suffix('1') {
        Some(before) if before.is_empty() || before.ends_with('.') => format!("{before}0"),
        _ => return None,
    };
    let convolutions = &plan.network.convolutions;
    let stands = !convolutions.is_empty()
        && convolutions
            .iter()
            .all(|convolution| is_within(plan.parts[convolution.part].path, &body));
    if !stands || !head.len().is_multiple_of(2) {
        return None;
    }
    let mut layers = Vec::new();
    for (index, part) in head.iter().enumerate() {
        if part.path != format!("{around}.{}", 2 + 2 * index) {
            return None;
        }
        match part.kind {
            PartKind::BatchNorm { .. } if index.is_multiple_of(2) => layers.push(HeadLayer::BatchNorm(Some(1e-5))),
            PartKind::Linear { .. } if !index.is_multiple_of(2) => {
                layers.push(HeadLayer::Linear);
                if index + 1 < head.len() {
                    layers.push(HeadLayer::Relu);
                }
            }
            _ => return None,
        }
    }
    Some(Layout {
        name: "fastai's: batch norm, dropout and linear, with relu between",
        input,
        layers,
    })
}
