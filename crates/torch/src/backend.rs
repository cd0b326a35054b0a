//! The backend on libtorch.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use headswap_model::{
    Backbone, Backend, BackendError, HeadRows, Outputs, Placer, Precision, StepCount, Stepper, StillWanted, placed,
    walk,
};
use tch::{Device, Kind, Tensor};

use super::accelerator::{Accelerator, LANES};
use super::cuda::CudaDevice;
use super::device::{kind, torch_device};
use super::graphs::{Graphs, Recording};
use super::head::{TorchHead, TorchPlacer};
use super::lane::{Lane, PICTURE, PICTURE_BYTES, Shared};
use super::last::{HostProducts, LastProducts, select, to_host};
use super::placement::Placement;
use super::steps::{TorchOverrides, TorchSteps};
use crate::error::Result;

/// Places `backbone`, without its last Linear, on the device.
///
/// # Errors
/// [`BackendError::OutOfMemory`] if the device has too little memory, [`BackendError::Settings`] if libtorch has another
/// version.
pub fn torch_backend(
    backbone: &Backbone,
    device: headswap_model::Device,
    precision: Precision,
    threads: usize,
) -> Result<Box<dyn Backend>> {
    let kind = kind(precision, device)?;
    let device = torch_device(device);
    let accelerator = match device {
        Device::Cuda(index) => Some(Arc::new(CudaDevice::new(index)?) as Arc<dyn Accelerator>),
        _ => None,
    };
    let placement = Placement {
        device,
        kind,
        folded: accelerator.is_some(),
    };
    tch::set_num_threads(threads as i32);
    Ok(Box::new(TorchBackend::new(backbone, placement, accelerator, threads)?))
}

/// The backend, or one lane of it.
struct TorchBackend {
    steps: Arc<TorchSteps>,
    placer: Arc<TorchPlacer>,
    host: HostProducts,
    /// `None` on the CPU.
    lane: Option<Lane>,
}

/// The results of a batch, which the device may still be computing.
struct Pending {
    logits: LastProducts,
    /// Features in f32, and the wanted rows of them.
    features: Option<(Tensor, Vec<usize>)>,
    steps: Vec<StepCount>,
}

impl Pending {
    /// Waits for the results and returns them.
    fn read(self) -> Result<Outputs> {
        let mut features = Vec::new();
        if let Some((rows, wanted)) = self.features {
            let width = rows.size()[1] as usize;
            let rows = to_host(&rows)?;
            features.extend(wanted.iter().flat_map(|&row| &rows[row * width..][..width]));
        }
        Ok(Outputs {
            logits: self.logits.read()?,
            features,
            steps: self.steps,
        })
    }
}

impl TorchBackend {
    fn new(
        backbone: &Backbone,
        placement: Placement,
        accelerator: Option<Arc<dyn Accelerator>>,
        threads: usize,
    ) -> Result<Self> {
        let steps = backbone.architecture.steps();
        let steps = TorchSteps::place(placement, steps, &backbone.parameters, accelerator.clone())?;
        let steps = Arc::new(steps);
        let lane = accelerator.map(|accelerator| {
            let graphs = Mutex::new(Graphs::default());
            Lane::new(Arc::new(Shared { accelerator, graphs }), 1, placement.device)
        });
        Ok(Self {
            placer: Arc::new(TorchPlacer::new(Arc::clone(&steps))),
            steps,
            // A GPU computes the heads' products itself.
            host: HostProducts::new(if lane.is_some() { 1 } else { threads }),
            lane,
        })
    }
}

/// Submits a batch to the device. `pixels` are its pictures, which are on the device.
fn launch(
    steps: &TorchSteps,
    graphs: Option<&Graphs>,
    host: &mut HostProducts,
    pixels: &Tensor,
    groups: &[HeadRows<'_>],
    wanted: &[usize],
) -> Result<Pending> {
    let heads: Vec<&TorchHead> = placed(groups)?;
    let overrides: Vec<_> = heads.iter().map(|head| &head.overrides).collect();
    let leaves = walk(&mut TorchPass { steps, graphs }, pixels, groups, &overrides, wanted)?;

    let rows = match &leaves.features[..] {
        [one] => one.shallow_clone(),
        many => Tensor::f_cat(many, 0)?,
    };
    let last = heads.iter().map(|head| &head.last);
    let products: Vec<_> = last.zip(leaves.groups.iter().map(Vec::as_slice)).collect();
    let features = match wanted {
        [] => None,
        // A copy, since the next batch may overwrite the rows; of all rows, since selecting some would need host–device
        // synchronisation.
        _ => Some((
            rows.f_to_device_(rows.device(), Kind::Float, false, true)?,
            leaves.wanted,
        )),
    };
    Ok(Pending {
        logits: LastProducts::of(&rows, &products, host)?,
        features,
        steps: leaves.steps,
    })
}

/// The execution of a batch's steps.
struct TorchPass<'a> {
    steps: &'a TorchSteps,
    graphs: Option<&'a Graphs>,
}

