//! The forward pass of a batch on libtorch: its trie walked, its features gathered, its heads' last Linears.

use std::any::Any;
use std::sync::{Arc, MutexGuard};

use tch::{Device, Kind, Tensor};

use super::device::{DeviceChoice, Precision};
use super::head::{TorchHead, TorchPlacer};
use super::last::{last_linears, select, to_host};
use super::placement::Placement;
use super::steps::TorchSteps;
use crate::model::network::{HeadRows, Network, NetworkError, Outputs, Placer, StepCount};
use crate::model::plan::{Pass, Wish};
use crate::model::weights::Backbone;

/// ImageNet's channel means and deviations of pixels in 0..=1, as torchvision's `VGG16_Weights.IMAGENET1K_V1` has them.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// The side and channels of a picture.
const PICTURE: [i64; 3] = [224, 224, 3];

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

/// The rows that reached the end of the steps, and where each wish's are among them.
struct Leaves {
    features: Vec<Tensor>,
    count: usize,
    rows: Vec<Vec<usize>>,
}

/// One batch on its way.
struct Walk<'a> {
    network: &'a TorchNetwork,
    /// The head of each wish; none for the backbone alone.
    heads: Vec<Option<&'a TorchHead>>,
    wishes: &'a [Wish<'a>],
    counts: Vec<StepCount>,
    leaves: Leaves,
}

impl Walk<'_> {
    /// Drives a pass's rows through its steps and on into its branches.
    fn walk(&mut self, pass: &Pass, input: &Tensor) -> Result<(), NetworkError> {
        let steps = &self.network.steps;
        for count in &mut self.counts[pass.steps.clone()] {
            count.passes += 1;
            count.rows += pass.rows.len();
        }
        let head = self.heads[pass.wish];
        let prepare = |rows: Tensor| match pass.steps.start {
            0 => self.network.normalise(&rows),
            _ => Ok(rows),
        };
        let output = steps.run(pass.steps.clone(), input, prepare, |step| match head {
            Some(head) => head.step(step, steps),
            None => steps.backbone(step),
        })?;
        for branch in &pass.branches {
            self.walk(branch, &select(&output, &pass.positions(&branch.rows))?)?;
        }
        if pass.branches.is_empty() {
            let first = self.leaves.count;
            for &wish in &pass.wishes {
                let positions = pass.positions(self.wishes[wish].rows);
                self.leaves.rows[wish] = positions.into_iter().map(|position| first + position).collect();
            }
            self.leaves.count += pass.rows.len();
            self.leaves.features.push(output);
        }
        Ok(())
    }
}

impl TorchNetwork {
    /// u8 rows of RGB to normalised N x 3 x 224 x 224, whose memory stays in the order of the input (channels last).
    fn normalise(&self, pixels: &Tensor) -> Result<Tensor, NetworkError> {
        let scaled = pixels.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?;
        let normal = scaled.f_sub(&self.mean)?.f_div(&self.deviation)?;
        let placement = self.steps.placement;
        Ok(normal.f_to_kind(placement.kind)?.f_permute([0, 3, 1, 2])?)
    }

    /// Walks the trie of the groups, and of the rows whose backbone features are wanted as one more wish.
    fn walk(
        &self,
        pixels: &Tensor,
        groups: &[HeadRows<'_>],
        heads: &[&TorchHead],
        features: &[usize],
    ) -> Result<(Leaves, Vec<StepCount>), NetworkError> {
        let mut wishes: Vec<Wish<'_>> = groups
            .iter()
            .map(|group| Wish {
                keys: &group.head.keys,
                rows: &group.rows,
            })
            .collect();
        wishes.push(Wish {
            keys: &[],
            rows: features,
        });
        // Without rows, the backbone's own features would be one more path.
        let asked = wishes.len() - usize::from(features.is_empty());
        let trie = Pass::plan(&wishes[..asked], self.steps.steps.len());
        let mut walk = Walk {
            network: self,
            heads: heads.iter().map(|head| Some(*head)).chain([None]).collect(),
            wishes: &wishes,
            counts: vec![StepCount::default(); self.steps.steps.len()],
            leaves: Leaves {
                features: Vec::new(),
                count: 0,
                rows: vec![Vec::new(); wishes.len()],
            },
        };
        walk.walk(&trie, &select(pixels, &trie.rows)?)?;
        Ok((walk.leaves, walk.counts))
    }
}

/// What the placer put into placed heads.
fn torch_heads<'a>(locked: &'a [MutexGuard<'_, Box<dyn Any + Send>>]) -> Result<Vec<&'a TorchHead>, NetworkError> {
    locked
        .iter()
        .map(|tensors| tensors.downcast_ref().ok_or(NetworkError::ForeignHead))
        .collect()
}

impl Network for TorchNetwork {
    fn forward(&mut self, pixels: &[u8], groups: &[HeadRows<'_>], features: &[usize]) -> Result<Outputs, NetworkError> {
        if groups.is_empty() && features.is_empty() {
            return Ok(Outputs::default());
        }
        let _no_gradients = tch::no_grad_guard();
        let [height, width, channels] = PICTURE;
        let count = pixels.len() as i64 / (height * width * channels);
        let pixels = Tensor::f_from_data_size(pixels, &[count, height, width, channels], Kind::Uint8)?;
        let pixels = pixels.f_to_device(self.steps.placement.device)?;

        let locked: Vec<_> = groups.iter().map(|group| group.head.tensors()).collect();
        let heads = torch_heads(&locked)?;
        let (leaves, steps) = self.walk(&pixels, groups, &heads, features)?;

        let rows = match &leaves.features[..] {
            [one] => one.shallow_clone(),
            many => Tensor::f_cat(many, 0)?,
        };
        let asked: Vec<_> = heads
            .iter()
            .map(|head| &head.last)
            .zip(leaves.rows.iter().cloned())
            .collect();
        let features = match features {
            [] => Vec::new(),
            _ => to_host(&select(&rows, &leaves.rows[groups.len()])?)?,
        };
        Ok(Outputs {
            logits: last_linears(&rows, &asked)?,
            features,
            steps,
        })
    }

    fn logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, NetworkError> {
        let _no_gradients = tch::no_grad_guard();
        let placement = self.steps.placement;
        let width = features.first().map_or(0, |row| row.len());
        let rows = Tensor::f_from_slice(&features.concat())?.f_reshape([features.len() as i64, width as i64])?;
        let rows = rows.f_to_device(placement.device)?.f_to_kind(placement.kind)?;
        let locked: Vec<_> = groups.iter().map(|group| group.head.tensors()).collect();
        let heads = torch_heads(&locked)?;
        let asked: Vec<_> = heads
            .iter()
            .zip(groups)
            .map(|(head, group)| (&head.last, group.rows.clone()))
            .collect();
        last_linears(&rows, &asked)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn steps(&self) -> Vec<String> {
        self.steps.steps.iter().map(|step| step.name.clone()).collect()
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
