//! VGG16's layers as the steps of a forward pass.

use crate::architecture::{Architecture, LayerKind};

/// A layer with parameters, and the layers without parameters that follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The layer's name in torchvision: `features.0` to `classifier.6`.
    pub name: String,
    /// A convolution or a Linear.
    pub kind: LayerKind,
    /// True if a rectified linear unit follows.
    pub relu: bool,
    /// True if a 2x2 max pooling follows after that.
    pub pool: bool,
}

impl Step {
    /// Returns true if it is a convolution, whose rows are feature maps; a Linear's are vectors.
    pub fn is_convolution(&self) -> bool {
        matches!(self.kind, LayerKind::Conv { .. })
    }

    /// Returns the name of its weight.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// Returns the name of its bias.
    pub fn bias(&self) -> String {
        format!("{}.bias", self.name)
    }
}

impl Architecture {
    /// Returns the steps before the last Linear, in order. They compute a row of features from a picture.
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
                // Dropout is the identity when serving, as is the average pooling for pictures of 224x224.
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
