//! A head in normal form: what is stored, digested and placed, whatever its file looked like.

use headswap_spec::{
    Architecture, HeadInput, HeadLayer, HeadSpec, LAST_BIAS, LAST_WEIGHT, Output, PartialSpec, Preprocessing,
};

use super::backbone;
use super::composition::compose_preprocessing;
use super::error::HeadFileError;
use super::fold;
use super::layers::{self, Decision};
use super::plan::{self, Plan};
use super::policy::{HeadPolicy, Kept};
use super::values::Reader;
use super::{graph, head_input, labels};
use crate::{Checkpoint, CheckpointError, Parameters, Throttle};

/// The key of a safetensors file's metadata whose value is the head's spec, as JSON.
pub const SPEC: &str = "headswap.spec";

/// The key of a safetensors file's metadata whose value is what was assumed when the head was read, as a JSON list of lines.
pub(super) const ASSUMED: &str = "headswap.assumed";

/// Lines of [`ASSUMED`] that are read at most, and their bytes.
const ASSUMED_LINES_MAX: usize = 64;
const ASSUMED_BYTES_MAX: usize = 400;

/// Returns what was assumed when a file in normal form was made of another.
fn stored_assumed(checkpoint: &Checkpoint) -> Vec<String> {
    let json = checkpoint.metadata().get(ASSUMED).map_or("[]", String::as_str);
    let mut lines: Vec<String> = serde_json::from_str(json).unwrap_or_default();
    // Logs and terminals show them.
    lines.retain(|line| line.len() <= ASSUMED_BYTES_MAX && !line.contains(char::is_control));
    lines.truncate(ASSUMED_LINES_MAX);
    lines
}

/// How a head's file is read.
pub struct HeadOptions<'a> {
    /// The backbone's architecture.
    pub architecture: Architecture,
    /// The head's spec. What it leaves out, or all without one, is taken from the spec in the file's metadata.
    pub spec: Option<&'a HeadSpec>,
    /// Labels that the caller gives. Unless there are none, the file's do not count.
    pub labels: &'a [String],
    /// Slows the reading while requests are in flight.
    pub throttle: &'a Throttle,
}

/// A head in normal form.
#[derive(Clone, Debug, PartialEq)]
pub struct NormalHead {
    /// Those of the convolutions and of `classifier.0` and `classifier.3` that the file has, under torchvision's names, and
    /// the head's own: `classifier.6.weight` and `.bias` if `input` is `features` and `layers` is one linear, else
    /// `head.N.weight` and `.bias`, N the index in `layers`, for each linear (`[out, in]`, `[out]`) and affine (`[n]`).
    pub parameters: Parameters,
    /// How pictures are prepared for its first convolution: the spec's preprocessing, followed by what the file's own first
    /// layers compute. `None` without a spec.
    pub preprocessing: Option<Preprocessing>,
    /// Where it stands.
    pub input: HeadInput,
    /// Its layers from there on, without batch norms, every number given.
    pub layers: Vec<HeadLayer>,
    /// The rows of the last linear.
    pub rows: usize,
    /// How many of the rows are classes, from the first on: all, unless the given spec or that of the file says it.
    pub classes: usize,
    /// What the logits mean, by the spec or by the file's own last module.
    pub output: Option<Output>,
    /// The caller's labels, else the spec's, else those of the file that fit.
    pub labels: Vec<String>,
    /// What was found and decided.
    pub report: HeadReport,
}

/// What was found and decided while a head was read.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct HeadReport {
    /// The prefixes of wrappers that were seen through.
    pub prefixes: Vec<String>,
    /// Tensors outside the network.
    pub left_out: Vec<String>,
    /// What was assumed, a line each.
    pub assumed: Vec<String>,
    /// Lists of labels that did not fit.
    pub labels_left_out: Vec<String>,
}

/// Reads a head of any form.
///
/// # Errors
/// [`HeadFileError`] if the file is not a head of this architecture, or if it does not say what the spec leaves out.
pub fn read_head(checkpoint: &Checkpoint, options: &HeadOptions<'_>) -> Result<NormalHead, HeadFileError> {
    read_head_for(checkpoint, options, HeadPolicy::default())
}

