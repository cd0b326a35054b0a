//! The table of layers as what computes: each layer with parameters, and what follows it up to the next one.

use crate::architecture::{Architecture, LayerKind};

/// A layer with parameters, and what is done to its result before the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// As torchvision names the layer: `features.0` to `classifier.6`.
    pub name: String,
    /// A convolution or a Linear.
    pub kind: LayerKind,
    /// Whether a rectified linear unit follows.
    pub relu: bool,
    /// Whether a 2x2 max pooling follows that.
    pub pool: bool,
}

impl Step {
    /// Whether it is a convolution: its rows are maps, else they are vectors.
    pub fn is_convolution(&self) -> bool {
        matches!(self.kind, LayerKind::Conv { .. })
    }

    /// The name of its weight.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// The name of its bias.
    pub fn bias(&self) -> String {
        format!("{}.bias", self.name)
    }
}

impl Architecture {
    /// The steps before the last Linear, in their order: what turns a picture into a row of features.
    pub fn steps(self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for layer in self.layers(1) {
            match (layer.kind, steps.last_mut()) {
                (LayerKind::Conv { .. } | LayerKind::Linear { .. }, _) => steps.push(Step {
                    name: layer.name,
                    kind: layer.kind,
                    relu: false,
                    pool: false,
                }),
                (LayerKind::Relu, Some(step)) => step.relu = true,
                (LayerKind::MaxPool, Some(step)) => step.pool = true,
                // Dropout is the identity when serving, and at 224x224 so is the pooling to 7x7.
                _ => {}
            }
        }
        steps.pop();
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_thirteen_convolutions_and_two_linears() {
        let steps = Architecture::Vgg16.steps();
        assert_eq!(steps.iter().filter(|step| step.is_convolution()).count(), 13);
        assert_eq!(steps.len(), 15);
        assert_eq!(steps[14].name, "classifier.3");
        assert!(steps.iter().all(|step| step.relu));
        let pooled: Vec<&str> = steps.iter().filter(|s| s.pool).map(|s| s.name.as_str()).collect();
        assert_eq!(
            pooled,
            ["features.2", "features.7", "features.14", "features.21", "features.28"]
        );
    }
}
