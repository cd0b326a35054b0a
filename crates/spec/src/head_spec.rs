//! All of a head that is not numbers.

use serde::{Deserialize, Serialize};

use crate::bounded::at_most;
use crate::error::SpecError;
use crate::head_layer::{self, HeadLayer};
use crate::object::{Described, Object};
use crate::preprocessing::{self, Preprocessing};

/// The longest label, in bytes of UTF-8.
pub const LABEL_BYTES_MAX: usize = 4 << 10;
/// Labels of a head at most.
pub const LABELS_MAX: usize = 1 << 17;
/// The longest JSON text of a spec, in bytes.
pub const SPEC_BYTES_MAX: usize = 8 << 20;
/// Layers of a head at most.
pub const LAYERS_MAX: usize = 256;

/// What a head answers to which pictures. `None` is what the file says, or else what is refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadSpec {
    /// How its pictures are prepared.
    pub preprocessing: Preprocessing,
    /// Where it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<HeadInput>,
    /// Its layers from there to the logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<HeadLayer>>,
    /// What the logits mean.
    pub output: Output,
    /// A label for each class; a single sigmoid may have two, for its answers no and yes, and groups one for each class of
    /// a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// How many of the last Linear's rows are classes, from the first on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
}

/// What a head's first layer gets of the backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadInput {
    /// The last pooling's map as a vector by channel, row and column (PyTorch).
    Flatten,
    /// The same by row, column and channel (Keras).
    FlattenHwc,
    /// The map averaged to 7x7, then flattened by channel, row and column (torchvision's `avgpool`).
    #[serde(rename = "adaptive_7x7")]
    Adaptive7x7,
    /// Each channel's mean.
    GlobalAverage,
    /// Each channel's largest value.
    GlobalMax,
    /// Each channel's largest value, then each channel's mean (fastai's `AdaptiveConcatPool2d`).
    GlobalMaxAverage,
    /// What enters `classifier.6`.
    Features,
}

impl HeadInput {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Flatten,
        Self::FlattenHwc,
        Self::Adaptive7x7,
        Self::GlobalAverage,
        Self::GlobalMax,
        Self::GlobalMaxAverage,
        Self::Features,
    ];

    /// Returns its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flatten => "flatten",
            Self::FlattenHwc => "flatten_hwc",
            Self::Adaptive7x7 => "adaptive_7x7",
            Self::GlobalAverage => "global_average",
            Self::GlobalMax => "global_max",
            Self::GlobalMaxAverage => "global_max_average",
            Self::Features => "features",
        }
    }

    /// Returns the name of the first layer of VGG16 that a head with this input replaces.
    pub fn first_replaced(self) -> &'static str {
        match self {
            Self::Features => "classifier.6",
            Self::Adaptive7x7 => "classifier.0",
            _ => "avgpool",
        }
    }
}

/// What a head's logits mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// One of the classes: probabilities that sum to 1.
    Softmax,
    /// Each class for itself, or not.
    Sigmoid,
    /// Values, which are no probabilities.
    Linear,
    /// One class of each of as many groups of equal size.
    Groups(usize),
}