/// As [`read_head`], for a receiver that has some of the parameters: these are dropped one by one, so that a whole VGG16 takes
/// the memory of what differs, and of one tensor more.
///
/// # Errors
/// As [`read_head`], and [`HeadFileError::Rows`].
pub fn read_head_for(
    checkpoint: &Checkpoint,
    options: &HeadOptions<'_>,
    policy: HeadPolicy<'_>,
) -> Result<NormalHead, HeadFileError> {
    let mut assumed = stored_assumed(checkpoint);
    let spec = effective_spec(checkpoint, options.spec, &mut assumed)?;
    let spec = spec.as_ref();
    let known = spec.map(PartialSpec::from).unwrap_or_default();
    let plan = plan::plan(checkpoint, Some(options.architecture), &known)?;
    let decision = layers::decide(&plan, &known);
    let (input, layers) = decided(&plan, &decision, &known)?;
    graph::check(&plan, input)?;
    graph::check_layers(&plan, &layers, spec.map(|spec| spec.output))?;
    let parts = layers::assign(&plan, &layers)?;
    let unread = decision.unread;
    let output = spec.map(|spec| spec.output).or(decision.output);
    check_output(output, plan.rows())?;
    check_rows(plan.rows(), policy.rows_max)?;
    // The caller decides what one output means; until then labels for either answer fit.
    let fitted = output.unwrap_or(match plan.rows() {
        1 => Output::Sigmoid,
        _ => Output::Softmax,
    });
    let chosen = labels::choose(checkpoint, options.labels, spec, fitted, plan.rows())?;

    let mut report = HeadReport {
        prefixes: plan.prefixes.clone(),
        left_out: plan.left_out.clone(),
        assumed: [assumed, plan.found.assumed.clone(), decision.assumed].concat(),
        labels_left_out: chosen.left_out,
    };
    if !checkpoint.metadata().contains_key(SPEC) {
        report.assumed.extend(backbone::lacked(&plan, input));
    }
    report.assumed.extend(backbone::without_bias(&plan));
    if !unread.is_empty() {
        let line = format!("{}: not read, its spec says what is computed", unread.list());
        report.assumed.push(line);
    }
    let reader = Reader {
        checkpoint,
        throttle: options.throttle,
    };
    let mut kept = Kept {
        policy,
        throttle: options.throttle,
        parameters: Parameters::new(),
    };
    // The head's own first: a file without a classifier is refused before its convolutions are read.
    let folded = fold::fold(&layers, &parts, &reader)?;
    let layers: Vec<HeadLayer> = folded.iter().map(|folded| folded.layer).collect();
    let is_last = input == HeadInput::Features && layers == [HeadLayer::Linear];
    for (index, folded) in folded.iter().enumerate() {
        let read = folded
            .parameters(&reader)
            .map_err(|error| explain(error, &plan, &reader))?;
        if let Some([weight, bias]) = read {
            let [weight_name, bias_name] = match is_last {
                true => [LAST_WEIGHT.to_owned(), LAST_BIAS.to_owned()],
                false => [format!("head.{index}.weight"), format!("head.{index}.bias")],
            };
            kept.insert(weight_name, weight);
            kept.insert(bias_name, bias);
        }
    }
    backbone::read_parameters(&plan, &reader, &mut kept, &mut report)?;
    Ok(NormalHead {
        parameters: kept.parameters,
        preprocessing: spec.map(|spec| spec.preprocessing),
        input,
        layers,
        rows: plan.rows(),
        classes: spec.and_then(|spec| spec.classes).unwrap_or(plan.rows()),
        output,
        labels: chosen.labels,
        report,
    })
}

fn check_rows(rows: usize, rows_max: usize) -> Result<(), HeadFileError> {
    if (1..=rows_max).contains(&rows) {
        Ok(())
    } else {
        Err(HeadFileError::Rows { rows, rows_max })
    }
}

/// Refuses outputs that say nothing.
fn check_output(output: Option<Output>, rows: usize) -> Result<(), HeadFileError> {
    let is_empty = match output {
        Some(Output::Softmax) => rows == 1,
        Some(Output::Groups(groups)) => rows == groups,
        Some(Output::Sigmoid | Output::Linear) | None => false,
    };
    if is_empty {
        Err(HeadFileError::OneOutput)
    } else {
        Ok(())
    }
}

