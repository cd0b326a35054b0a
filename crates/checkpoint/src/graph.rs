//! What a file says of a whole network.

use headswap_spec::ChannelTransform;

/// A network whose file says all that it computes, as Keras's configurations and ONNX's graphs do. The file's modules are
/// then in order of computation, each on the result of the one before, and nothing else is computed. Their tensors are
/// called as in PyTorch, the module's path first (`weight`, `bias`, `running_mean`, `running_var`), and have PyTorch's
/// shapes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Graph {
    /// Height and width of its pictures; `None` if it takes others, too, or if it begins after the convolutions.
    pub size: Option<[u32; 2]>,
    /// What it computes of each pixel before its first convolution.
    pub transform: ChannelTransform,
    /// What was assumed when it was read, a line each.
    pub assumed: Vec<String>,
}

impl Graph {
    /// A network that begins after VGG16's convolutions.
    pub(super) fn after_convolutions() -> Self {
        Self {
            size: None,
            transform: ChannelTransform::IDENTITY,
            assumed: Vec::new(),
        }
    }
}
