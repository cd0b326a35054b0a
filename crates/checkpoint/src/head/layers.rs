//! Decides where a head stands and what its layers are: from its spec, from its modules, or from a layout that is known.

use headswap_spec::{Framework, HeadInput, HeadLayer, LAYERS_MAX, Output, PartialSpec};

use super::error::HeadFileError;
use super::found::input_width;
use super::layout::{Layout, fastai};
use super::part::{Part, PartKind};
use super::plan::Plan;
use super::unread::Unread;

/// Something about a head, and how it is known.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding<T> {
    /// The spec, the file's modules or its layout say it.
    Known(T),
    /// It is usual for such a file.
    Assumed(T),
    /// It must be given.
    Missing,
}

impl<T> Finding<T> {
    pub(super) fn value(&self) -> Option<&T> {
        match self {
            Self::Known(value) | Self::Assumed(value) => Some(value),
            Self::Missing => None,
        }
    }
}

/// Limit of the modules that one message lists.
const LISTED_MAX: usize = 8;

/// What was decided.
#[derive(Debug)]
pub(super) struct Decision {
    pub input: Finding<HeadInput>,
    pub layers: Finding<Vec<HeadLayer>>,
    /// What the file's own last module says.
    pub output: Option<Output>,
    /// The modules of which only a spec says what they compute.
    pub unread: Unread,
    pub assumed: Vec<String>,
}

/// Decides from names, shapes and modules. What is usual is assumed only if every module that the file has is known.
pub(super) fn decide(plan: &Plan<'_>, spec: &PartialSpec) -> Decision {
    let head = plan.head();
    let said = plan.modules.read(&head);
    let unread = plan.unread(spec);
    let layout = fastai(plan);
    let input = match spec.input {
        Some(input) => Finding::Known(input),
        None if !unread.input.is_empty() => Finding::Missing,
        None => input(plan, said.input, layout.as_ref()),
    };
    let mut assumed = Vec::new();
    if let Finding::Assumed(input) = input {
        assumed.push(format!("input: {}, as Keras flattens VGG16's map", input.name()));
    }
    let layers = match (spec.layers.clone(), said.layers) {
        (Some(layers), _) => Finding::Known(resolved(layers, plan, &mut assumed)),
        (None, _) if !unread.is_empty() => Finding::Missing,
        (None, Some(layers)) => Finding::Known(layers),
        (None, None) => usual(plan, &input, layout, &mut assumed),
    };
    Decision {
        input,
        layers,
        // A softmax over one output says nothing.
        output: said
            .output
            .filter(|output| *output != Output::Softmax || plan.rows() != 1),
        unread,
        assumed,
    }
}

fn input(plan: &Plan<'_>, said: Option<HeadInput>, layout: Option<&Layout>) -> Finding<HeadInput> {
    let width = plan.first_linear().map_or(0, Part::input);
    if !plan.found.features.is_empty() {
        return Finding::Known(HeadInput::Features);
    }
    // The width of a flattened map does not tell the order of its numbers, and a graph does.
    if let Some(said) = said.filter(|_| plan.modules.is_graph()) {
        return Finding::Known(said);
    }
    let map = HeadInput::Adaptive7x7;
    let is_keras = plan.framework == Framework::Keras;
    if is_keras && input_width(plan.architecture, map) == Some(width) {
        return Finding::Assumed(HeadInput::FlattenHwc);
    }
    let usual = [Some(HeadInput::Features), (!is_keras).then_some(map), said];
    // A layout that is known counts as said.
    for input in usual.into_iter().chain([layout.map(|layout| layout.input)]).flatten() {
        if input_width(plan.architecture, input) == Some(width) {
            return Finding::Known(input);
        }
    }
    Finding::Missing
}

/// Fills in the numbers that the spec leaves out: those of the file's modules, else the framework's defaults.
fn resolved(layers: Vec<HeadLayer>, plan: &Plan<'_>, assumed: &mut Vec<String>) -> Vec<HeadLayer> {
    let head = plan.head();
    let mut norms = head
        .iter()
        .filter(|part| matches!(part.kind, PartKind::BatchNorm { .. }));
    let mut resolved = Vec::with_capacity(layers.len());
    for (index, mut layer) in layers.into_iter().enumerate() {
        if let HeadLayer::BatchNorm(eps) = &mut layer {
            let stored = norms.next().and_then(|part| plan.modules.eps(part.path));
            *eps = eps.or(stored.map(|eps| eps as f32));
        }
        let (full, is_default) = layer.resolved(plan.framework);
        if is_default {
            let framework = plan.framework.name();
            assumed.push(format!("layers[{index}]: {}, {framework}'s default", number(full)));
        }
        resolved.push(full);
    }
    resolved
}

/// A layer's number with its name.
fn number(layer: HeadLayer) -> String {
    match layer {
        HeadLayer::BatchNorm(Some(eps)) => format!("eps {eps}"),
        HeadLayer::LeakyRelu(Some(slope)) => format!("slope {slope}"),
        HeadLayer::Elu(Some(alpha)) => format!("alpha {alpha}"),
        HeadLayer::Gelu(_) => "exact".to_owned(),
        other => other.name().to_owned(),
    }
}