impl Output {
    /// Returns true if so many labels name so many classes: one for each class; or one for each class of a group, if they are
    /// groups; or two for the answers no and yes of a single sigmoid.
    pub fn labels_fit(self, labels: usize, classes: usize) -> bool {
        labels == classes
            || match self {
                Self::Softmax | Self::Linear => false,
                Self::Sigmoid => classes == 1 && labels == 2,
                Self::Groups(groups) => groups > 0 && classes.is_multiple_of(groups) && labels == classes / groups,
            }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    preprocessing: Option<Object<preprocessing::Written>>,
    input: Option<HeadInput>,
    #[serde(default, deserialize_with = "at_most::<_, _, LAYERS_MAX>")]
    layers: Option<Vec<head_layer::Written>>,
    output: Option<WrittenOutput>,
    #[serde(default, deserialize_with = "at_most::<_, _, LABELS_MAX>")]
    labels: Option<Vec<String>>,
    classes: Option<usize>,
}

impl Described for Written {
    const WHAT: &'static str = "a JSON object of the keys of a spec";
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenOutput {
    #[serde(alias = "log_softmax")]
    Softmax,
    Sigmoid,
    Linear,
    Groups(usize),
}

impl HeadSpec {
    /// Reads a spec's JSON. Presets are expanded, and numbers are rounded to f32.
    ///
    /// # Errors
    /// [`SpecError`] names the key and what to give: for JSON that is none or has an unknown or repeated key, for a missing
    /// `preprocessing` or `output`, and for values that contradict each other.
    pub fn from_json(json: &str) -> Result<Self, SpecError> {
        let spec = |reason: String| SpecError::new("spec", reason);
        if json.len() > SPEC_BYTES_MAX {
            return Err(spec(format!("it is longer than {SPEC_BYTES_MAX} bytes")));
        }
        let Object(written): Object<Written> = serde_json::from_str(json).map_err(|error| spec(error.to_string()))?;
        let missing = |key, values| SpecError::new(key, format!("it is missing; give {values}"));
        let Object(preprocessing) = written
            .preprocessing
            .ok_or_else(|| missing("preprocessing", "for example {\"preset\": \"torchvision\"}"))?;
        let output = written
            .output
            .ok_or_else(|| missing("output", "softmax, sigmoid, linear or {\"groups\": n}"))?;
        let mut layers = None;
        if let Some(written) = written.layers {
            let mut read = Vec::with_capacity(written.len());
            for (index, layer) in written.into_iter().enumerate() {
                read.push(layer.layer(index)?);
            }
            layers = Some(read);
        }
        let spec = Self {
            preprocessing: preprocessing.try_into()?,
            input: written.input,
            layers,
            output: match output {
                WrittenOutput::Softmax => Output::Softmax,
                WrittenOutput::Sigmoid => Output::Sigmoid,
                WrittenOutput::Linear => Output::Linear,
                WrittenOutput::Groups(groups) => Output::Groups(groups),
            },
            labels: written.labels,
            classes: written.classes,
        };
        spec.check()?;
        Ok(spec)
    }

    /// Checks that the JSON's keys are those of a spec, each once, with values of their types; some may be missing.
    pub(crate) fn check_keys(json: &str) -> Result<(), SpecError> {
        let read: Result<Object<Written>, _> = serde_json::from_str(json);
        read.map(drop)
            .map_err(|error| SpecError::new("spec", error.to_string()))
    }

    /// Returns its JSON in one form: two specs are equal if and only if these are, and a digest over it is the spec's.
    pub fn to_json(&self) -> String {
        // Nothing of it can fail: it has no map with keys that are not strings, and goes to memory.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Checks what can be known without the head's numbers.
    fn check(&self) -> Result<(), SpecError> {
        if let Some(layers) = &self.layers
            && !layers.contains(&HeadLayer::Linear)
        {
            return Err(SpecError::new("layers", "there is no linear, from which logits come"));
        }
        if self.classes == Some(0) {
            return Err(SpecError::new("classes", "there must be one at least"));
        }
        if let Output::Groups(groups) = self.output {
            if groups == 0 {
                return Err(SpecError::new("output.groups", "there must be one at least"));
            }
            if let Some(classes) = self.classes.filter(|classes| classes % groups != 0) {
                let reason = format!("{classes} classes are not {groups} groups of equal size");
                return Err(SpecError::new("output.groups", reason));
            }
        }
        self.check_labels()
    }

    fn check_labels(&self) -> Result<(), SpecError> {
        let Some(labels) = &self.labels else { return Ok(()) };
        if let Some(index) = labels.iter().position(|label| label.len() > LABEL_BYTES_MAX) {
            let reason = format!("it is longer than {LABEL_BYTES_MAX} bytes");
            return Err(SpecError::new(format!("labels[{index}]"), reason));
        }
        let Some(classes) = self.classes else { return Ok(()) };
        if self.output.labels_fit(labels.len(), classes) {
            return Ok(());
        }
        let reason = format!("there are {} labels, and {classes} classes", labels.len());
        Err(SpecError::new("labels", reason))
    }
}
