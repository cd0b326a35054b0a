//! The forward pass of a batch on libtorch: its trie walked, its features gathered, its heads' last Linears.

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::device::kind;
use super::head::{TorchHead, TorchPlacer};
use super::last::{last_linears, select, to_host};
use super::placement::Placement;
use super::steps::{TorchOverrides, TorchSteps};
use crate::model::network::{HeadRows, Network, NetworkError, Outputs, Placer, downcast};
use crate::model::settings::Precision;
use crate::model::walk::{Stepper, walk};
use crate::model::weights::Backbone;

/// ImageNet's channel means and deviations of pixels in 0..=1, as torchvision's `VGG16_Weights.IMAGENET1K_V1` has them.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// The side and channels of a picture.
const PICTURE: [i64; 3] = [224, 224, 3];

/// Places `backbone`, without its last Linear, on the device.
///
/// # Errors
/// [`NetworkError::Device`] if the device has no room.
pub fn torch_network(
    backbone: &Backbone,
    device: Device,
    precision: Precision,
    threads: usize,
) -> Result<Box<dyn Network>, NetworkError> {
    let placement = Placement {
        device,
        kind: kind(precision, device)?,
    };
    tch::set_num_threads(threads as i32);

    let steps = TorchSteps::place(placement, backbone.architecture.steps(), &backbone.parameters)?;
    let channel = |values: [f32; 3]| Tensor::f_from_slice(&values)?.f_to_device(device);
    let steps = Arc::new(steps);
    Ok(Box::new(TorchNetwork {
        placer: Arc::new(TorchPlacer::new(Arc::clone(&steps))),
        steps,
        mean: channel(MEAN)?,
        deviation: channel(DEVIATION)?,
    }))
}

struct TorchNetwork {
    steps: Arc<TorchSteps>,
    placer: Arc<TorchPlacer>,
    mean: Tensor,
    deviation: Tensor,
}

impl TorchNetwork {
    /// u8 rows of RGB to normalised N x 3 x 224 x 224, whose memory stays in the order of the input (channels last).
    fn normalise(&self, pixels: &Tensor) -> Result<Tensor, NetworkError> {
        let scaled = pixels.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?;
        let normal = scaled.f_sub(&self.mean)?.f_div(&self.deviation)?;
        let placement = self.steps.placement;
        Ok(normal.f_to_kind(placement.kind)?.f_permute([0, 3, 1, 2])?)
    }
}

impl Stepper for TorchNetwork {
    type Rows = Tensor;
    type Head = TorchOverrides;

    fn steps(&self) -> usize {
        self.steps.stack.steps.len()
    }

    fn run(
        &mut self,
        steps: Range<usize>,
        rows: &Tensor,
        head: Option<&TorchOverrides>,
    ) -> Result<Tensor, NetworkError> {
        let prepare = |rows: Tensor| match steps.start {
            0 => self.normalise(&rows),
            _ => Ok(rows),
        };
        self.steps.run(steps.clone(), rows, prepare, head)
    }

    fn select(&mut self, rows: &Tensor, positions: &[usize]) -> Result<Tensor, NetworkError> {
        select(rows, positions)
    }
}

impl Network for TorchNetwork {
    fn forward(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
    ) -> Result<Outputs, NetworkError> {
        if groups.is_empty() && features.is_empty() {
            return Ok(Outputs::default());
        }
        let _no_gradients = tch::no_grad_guard();
        let [height, width, channels] = PICTURE;
        let shape = [pictures.len() as i64, height, width, channels];
        let pixels = Tensor::f_from_data_size(&pictures.concat(), &shape, Kind::Uint8)?;
        let pixels = pixels.f_to_device(self.steps.placement.device)?;

        let locked: Vec<_> = groups.iter().map(|group| group.head.tensors()).collect();
        let heads: Vec<&TorchHead> = downcast(&locked)?;
        let overrides: Vec<_> = heads.iter().map(|head| &head.overrides).collect();
        let leaves = walk(self, &pixels, groups, &overrides, features)?;

        let rows = match &leaves.features[..] {
            [one] => one.shallow_clone(),
            many => Tensor::f_cat(many, 0)?,
        };
        let last = heads.iter().map(|head| &head.last);
        let asked: Vec<_> = last.zip(leaves.groups.iter().map(Vec::as_slice)).collect();
        let features = match features {
            [] => Vec::new(),
            _ => to_host(&select(&rows, &leaves.wanted)?)?,
        };
        Ok(Outputs {
            logits: last_linears(&rows, &asked)?,
            features,
            steps: leaves.steps,
        })
    }

    fn logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, NetworkError> {
        let _no_gradients = tch::no_grad_guard();
        let placement = self.steps.placement;
        let width = features.first().map_or(0, |row| row.len());
        let rows = Tensor::f_from_slice(&features.concat())?.f_reshape([features.len() as i64, width as i64])?;
        let rows = rows.f_to_device(placement.device)?.f_to_kind(placement.kind)?;
        let locked: Vec<_> = groups.iter().map(|group| group.head.tensors()).collect();
        let heads: Vec<&TorchHead> = downcast(&locked)?;
        let asked: Vec<_> = heads
            .iter()
            .zip(groups)
            .map(|(head, group)| (&head.last, group.rows.as_slice()))
            .collect();
        last_linears(&rows, &asked)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn steps(&self) -> Vec<String> {
        self.steps.stack.steps.iter().map(|step| step.name.clone()).collect()
    }

    fn device(&self) -> (String, String) {
        let placement = self.steps.placement;
        let device = match placement.device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".into(),
        };
        (device, placement.precision().into())
    }
}