/// The layers of a file that says nothing of them.
fn usual(
    plan: &Plan<'_>,
    input: &Finding<HeadInput>,
    layout: Option<Layout>,
    assumed: &mut Vec<String>,
) -> Finding<Vec<HeadLayer>> {
    let head = plan.head();
    if let [only] = head[..]
        && only.linear().is_some()
    {
        return Finding::Known(vec![HeadLayer::Linear]);
    }
    if let Some(layout) = layout.filter(|layout| input.value() == Some(&layout.input)) {
        let input = layout.input.name();
        assumed.push(format!("input {input}, layers: {}", layout.name));
        for (index, layer) in layout.layers.iter().enumerate() {
            if matches!(layer, HeadLayer::BatchNorm(_)) {
                assumed.push(format!("layers[{index}]: {}, PyTorch's default", number(*layer)));
            }
        }
        return Finding::Known(layout.layers);
    }
    let features = plan.architecture.features();
    let map = input_width(plan.architecture, HeadInput::Adaptive7x7).unwrap_or_default();
    if let [first, second, third] = head[..]
        && first.linear() == Some((map, features))
        && second.linear() == Some((features, features))
        && third.linear().is_some_and(|(input, _)| input == features)
    {
        let (linear, relu) = (HeadLayer::Linear, HeadLayer::Relu);
        for index in [1, 3] {
            assumed.push(format!("layers[{index}]: relu, between Linears of VGG16's own shapes"));
        }
        return Finding::Assumed(vec![linear, relu, linear, relu, linear]);
    }
    Finding::Missing
}

/// Gives each layer that has tensors its part of the file; the numbers and the widths must agree.
///
/// # Errors
/// [`HeadFileError::Counts`] and [`HeadFileError::Chain`] with both numbers, [`HeadFileError::TooManyLayers`].
pub(super) fn assign<'p, 'a>(
    plan: &'p Plan<'a>,
    layers: &[HeadLayer],
) -> Result<Vec<Option<&'p Part<'a>>>, HeadFileError> {
    if layers.len() > LAYERS_MAX {
        return Err(HeadFileError::TooManyLayers { layers: layers.len() });
    }
    let (mut linears, mut norms, mut affines) = (Vec::new(), Vec::new(), Vec::new());
    for part in plan.head() {
        match part.kind {
            PartKind::Linear { .. } => linears.push(part),
            PartKind::BatchNorm { .. } => norms.push(part),
            _ => affines.push(part),
        }
    }
    let mut asked = [0; 3];
    for layer in layers {
        match layer {
            HeadLayer::Linear => asked[0] += 1,
            HeadLayer::BatchNorm(_) => asked[1] += 1,
            HeadLayer::Affine => asked[2] += 1,
            _ => {}
        }
    }
    let hint = match plan.found.features[..] {
        [] => "",
        _ => " (the Linears that compute `features` do not count, unless \"input\" is `adaptive_7x7`)",
    };
    let affine_hint = match affines[..] {
        [] => "",
        _ => " (x times a weight plus a bias alone; a LayerNorm or GroupNorm is not, and is not supported)",
    };
    let counts = [
        ("linear", asked[0], &linears, hint),
        ("batch_norm", asked[1], &norms, ""),
        ("affine", asked[2], &affines, affine_hint),
    ];
    for (kind, spec, parts, hint) in counts {
        if spec != parts.len() {
            return Err(HeadFileError::Counts {
                kind,
                spec,
                file: parts.len(),
                modules: list(parts),
                hint,
            });
        }
    }
    let (mut linears, mut norms, mut affines) = (linears.into_iter(), norms.into_iter(), affines.into_iter());
    let mut assigned = Vec::with_capacity(layers.len());
    for layer in layers {
        assigned.push(match layer {
            HeadLayer::Linear => linears.next(),
            HeadLayer::BatchNorm(_) => norms.next(),
            HeadLayer::Affine => affines.next(),
            _ => None,
        });
    }
    check_widths(&assigned)?;
    Ok(assigned)
}

/// The weights with their shapes; "none" without any.
pub(super) fn list(parts: &[&Part<'_>]) -> String {
    if parts.is_empty() {
        return "none".to_owned();
    }
    let mut names = Vec::new();
    for part in parts.iter().take(LISTED_MAX) {
        names.push(part.describe());
    }
    if parts.len() > LISTED_MAX {
        names.push(format!("and {} more", parts.len() - LISTED_MAX));
    }
    names.join(", ")
}

fn check_widths(assigned: &[Option<&Part<'_>>]) -> Result<(), HeadFileError> {
    let mut before: Option<(&Part<'_>, usize)> = None;
    for part in assigned.iter().flatten() {
        if let Some((first, returned)) = before
            && returned != part.input()
        {
            return Err(HeadFileError::Chain {
                first: first.describe(),
                returned,
                second: part.describe(),
                taken: part.input(),
            });
        }
        let returned = part.linear().map_or(part.input(), |(_, output)| output);
        before = Some((part, returned));
    }
    Ok(())
}
