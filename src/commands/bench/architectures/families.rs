//! Heads of five architectures, of at most 4.5 MB each.

use headswap_loadtest::SpecHead;
use headswap_proto::EmbedKind;
use headswap_spec::{Architecture, CompleteSpec, HeadInput, HeadLayer, Output, Preset};

/// An architecture of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Another last Linear, of ten classes.
    LastLinear,
    /// The same of 10 to 100 classes, as a dropout and a Linear give.
    DropoutLinear,
    /// Two Linears on the features.
    FeaturesHidden,
    /// Two Linears on the mean of each channel.
    AverageHidden,
    /// Two Linears on the map of the last pooling.
    FlattenHidden,
}

impl Family {
    pub const ALL: [Self; 5] = [
        Self::LastLinear,
        Self::DropoutLinear,
        Self::FeaturesHidden,
        Self::AverageHidden,
        Self::FlattenHidden,
    ];

    /// Returns the head of this architecture with a seed's numbers and number of classes.
    pub fn head(self, architecture: Architecture, seed: u64) -> SpecHead {
        use HeadLayer::{Linear, Relu};
        let features = architecture.features();
        // The convolutions' channels and the features grow alike: 512 and 4096 in VGG16.
        let channels = features / 8;
        let classes = match self {
            Self::LastLinear => 10,
            _ => 10 + seed as usize % 91,
        };
        let (input, widths) = match self {
            Self::LastLinear | Self::DropoutLinear => (HeadInput::Features, vec![features, classes]),
            Self::FeaturesHidden => (HeadInput::Features, vec![features, 256, classes]),
            Self::AverageHidden => (HeadInput::GlobalAverage, vec![channels, 256, classes]),
            Self::FlattenHidden => (HeadInput::Flatten, vec![channels * 7 * 7, 32, classes]),
        };
        let layers = match widths.len() {
            2 => vec![Linear],
            _ => vec![Linear, Relu, Linear],
        };
        let spec = CompleteSpec {
            preprocessing: Preset::Torchvision.preprocessing(),
            input,
            layers,
            output: Output::Softmax,
            classes,
        };
        SpecHead::new(spec, &widths, seed)
    }

    /// Returns what Embed calls the input of its heads.
    pub fn embed_kind(self) -> EmbedKind {
        match self {
            Self::LastLinear | Self::DropoutLinear | Self::FeaturesHidden => EmbedKind::Features,
            Self::AverageHidden => EmbedKind::Gap,
            Self::FlattenHidden => EmbedKind::Pool,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_at_most_4_5_megabytes() {
        for family in Family::ALL {
            let head = family.head(Architecture::Vgg16, 90);
            assert!(
                head.tensor_bytes() <= 4_500_000,
                "{family:?} has {}",
                head.tensor_bytes()
            );
        }
    }
}
