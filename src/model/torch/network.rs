//! The backbone on libtorch.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::device::{DeviceChoice, Precision};
use super::head::{TorchHead, to_host};
use super::placement::{PlacedTensor, Placement};
use crate::model::architecture::{Layer, LayerKind};
use crate::model::network::{HeadRows, Network, NetworkError, Outputs, Placer};
use crate::model::tensor::{HostTensor, Parameters};
use crate::model::weights::Backbone;

/// ImageNet's channel means and deviations of pixels in 0..=1, as torchvision's `VGG16_Weights.IMAGENET1K_V1` has them.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Pictures that pass the convolutions together on the CPU. Their activations are the largest memory there is, 26 MB a
/// picture in the first block; larger groups take more of it and are hardly faster (`benches/README.md`).
const CPU_GROUP: i64 = 2;

/// How to compute.
#[derive(Clone, Copy, Debug)]
pub struct TorchSettings {
    /// Which device.
    pub device: DeviceChoice,
    /// Which element type.
    pub precision: Precision,
    /// Threads of one operation on the CPU; 0 takes one for each core.
    pub threads: usize,
}

/// Places `backbone`, without its last Linear, on the device.
///
/// # Errors
/// [`NetworkError::Device`] if the device is not there or has no room.
pub fn torch_network(backbone: Backbone, settings: TorchSettings) -> Result<Box<dyn Network>, NetworkError> {
    let device = settings.device.resolve()?;
    let placement = Placement {
        device,
        kind: settings.precision.kind(device),
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    tch::set_num_threads(if settings.threads == 0 { cores } else { settings.threads } as i32);

    let layers = backbone.architecture.layers(backbone.classes);
    let parameters = backbone.parameters;
    let (features, classifier): (Vec<Layer>, Vec<Layer>) = layers
        .into_iter()
        .partition(|layer| layer.name.starts_with("features."));
    let place = |layers: Vec<Layer>| -> Result<Vec<Stage>, NetworkError> {
        let stages = layers
            .iter()
            .filter_map(|layer| Stage::place(layer, &placement, &parameters).transpose());
        stages.collect()
    };
    let features = place(features)?;
    let classifier = place(classifier)?;

    let channel = |values: [f32; 3]| Tensor::f_from_slice(&values)?.f_to_device(device);
    let network = TorchNetwork {
        placement,
        features,
        classifier,
        mean: channel(MEAN)?,
        deviation: channel(DEVIATION)?,
    };
    Ok(Box::new(network))
}

struct TorchNetwork {
    placement: Placement,
    features: Vec<Stage>,
    classifier: Vec<Stage>,
    mean: Tensor,
    deviation: Tensor,
}

/// A layer that computes something when serving.
enum Stage {
    Conv(PlacedTensor, PlacedTensor),
    Linear(PlacedTensor, PlacedTensor),
    Relu,
    MaxPool,
}

impl Stage {
    fn place(layer: &Layer, placement: &Placement, parameters: &Parameters) -> Result<Option<Self>, NetworkError> {
        let parameter = |what: &str| parameters.get(&format!("{}.{what}", layer.name));
        let (weight, bias) = match (parameter("weight"), parameter("bias")) {
            (Some(weight), Some(bias)) => (weight, bias),
            _ if matches!(layer.kind, LayerKind::Relu | LayerKind::MaxPool) => return Ok(Self::of(layer.kind)),
            // The last Linear is a head's.
            _ => return Ok(None),
        };
        Ok(match layer.kind {
            LayerKind::Conv { .. } => Some(Self::Conv(
                placement.place_channels_last(weight)?,
                placement.place(bias)?,
            )),
            LayerKind::Linear { .. } => Some(Self::Linear(placement.place(weight)?, placement.place(bias)?)),
            _ => None,
        })
    }

    fn of(kind: LayerKind) -> Option<Self> {
        match kind {
            LayerKind::Relu => Some(Self::Relu),
            LayerKind::MaxPool => Some(Self::MaxPool),
            _ => None,
        }
    }

    fn forward(&self, mut input: Tensor) -> Result<Tensor, NetworkError> {
        Ok(match self {
            Self::Conv(weight, bias) => {
                input.f_conv2d(weight.tensor(), Some(bias.tensor()), [1, 1], [1, 1], [1, 1], 1)?
            }
            Self::Linear(weight, bias) => input.f_linear(weight.tensor(), Some(bias.tensor()))?,
            Self::Relu => input.f_relu_()?,
            Self::MaxPool => input.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?,
        })
    }
}

impl TorchNetwork {
    /// N x 224 x 224 x 3 u8 to rows of features, N x 4096.
    fn features(&self, pixels: &Tensor) -> Result<Tensor, NetworkError> {
        let group = if self.placement.device == Device::Cpu {
            CPU_GROUP
        } else {
            pixels.size()[0].max(1)
        };
        let convolved: Vec<Tensor> = pixels
            .f_split(group, 0)?
            .iter()
            .map(|pixels| {
                let maps = self
                    .features
                    .iter()
                    .try_fold(self.normalise(pixels)?, |maps, stage| stage.forward(maps))?;
                // Channels first, as the Linears were trained.
                Ok(maps.f_contiguous()?.f_flatten(1, -1)?)
            })
            .collect::<Result<_, NetworkError>>()?;
        let flat = Tensor::f_cat(&convolved, 0)?;
        self.classifier.iter().try_fold(flat, |rows, stage| stage.forward(rows))
    }

    /// u8 rows of RGB to normalised N x 3 x 224 x 224, whose memory stays in the order of the input (channels last).
    fn normalise(&self, pixels: &Tensor) -> Result<Tensor, NetworkError> {
        let scaled = pixels.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?;
        let normal = scaled.f_sub(&self.mean)?.f_div(&self.deviation)?;
        Ok(normal.f_to_kind(self.placement.kind)?.f_permute([0, 3, 1, 2])?)
    }
}

impl Network for TorchNetwork {
    fn forward(
        &mut self,
        pixels: &[u8],
        count: usize,
        groups: &[HeadRows<'_>],
        features: bool,
    ) -> Result<Outputs, NetworkError> {
        let _no_gradients = tch::no_grad_guard();
        let pixels = Tensor::f_from_data_size(pixels, &[count as i64, 224, 224, 3], Kind::Uint8)?;
        let rows = self.features(&pixels.f_to_device(self.placement.device)?)?;

        let mut outputs = Outputs::default();
        for group in groups {
            let tensors = group.head.tensors();
            let head = tensors.downcast_ref::<TorchHead>().ok_or(NetworkError::ForeignHead)?;
            let logits = if group.rows.len() == count {
                head.logits(&rows)?
            } else {
                let indices: Vec<i64> = group.rows.iter().map(|&row| row as i64).collect();
                let indices = Tensor::f_from_slice(&indices)?.f_to_device(self.placement.device)?;
                head.logits(&rows.f_index_select(0, &indices)?)?
            };
            outputs.logits.push(logits);
        }
        if features {
            outputs.features = Some(to_host(&rows)?);
        }
        Ok(outputs)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::new(self.placement)
    }

    fn device(&self) -> (String, String) {
        let device = match self.placement.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".into(),
        };
        (device, precision_name(self.placement.kind).into())
    }
}

impl Placement {
    /// Places a convolution's weights with the channels innermost in memory, which is what the input has.
    fn place_channels_last(&self, weight: &Arc<HostTensor>) -> Result<PlacedTensor, NetworkError> {
        self.place(weight)?.map(|weight| {
            Ok(weight
                .f_permute([0, 2, 3, 1])?
                .f_contiguous()?
                .f_permute([0, 3, 1, 2])?)
        })
    }
}

pub(super) fn precision_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bf16",
        Kind::Half => "f16",
        _ => "f32",
    }
}
