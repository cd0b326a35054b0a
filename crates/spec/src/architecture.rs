//! VGG16 as one table of layers (configuration D of Simonyan and Zisserman, "Very Deep Convolutional Networks for
//! Large-Scale Image Recognition", 2014), with torchvision's names.

/// What a layer computes. Convolutions are 3x3 with stride 1 and padding 1, max pooling 2x2 with stride 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A convolution of the `input` channels into `output` channels.
    Conv {
        /// Channels in.
        input: usize,
        /// Channels out.
        output: usize,
    },
    /// Rectified linear unit.
    Relu,
    /// Halves each side.
    MaxPool,
    /// To 7x7, which at 224x224 input is what arrives.
    AdaptiveAvgPool,
    /// The identity when serving.
    Dropout,
    /// A fully connected layer.
    Linear {
        /// Numbers in.
        input: usize,
        /// Numbers out.
        output: usize,
    },
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// As torchvision names it: `features.0` to `classifier.6`.
    pub name: String,
    /// What it computes.
    pub kind: LayerKind,
}

impl Layer {
    /// The names and shapes of its parameters, weight first; empty for layers without.
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

/// Which VGG16: the real one, or the same table with 1/32 of the channels, for fast tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Architecture {
    /// 64 to 512 channels and 4096 features: 138,357,544 parameters.
    Vgg16,
    /// 2 to 16 channels and 128 features, for tests of everything but the numbers.
    Vgg16Narrow,
}

/// Output channels of the convolutions; 0 is a max pooling.
const FEATURES: [usize; 18] = [
    64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0,
];

impl Architecture {
    /// The length of a row of features, which the last Linear takes.
    pub fn features(self) -> usize {
        4096 / self.divisor()
    }

    /// The layers in their order, with a last Linear of `classes` outputs.
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

    /// The names and shapes of all parameters, in the layers' order.
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
    fn the_table_is_vgg16() {
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
