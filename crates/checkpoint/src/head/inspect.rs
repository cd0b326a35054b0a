//! What `head inspect` prints: what a file says, and what it does not say.

use headswap_spec::{Architecture, HeadInput, HeadLayer, Output, PartialSpec};

use super::composition::compose_preprocessing;
use super::error::HeadFileError;
use super::graph;
use super::head_input;
use super::layers::{self, Decision, Finding};
use super::normal::stored_spec;
use super::part::{Part, PartKind};
use super::plan::{self, Plan};
use crate::{Checkpoint, Graph};

/// A head's file, by its names, shapes and modules.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Inspection {
    /// VGG16, or the narrow one of tests.
    pub architecture: Architecture,
    /// The size of its pictures and what it computes of them before its first convolution, if the file says all that the
    /// network computes.
    pub graph: Option<Graph>,
    /// True if a batch norm follows each convolution.
    pub bn: bool,
    /// The prefixes of wrappers.
    pub prefixes: Vec<String>,
    /// The convolutions in the file, of 13; with 0 the head stands on the server's backbone.
    pub convolutions: usize,
    /// The Linears that compute `features`: `classifier.0` and `classifier.3`, by their names in the file.
    pub features: Vec<String>,
    /// The head's own modules, in order.
    pub modules: Vec<InspectedModule>,
    /// Where the head stands.
    pub input: Finding<HeadInput>,
    /// Its layers.
    pub layers: Finding<Vec<HeadLayer>>,
    /// What the file says of the output.
    pub output: Option<Output>,
    /// The rows of the last Linear.
    pub rows: usize,
    /// The lists of labels in the file, and their lengths.
    pub label_lists: Vec<(String, usize)>,
    /// Tensors outside the network.
    pub left_out: Vec<String>,
    /// What was assumed, a line each.
    pub assumed: Vec<String>,
    /// What must be given.
    pub missing: Vec<Missing>,
}

/// One of a head's modules that has tensors.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct InspectedModule {
    /// Its path in the file.
    pub name: String,
    /// `linear`, `batch_norm` or `affine`.
    pub kind: &'static str,
    /// `[out, in]`, or `[n]`.
    pub shape: Vec<usize>,
    /// True if it has a bias.
    pub bias: bool,
    /// The activations after it, if they are known.
    pub activations: Option<Vec<HeadLayer>>,
}

/// What a file does not say.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// The key of the spec that says it, for example `preprocessing`.
    pub key: &'static str,
    /// For example `how its pictures were prepared`.
    pub what: String,
    /// The flags that give it.
    pub flag: &'static str,
}

/// Inspects a head's file without reading its tensors.
///
/// # Errors
/// [`HeadFileError`] if it is not a head of VGG16.
pub fn inspect_head(checkpoint: &Checkpoint, architecture: Option<Architecture>) -> Result<Inspection, HeadFileError> {
    inspect_head_with(checkpoint, architecture, &PartialSpec::default())
}

