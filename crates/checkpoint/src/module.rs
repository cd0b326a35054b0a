//! The layers of a pickled network, as data.

/// A layer of a pickled `nn.Module` or of a TorchScript archive, read as data.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Dotted path, as the names of its tensors in the file begin: `classifier.6.1`; empty for the network itself.
    pub path: String,
    /// What it is.
    pub kind: ModuleKind,
}

/// What a layer computes, with the numbers that its tensors do not hold.
#[derive(Clone, Debug, PartialEq)]
pub enum ModuleKind {
    /// `nn.Linear`.
    Linear,
    /// `nn.Conv2d` with a stride and a dilation of 1, one group, and zeros as padding.
    Conv2d {
        /// Rows and columns of zeros on each side.
        padding: [usize; 2],
    },
    /// `nn.BatchNorm1d`, `nn.BatchNorm2d`, `nn.BatchNorm3d` or `nn.SyncBatchNorm`.
    BatchNorm {
        /// What is added to the variance.
        eps: f64,
    },
    /// x times a weight plus a bias, one of each for every channel.
    Affine,
    /// `nn.ReLU`.
    Relu,
    /// `nn.LeakyReLU`.
    LeakyRelu {
        /// The factor of negative numbers.
        slope: f64,
    },
    /// `nn.ELU`.
    Elu {
        /// The factor of the exponential.
        alpha: f64,
    },
    /// `nn.GELU`.
    Gelu {
        /// True for the approximation by tanh.
        tanh: bool,
    },
    /// `nn.SiLU`.
    Silu,
    /// `nn.Tanh`.
    Tanh,
    /// `nn.Sigmoid`.
    Sigmoid,
    /// `nn.Softmax`.
    Softmax,
    /// `nn.LogSoftmax`.
    LogSoftmax,
    /// `nn.Dropout` and its kin, which do nothing outside of training.
    Dropout,
    /// All dimensions but the batch's become one: `nn.Flatten`, Keras's `Flatten`.
    Flatten {
        /// True if a map's values follow each other by row, column and channel, as in Keras; else by channel, row and
        /// column.
        channels_last: bool,
    },
    /// `nn.Identity`.
    Identity,
    /// `nn.MaxPool2d` of 2 x 2 places that do not overlap, without padding.
    MaxPool,
    /// `nn.AdaptiveAvgPool2d`.
    AdaptiveAveragePool {
        /// Rows and columns of the output; 0 for as many as the input has.
        size: [usize; 2],
    },
    /// `nn.AdaptiveMaxPool2d`.
    AdaptiveMaxPool {
        /// Rows and columns of the output; 0 for as many as the input has.
        size: [usize; 2],
    },
    /// A module that runs others in a known order: `nn.Sequential`, torchvision's VGG, DataParallel; also
    /// `nn.ModuleList`, which has no order of its own.
    Container,
    /// Any other class, by its name without its module's.
    Other(String),
}

impl ModuleKind {
    /// The name of its class, for messages.
    pub(super) fn class(&self) -> &str {
        match self {
            Self::Linear => "Linear",
            Self::Conv2d { .. } => "Conv2d",
            Self::BatchNorm { .. } => "BatchNorm",
            Self::Affine => "Affine",
            Self::Relu => "ReLU",
            Self::LeakyRelu { .. } => "LeakyReLU",
            Self::Elu { .. } => "ELU",
            Self::Gelu { .. } => "GELU",
            Self::Silu => "SiLU",
            Self::Tanh => "Tanh",
            Self::Sigmoid => "Sigmoid",
            Self::Softmax => "Softmax",
            Self::LogSoftmax => "LogSoftmax",
            Self::Dropout => "Dropout",
            Self::Flatten { .. } => "Flatten",
            Self::Identity => "Identity",
            Self::MaxPool => "MaxPool2d",
            Self::AdaptiveAveragePool { .. } => "AdaptiveAvgPool2d",
            Self::AdaptiveMaxPool { .. } => "AdaptiveMaxPool2d",
            Self::Container => "Sequential",
            Self::Other(class) => class,
        }
    }
}
