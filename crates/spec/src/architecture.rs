//! VGG16's layers (configuration D of Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
//! Recognition", 2014), with torchvision's names.

use serde::Serialize;

/// What a layer computes. Convolutions are 3x3 with stride 1 and padding 1, max pooling 2x2 with stride 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A convolution.
    Conv {
        /// Input channels.
        input: usize,
        /// Output channels.
        output: usize,
    },
    /// Rectified linear unit.
    Relu,
    /// Max pooling, which halves each side.
    MaxPool,
    /// Average pooling to 7x7: the identity for pictures of 224x224.
    AdaptiveAvgPool,
    /// The identity when serving.
    Dropout,
    /// A fully connected layer.
    Linear {
        /// Input features.
        input: usize,
        /// Output features.
        output: usize,
    },
}

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The name in torchvision: `features.0` to `classifier.6`.
    pub name: String,
    /// What it computes.
    pub kind: LayerKind,
}

impl Layer {
    /// Returns the names and shapes of its parameters, weight first; empty for layers without parameters.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (weight, bias) = match self.kind {
            LayerKind::Conv { input, output } => (vec![output, input, 3, 3], vec![output]),
            LayerKind::Linear { input, output } => (vec![output, input], vec![output]),
            _ => return Vec::new(),
        };
        vec![
            (format!("{}.weight", self.name), weight),
            (format!("{}.bias", self.name), bias),
        ]
    }
}

/// VGG16, or the same layers with 1/32 of the channels, for fast tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Architecture {
    /// 64 to 512 channels and 4096 features: 138,357,544 parameters.
    Vgg16,
    /// 2 to 16 channels and 128 features, for tests that do not depend on the weights.
    Vgg16Narrow,
}

/// Output channels of the convolutions; 0 stands for a max pooling.
const FEATURES: [usize; 18] = [
    64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0,
];

impl Architecture {
    /// Returns the number of features, the inputs of the last Linear.
    pub fn features(self) -> usize {
        4096 / self.divisor()
    }

    /// Returns the layers in order; the last Linear has `classes` outputs.
    pub fn layers(self, classes: usize) -> Vec<Layer> {
        let mut kinds = Vec::new();
        let mut channels = 3;
        for width in FEATURES {
            if width == 0 {
                kinds.push(LayerKind::MaxPool);
            } else {
                let output = width / self.divisor();
                kinds.extend([
                    LayerKind::Conv {
                        input: channels,
                        output,
                    },
                    LayerKind::Relu,
                ]);
                channels = output;
            }
        }
        let features = named("features", kinds);

        let hidden = self.features();
        let classifier = named(
            "classifier",
            vec![
                LayerKind::Linear {
                    input: channels * 7 * 7,
                    output: hidden,
                },
                LayerKind::Relu,
                LayerKind::Dropout,
                LayerKind::Linear {
                    input: hidden,
                    output: hidden,
                },
                LayerKind::Relu,
                LayerKind::Dropout,
                LayerKind::Linear {
                    input: hidden,
                    output: classes,
                },
            ],
        );
        let avgpool = Layer {
            name: "avgpool".into(),
            kind: LayerKind::AdaptiveAvgPool,
        };
        features.chain([avgpool]).chain(classifier).collect()
    }

    /// Returns the layers before the last Linear, with the ReLU and dropout before it; without the classifier, those of the
    /// convolutions alone.
    pub fn backbone_layers(self, has_features: bool) -> Vec<Layer> {
        let mut layers = self.layers(1);
        let end = if has_features {
            layers.len() - 1
        } else {
            layers
                .iter()
                .take_while(|layer| layer.name.starts_with("features"))
                .count()
        };
        layers.truncate(end);
        layers
    }

    /// Returns the names and shapes of all parameters, in the order of the layers.
    pub fn parameters(self, classes: usize) -> Vec<(String, Vec<usize>)> {
        self.layers(classes).iter().flat_map(Layer::parameters).collect()
    }

    fn divisor(self) -> usize {
        match self {
            Self::Vgg16 => 1,
            Self::Vgg16Narrow => 32,
        }
    }
}

fn named(prefix: &'static str, kinds: Vec<LayerKind>) -> impl Iterator<Item = Layer> {
    kinds.into_iter().enumerate().map(move |(index, kind)| Layer {
        name: format!("{prefix}.{index}"),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_are_those_of_vgg16() {
        let parameters = Architecture::Vgg16.parameters(1000);
        let count: usize = parameters
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        assert_eq!(count, 138_357_544);
        assert_eq!(parameters.len(), 32);
        assert_eq!(parameters[24], ("features.28.weight".into(), vec![512, 512, 3, 3]));
        assert_eq!(parameters[26], ("classifier.0.weight".into(), vec![4096, 25088]));
    }
}