/// Returns the given spec, with what it leaves out from the spec in the file's metadata, else that one; its preprocessing
/// is followed by what the file's own first layers compute.
///
/// # Errors
/// [`HeadFileError::Spec`] if none is given and that one is not a spec, or as [`compose_preprocessing`].
pub(super) fn effective_spec(
    checkpoint: &Checkpoint,
    given: Option<&HeadSpec>,
    assumed: &mut Vec<String>,
) -> Result<Option<HeadSpec>, HeadFileError> {
    let Some(mut spec) = merged_spec(checkpoint, given)? else {
        return Ok(None);
    };
    if let Some(graph) = checkpoint.graph() {
        spec.preprocessing = compose_preprocessing(&spec.preprocessing, graph, assumed)?;
    }
    Ok(Some(spec))
}

fn merged_spec(checkpoint: &Checkpoint, given: Option<&HeadSpec>) -> Result<Option<HeadSpec>, HeadFileError> {
    let (given, stored) = match (given, stored_spec(checkpoint)) {
        (Some(given), Ok(Some(stored))) => (given, stored),
        (Some(given), _) => return Ok(Some(given.clone())),
        (None, stored) => return stored,
    };
    let mut spec = given.clone();
    spec.input = spec.input.or(stored.input);
    spec.layers = spec.layers.or(stored.layers);
    if spec.classes.is_none() || spec.classes == stored.classes {
        spec.classes = stored.classes;
        spec.labels = spec.labels.or(stored.labels);
    }
    Ok(Some(spec))
}

/// Returns the spec in a file's metadata ([`SPEC`]).
///
/// # Errors
/// [`HeadFileError::Spec`] if it is not one.
pub fn stored_spec(checkpoint: &Checkpoint) -> Result<Option<HeadSpec>, HeadFileError> {
    match checkpoint.metadata().get(SPEC) {
        Some(json) => Ok(Some(HeadSpec::from_json(json)?)),
        None => Ok(None),
    }
}

/// Returns input and layers, checked against the first part's width.
pub(super) fn decided(
    plan: &Plan<'_>,
    decision: &Decision,
    spec: &PartialSpec,
) -> Result<(HeadInput, Vec<HeadLayer>), HeadFileError> {
    let Some(first) = plan.first_linear() else {
        return Err(HeadFileError::NoLinear {
            held: "no head".to_owned(),
        });
    };
    let Some(input) = decision.input.value() else {
        return Err(match decision.unread.input[..] {
            [] => head_input::unknown(plan.architecture, first),
            _ => unread(decision),
        });
    };
    head_input::check(plan.architecture, *input, spec, first)?;
    let Some(layers) = decision.layers.value() else {
        if !decision.unread.is_empty() {
            return Err(unread(decision));
        }
        return Err(HeadFileError::Layers {
            modules: layers::list(&plan.head()),
        });
    };
    Ok((*input, layers.clone()))
}

/// The refusal of a head with modules that neither the file nor its spec accounts for.
fn unread(decision: &Decision) -> HeadFileError {
    let (keys, flags) = match (decision.input.value(), decision.layers.value()) {
        (None, None) => ("\"input\" and \"layers\"", "--input and --layers, or --spec"),
        (None, Some(_)) => ("\"input\"", "--input or --spec"),
        (Some(_), _) => ("\"layers\"", "--layers or --spec"),
    };
    HeadFileError::Unread {
        modules: decision.unread.list(),
        keys,
        flags,
    }
}

/// Names torchvision's IMAGENET1K_FEATURES, whose Linears are NaN and whose convolutions are not.
fn explain(error: HeadFileError, plan: &Plan<'_>, reader: &Reader<'_>) -> HeadFileError {
    let HeadFileError::Checkpoint(CheckpointError::NotFinite { name, value, .. }) = &error else {
        return error;
    };
    let (Some(convolution), [.., (_, linear)]) = (plan.network.convolutions.first(), &plan.found.features[..]) else {
        return error;
    };
    let is_trained = reader.weight(&plan.parts[convolution.part]).is_ok();
    if value.is_nan() && plan.network.whole && is_trained && reader.weight(&plan.parts[*linear]).is_err() {
        return HeadFileError::FeaturesOnly { name: name.clone() };
    }
    error
}
