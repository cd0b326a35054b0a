//! A head spec with nothing left open.

use crate::architecture::{Architecture, Layer};
use crate::head_layer::HeadLayer;
use crate::head_spec::{HeadInput, HeadSpec, Output};
use crate::preprocessing::Preprocessing;
use crate::{LAST_BIAS, LAST_WEIGHT};

/// What a head computes from which pictures: a [`HeadSpec`] after its file was read. There is no batch norm in it, as those
/// are folded into other layers, and no number is left to a framework's default.
#[derive(Clone, Debug, PartialEq)]
pub struct CompleteSpec {
    /// How its pictures are prepared.
    pub preprocessing: Preprocessing,
    /// Where it starts.
    pub input: HeadInput,
    /// Its layers from there to the logits; one of them at least is a Linear.
    pub layers: Vec<HeadLayer>,
    /// What the logits mean.
    pub output: Output,
    /// How many of the last Linear's rows are classes, from the first on.
    pub classes: usize,
}

impl CompleteSpec {
    /// Returns the spec of VGG16's own last Linear with other rows: a softmax over `classes`.
    pub fn plain(preprocessing: Preprocessing, classes: usize) -> Self {
        Self {
            preprocessing,
            input: HeadInput::Features,
            layers: vec![HeadLayer::Linear],
            output: Output::Softmax,
            classes,
        }
    }

    /// Returns true if the head's only layer takes the place of `classifier.6`.
    pub fn is_last_linear_alone(&self) -> bool {
        self.input == HeadInput::Features && self.layers == [HeadLayer::Linear]
    }

    /// Returns VGG16's layers that lead to the head's own; all of them for a head that is the last Linear alone.
    pub fn passed_layers(&self, architecture: Architecture) -> Vec<Layer> {
        let mut layers = architecture.layers(self.classes);
        if !self.is_last_linear_alone() {
            let replaced = self.input.first_replaced();
            layers.truncate(layers.iter().take_while(|layer| layer.name != replaced).count());
        }
        layers
    }

    /// Returns the names of the parameters of the layer at `index`, weight first; none for a layer without parameters.
    pub fn parameter_names(&self, index: usize) -> Option<[String; 2]> {
        let layer = self.layers.get(index)?;
        if !matches!(layer, HeadLayer::Linear | HeadLayer::Affine) {
            return None;
        }
        Some(if self.is_last_linear_alone() {
            [LAST_WEIGHT.to_owned(), LAST_BIAS.to_owned()]
        } else {
            [format!("head.{index}.weight"), format!("head.{index}.bias")]
        })
    }

    /// Returns the index of the last Linear among the layers.
    pub fn last_linear(&self) -> usize {
        let last = self.layers.iter().rposition(|layer| *layer == HeadLayer::Linear);
        last.unwrap_or_default()
    }

    /// Returns it as the spec that gives it, with these labels.
    pub fn to_spec(&self, labels: &[String]) -> HeadSpec {
        HeadSpec {
            preprocessing: self.preprocessing,
            input: Some(self.input),
            layers: Some(self.layers.clone()),
            output: self.output,
            labels: (!labels.is_empty()).then(|| labels.to_vec()),
            classes: Some(self.classes),
        }
    }

    /// Returns true if so many labels name its classes ([`Output::labels_fit`]).
    pub fn labels_fit(&self, count: usize) -> bool {
        self.output.labels_fit(count, self.classes)
    }
}

impl TryFrom<HeadSpec> for CompleteSpec {
    type Error = &'static str;

    /// The error names a key that is left open.
    fn try_from(spec: HeadSpec) -> Result<Self, &'static str> {
        let complete = Self {
            preprocessing: spec.preprocessing,
            input: spec.input.ok_or("input")?,
            layers: spec.layers.ok_or("layers")?,
            output: spec.output,
            classes: spec.classes.ok_or("classes")?,
        };
        for layer in &complete.layers {
            match layer {
                HeadLayer::BatchNorm(_) => return Err("layers: a batch norm"),
                HeadLayer::LeakyRelu(None) | HeadLayer::Elu(None) | HeadLayer::Gelu(None) => {
                    return Err("layers: an activation's number");
                }
                _ => {}
            }
        }
        Ok(complete)
    }
}