/// As [`inspect_head`], with what is said about the head besides its file, which counts more than the file's own spec.
///
/// # Errors
/// As [`inspect_head`].
pub fn inspect_head_with(
    checkpoint: &Checkpoint,
    architecture: Option<Architecture>,
    given: &PartialSpec,
) -> Result<Inspection, HeadFileError> {
    let stored = stored_spec(checkpoint)?;
    let spec = given
        .clone()
        .or(stored.as_ref().map(PartialSpec::from).unwrap_or_default());
    let spec = composed(checkpoint, spec)?;
    let plan = plan::plan(checkpoint, architecture, &spec)?;
    let decision = layers::decide(&plan, &spec);
    if let Some(input) = decision.input.value()
        && let Some(first) = plan.first_linear()
    {
        head_input::check(plan.architecture, *input, &spec, first)?;
    }
    if let Some(layers) = decision.layers.value() {
        layers::assign(&plan, layers)?;
        graph::check_layers(&plan, layers, spec.output)?;
    }
    let output = spec.output.or(decision.output);
    let mut missing = missing(&plan, &decision, output);
    if spec.preprocessing.is_none() {
        missing.insert(
            0,
            lacks(
                "preprocessing",
                "how its pictures were prepared",
                "--preprocessing PRESET or --spec",
            ),
        );
    }
    let in_graph = checkpoint.graph().map_or_else(Vec::new, |graph| graph.assumed.clone());
    let mut label_lists = Vec::new();
    let in_metadata = checkpoint.labels()?;
    if !in_metadata.is_empty() {
        label_lists.push((crate::LABELS.to_owned(), in_metadata.len()));
    }
    for (key, labels) in checkpoint.label_lists() {
        label_lists.push((key, labels.len()));
    }
    Ok(Inspection {
        architecture: plan.architecture,
        graph: checkpoint.graph().cloned(),
        bn: plan
            .network
            .convolutions
            .iter()
            .any(|convolution| convolution.norm.is_some()),
        prefixes: plan.prefixes.clone(),
        convolutions: plan.network.convolutions.len(),
        features: plan
            .found
            .features
            .iter()
            .map(|(_, index)| crate::excerpt(plan.parts[*index].path))
            .collect(),
        modules: inspected(&plan),
        input: decision.input,
        layers: decision.layers,
        output,
        rows: plan.rows(),
        label_lists,
        left_out: plan.left_out.clone(),
        assumed: [in_graph, plan.found.assumed.clone(), decision.assumed].concat(),
        missing,
    })
}

/// Returns the spec with the preprocessing that the first convolution gets. What was assumed for it is said when it is read.
fn composed(checkpoint: &Checkpoint, spec: PartialSpec) -> Result<PartialSpec, HeadFileError> {
    let (Some(fed), Some(graph)) = (spec.preprocessing, checkpoint.graph()) else {
        return Ok(spec);
    };
    let preprocessing = compose_preprocessing(&fed, graph, &mut Vec::new())?;
    Ok(PartialSpec {
        preprocessing: Some(preprocessing),
        ..spec
    })
}

fn lacks(key: &'static str, what: impl Into<String>, flag: &'static str) -> Missing {
    Missing {
        key,
        what: what.into(),
        flag,
    }
}

fn missing(plan: &Plan<'_>, decision: &Decision, output: Option<Output>) -> Vec<Missing> {
    let mut missing = Vec::new();
    let head = plan.head();
    if decision.input.value().is_none()
        && let Some(first) = plan.first_linear()
    {
        let mut what = format!("where {} stands: it takes {} values", first.describe(), first.input());
        if !decision.unread.input.is_empty() {
            what.push_str(&format!(", and {} is not read", decision.unread.input.join(", ")));
        }
        missing.push(lacks("input", what, "--input KIND or --spec"));
    }
    if decision.layers.value().is_none() {
        let linears = head.iter().filter(|part| part.linear().is_some()).count();
        let what = match linears {
            1 => "the layers around its Linear".to_owned(),
            _ => format!("the activations between its {linears} Linears"),
        };
        let what = match decision.unread.is_empty() {
            true => what,
            false => format!("the head's layers, as {} is not read", decision.unread.list()),
        };
        missing.push(lacks("layers", what, "--layers LIST or --spec"));
    }
    if output.is_none() {
        missing.push(lacks("output", "what its output means", "--output KIND or --spec"));
    }
    missing
}

fn inspected(plan: &Plan<'_>) -> Vec<InspectedModule> {
    let head = plan.head();
    let mut inspected = Vec::with_capacity(head.len());
    for (index, part) in head.iter().enumerate() {
        let activations = head
            .get(index + 1)
            .and_then(|next| plan.modules.between(part.path, next.path));
        inspected.push(InspectedModule {
            name: crate::excerpt(part.path),
            kind: kind(part),
            shape: shape(part),
            bias: part.bias.is_some(),
            activations,
        });
    }
    inspected
}

fn kind(part: &Part<'_>) -> &'static str {
    match part.kind {
        PartKind::BatchNorm { .. } => "batch_norm",
        PartKind::Affine { .. } => "affine",
        _ => "linear",
    }
}

fn shape(part: &Part<'_>) -> Vec<usize> {
    match part.linear() {
        Some((input, output)) => vec![output, input],
        None => vec![part.input()],
    }
}