impl Stepper for TorchPass<'_> {
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
    ) -> Result<Tensor, BackendError> {
        let is_whole_backbone = steps == (0..self.steps()) && head.is_none_or(|head| head.keys.is_empty());
        if let Some(graphs) = self.graphs.filter(|_| is_whole_backbone)
            && let Some(features) = graphs.run(rows)?
        {
            return Ok(features);
        }
        Ok(self.steps.run(steps, rows, head)?)
    }

    fn select(&mut self, rows: &Tensor, positions: &[usize]) -> Result<Tensor, BackendError> {
        Ok(select(rows, positions)?)
    }
}

impl TorchBackend {
    fn try_prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<()> {
        let _no_gradients = tch::no_grad_guard();
        let Some(lane) = &mut self.lane else {
            return Ok(());
        };
        let grey = [127; PICTURE_BYTES];
        let picture = lane.upload(&[&grey])?;
        let (steps, all) = (Arc::clone(&self.steps), 0..self.steps.stack.steps.len());
        let mut turn = lane.turn()?;
        let recording = Recording {
            accelerator: turn.accelerator,
            max_batch,
            stop,
            like: &picture,
        };
        turn.graphs.record(
            &recording,
            |rows| self.steps.check_fused(rows),
            move |pictures| steps.run(all.clone(), pictures, None),
        );
        Ok(())
    }

    fn try_forward(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
        wanted: &mut dyn StillWanted,
    ) -> Result<Outputs> {
        if groups.is_empty() && features.is_empty() {
            return Ok(Outputs::default());
        }
        let _no_gradients = tch::no_grad_guard();
        let Some(lane) = &mut self.lane else {
            if !wanted.still_wanted() {
                return Err(BackendError::NotWanted.into());
            }
            let [height, width, channels] = PICTURE;
            let shape = [pictures.len() as i64, height, width, channels];
            let pixels = Tensor::f_from_data_size(&pictures.concat(), &shape, Kind::Uint8)?;
            return launch(&self.steps, None, &mut self.host, &pixels, groups, features)?.read();
        };
        let pixels = lane.upload(pictures)?;
        let turn = lane.turn()?;
        // This lane may have waited long for its turn.
        if !wanted.still_wanted() {
            return Err(BackendError::NotWanted.into());
        }
        let pending = launch(
            &self.steps,
            Some(&turn.graphs),
            &mut self.host,
            &pixels,
            groups,
            features,
        );
        drop(turn);
        pending?.read()
    }

    fn try_logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>> {
        let _no_gradients = tch::no_grad_guard();
        let placement = self.steps.placement;
        let width = features.first().map_or(0, |row| row.len());
        let rows = Tensor::f_from_slice(&features.concat())?.f_reshape([features.len() as i64, width as i64])?;
        let rows = rows.f_to_device(placement.device)?.f_to_kind(placement.kind)?;
        let heads: Vec<&TorchHead> = placed(groups)?;
        let products: Vec<_> = heads
            .iter()
            .zip(groups)
            .map(|(head, group)| (&head.last, group.rows.as_slice()))
            .collect();
        LastProducts::of(&rows, &products, &mut self.host)?.read()
    }
}

impl Backend for TorchBackend {
    fn prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<(), BackendError> {
        Ok(self.try_prepare(max_batch, stop)?)
    }

