//! What is known of a head spec before it is whole.

use crate::head_layer::HeadLayer;
use crate::head_spec::{HeadInput, HeadSpec, Output};
use crate::preprocessing::Preprocessing;

/// The keys of a spec that say how a head's file is read, each of which may be missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartialSpec {
    /// How its pictures are prepared.
    pub preprocessing: Option<Preprocessing>,
    /// Where its layers begin.
    pub input: Option<HeadInput>,
    /// Its layers from there to the logits.
    pub layers: Option<Vec<HeadLayer>>,
    /// What the logits mean.
    pub output: Option<Output>,
}

impl PartialSpec {
    /// Returns this one's keys, with those of `other` for what it lacks.
    pub fn or(self, other: Self) -> Self {
        Self {
            preprocessing: self.preprocessing.or(other.preprocessing),
            input: self.input.or(other.input),
            layers: self.layers.or(other.layers),
            output: self.output.or(other.output),
        }
    }
}

impl From<&HeadSpec> for PartialSpec {
    fn from(spec: &HeadSpec) -> Self {
        Self {
            preprocessing: Some(spec.preprocessing),
            input: spec.input,
            layers: spec.layers.clone(),
            output: Some(spec.output),
        }
    }
}