    fn into_lanes(mut self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>> {
        let device = self.steps.placement.device;
        let Some(first) = self.lane.take() else {
            return vec![vec![self]];
        };
        let mut lanes: Vec<Box<dyn Backend>> = Vec::new();
        for stream in 1..=LANES {
            lanes.push(Box::new(Self {
                steps: Arc::clone(&self.steps),
                placer: Arc::clone(&self.placer),
                host: HostProducts::new(1),
                lane: Some(Lane::new(Arc::clone(&first.shared), stream, device)),
            }));
        }
        vec![lanes]
    }

    fn forward_if(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
        wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        Ok(self.try_forward(pictures, groups, features, wanted)?)
    }

    fn logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
        Ok(self.try_logits(features, groups)?)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn steps(&self) -> Vec<String> {
        self.steps.stack.steps.iter().map(|step| step.name.clone()).collect()
    }

    fn devices(&self) -> Vec<headswap_model::Device> {
        vec![match self.steps.placement.device {
            Device::Cuda(index) => headswap_model::Device::Cuda(index),
            _ => headswap_model::Device::Cpu,
        }]
    }

    fn precision(&self) -> &'static str {
        self.steps.placement.precision()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::accelerator::{COMPUTE, Recorded, STREAMS, Search, Work};
    use headswap_model::PlacedHead;
    use headswap_model::{WeightsSource, demo_head_from};
    use headswap_spec::Architecture;

    thread_local! {
        static ENTERED: Cell<usize> = const { Cell::new(COMPUTE) };
    }

    /// The CPU as an accelerator, which replays recorded work by computing it again.
    #[derive(Default)]
    struct Emulated {
        replays: Arc<AtomicUsize>,
    }

    impl Accelerator for Emulated {
        fn enter(&self, stream: usize) -> Result<()> {
            assert!(stream < STREAMS);
            ENTERED.set(stream);
            Ok(())
        }

        fn wait(&self, stream: usize, other: usize) -> Result<()> {
            assert!(stream < STREAMS && other < STREAMS && (stream == COMPUTE) != (other == COMPUTE));
            Ok(())
        }

        fn record(&self, _: Search, before: &dyn Fn() -> Result<()>, work: Work) -> Result<Recorded> {
            before()?;
            let output = work()?;
            let recorded = Mutex::new((output.shallow_clone(), work));
            let replays = Arc::clone(&self.replays);
            Ok(Recorded {
                output,
                replay: Box::new(move || {
                    assert_eq!(ENTERED.get(), COMPUTE, "passes run in the stream that computes");
                    replays.fetch_add(1, Ordering::Relaxed);
                    let (output, work) = &mut *recorded.lock().unwrap();
                    Ok(output.f_copy_(&work()?)?)
                }),
            })
        }
    }

    const HEADS: [(&str, usize); 4] = [
        ("classifier.6", 10),
        ("classifier.6", 3),
        ("classifier.3", 5),
        ("features.0", 7),
    ];

    fn backend_of(folded: bool, accelerator: Option<Arc<dyn Accelerator>>) -> (Box<TorchBackend>, Vec<PlacedHead>) {
        let narrow = Architecture::Vgg16Narrow;
        let backbone = Backbone::load(&WeightsSource::Demo, narrow).unwrap();
        let placement = Placement {
            device: Device::Cpu,
            kind: Kind::Float,
            folded,
        };
        let backend = TorchBackend::new(&backbone, placement, accelerator, 2).unwrap();
        let placer = backend.placer();
        let mut heads = Vec::new();
        for (seed, (split, classes)) in HEADS.into_iter().enumerate() {
            let parameters = demo_head_from(narrow, split, classes, seed as u64);
            heads.push(placer.place(&parameters).unwrap());
        }
        (Box::new(backend), heads)
    }

    /// Pictures, and indices of heads with their rows.
    type Batch = (Vec<Vec<u8>>, Vec<(usize, Vec<usize>)>);

    fn picture(seed: usize) -> Vec<u8> {
        (0..224 * 224 * 3).map(|at| (at * (seed + 31) % 251) as u8).collect()
    }

    fn run(backend: &mut dyn Backend, heads: &[PlacedHead], (pictures, rows_by_head): &Batch) -> Outputs {
        let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        let mut groups = Vec::new();
        for (head, rows) in rows_by_head {
            groups.push(HeadRows {
                head: &heads[*head],
                rows: rows.clone(),
            });
        }
        backend.forward(&pictures, &groups, &[0]).unwrap()
    }

    fn is_close(got: &[f32], want: &[f32]) -> bool {
        let largest = want.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        got.len() == want.len()
            && got
                .iter()
                .zip(want)
                .all(|(got, want)| (got - want).abs() <= 1e-4 * largest)
    }

    /// Batches of a recorded size, of a size that is padded to one, and of one that is too large; heads that use the
    /// recorded pass and heads that do not.
    #[test]
    fn lanes_compute_the_same_as_the_cpu() {
        let (mut plain, plain_heads) = backend_of(false, None);
        let replays = Arc::new(AtomicUsize::new(0));
        let emulated = Emulated {
            replays: Arc::clone(&replays),
        };
        let (backend, heads) = backend_of(true, Some(Arc::new(emulated)));

        let batches: [Batch; 4] = [
            (vec![picture(1)], vec![(0, vec![0])]),
            ((2..5).map(picture).collect(), vec![(0, vec![0, 2]), (1, vec![1, 2])]),
            (
                (5..8).map(picture).collect(),
                vec![(0, vec![0]), (2, vec![1]), (3, vec![2])],
            ),
            ((8..13).map(picture).collect(), vec![(1, (0..5).collect())]),
        ];
        let expected: Vec<Outputs> = batches
            .iter()
            .map(|batch| run(&mut *plain, &plain_heads, batch))
            .collect();

        let (batches, expected, heads) = (&batches, &expected, &heads);
        std::thread::scope(|scope| {
            for mut lane in backend.into_lanes().into_iter().flatten() {
                scope.spawn(move || {
                    lane.prepare(3, &AtomicBool::new(false)).unwrap();
                    for index in (0..batches.len()).chain((0..batches.len()).rev()) {
                        let (got, want) = (run(&mut *lane, heads, &batches[index]), &expected[index]);
                        for (got, want) in got.logits.iter().zip(&want.logits) {
                            assert!(is_close(got, want), "batch {index}: {got:?} {want:?}");
                        }
                        assert!(is_close(&got.features, &want.features), "batch {index}");
                        assert_eq!(got.steps, want.steps);
                    }
                });
            }
        });
        // The first two batches of each lane, each twice; the passes of the others are not recorded.
        assert_eq!(replays.load(Ordering::Relaxed), 2 * 2 * 2);
    }
}
