//! The backend on libtorch.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use headswap_image::Prepared;
use headswap_model::{
    Backbone, Backend, BackendError, HeadRows, InputRow, LeafRows, Outputs, Placer, Precision, StillWanted,
    WantedInput, placed,
};
use headswap_spec::{HeadInput, PICTURE_BYTES, PICTURE_SIDE, Preset};
use tch::Device;

use super::accelerator::{Accelerator, LANES};
use super::batch::{Batch, launch, read_logits};
use super::cuda::CudaDevice;
use super::device::{kind, torch_device};
use super::graphs::{Graphs, Recording};
use super::head::{TorchHead, TorchPlacer};
use super::host::HostProducts;
use super::inputs::Inputs;
use super::lane::{Lane, Shared};
use super::last::LastProducts;
use super::pass::TorchPass;
use super::pictures::Pictures;
use super::placement::Placement;
use super::rows::{Rows, select};
use super::steps::TorchSteps;
use crate::error::Result;

/// Places `backbones`, at least one, without their last Linears, on the device.
///
/// # Errors
/// [`BackendError::OutOfMemory`] if the device has too little memory, [`BackendError::Settings`] if libtorch has another
/// version.
pub fn torch_backend(
    backbones: &[Backbone],
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
        gpu: accelerator.is_some(),
    };
    tch::set_num_threads(threads as i32);
    Ok(Box::new(TorchBackend::new(backbones, placement, accelerator, threads)?))
}

/// The backend, or one lane of it.
struct TorchBackend {
    steps: Arc<TorchSteps>,
    placer: Arc<TorchPlacer>,
    host: HostProducts,
    /// `None` on the CPU.
    lane: Option<Lane>,
}

impl TorchBackend {
    fn new(
        backbones: &[Backbone],
        placement: Placement,
        accelerator: Option<Arc<dyn Accelerator>>,
        threads: usize,
    ) -> Result<Self> {
        let Some(first) = backbones.first() else {
            return Err(BackendError::Settings("there is no backbone".into()).into());
        };
        let parameters: Vec<_> = backbones.iter().map(|backbone| &backbone.parameters).collect();
        let steps = TorchSteps::place(placement, first.architecture.steps(), &parameters, accelerator.clone())?;
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

impl TorchBackend {
    fn try_prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<()> {
        let _no_gradients = tch::no_grad_guard();
        let Some(lane) = &mut self.lane else {
            return Ok(());
        };
        let grey = Prepared::Bytes {
            size: [PICTURE_SIDE; 2],
            values: vec![127; PICTURE_BYTES].into(),
        };
        let row = InputRow {
            picture: &grey,
            preprocessing: &Preset::Torchvision.preprocessing(),
        };
        let uploaded = lane.upload(&[row])?;
        let steps = Arc::clone(&self.steps);
        let mut turn = lane.turn()?;
        let recording = Recording {
            accelerator: turn.accelerator,
            max_batch,
            stop,
            like: &uploaded.stacks[0],
        };
        turn.graphs.record(
            &recording,
            |rows| self.steps.check_fused(rows),
            move |pixels| steps.features_of_bytes(pixels),
        );
        Ok(())
    }

    fn try_forward(
        &mut self,
        rows: &[InputRow<'_>],
        groups: &[HeadRows<'_>],
        wanted: &[WantedInput],
        still_wanted: &mut dyn StillWanted,
    ) -> Result<Outputs> {
        if groups.is_empty() && wanted.is_empty() {
            return Ok(Outputs::default());
        }
        let _no_gradients = tch::no_grad_guard();
        let heads: Vec<&TorchHead> = placed(groups)?;
        let batch = Batch {
            rows,
            groups,
            heads: &heads,
            wanted,
        };
        let mut pass = TorchPass {
            steps: &self.steps,
            pictures: &Pictures::Host(rows),
            graphs: None,
            host: &mut self.host,
        };
        let Some(lane) = &mut self.lane else {
            if !still_wanted.still_wanted() {
                return Err(BackendError::NotWanted.into());
            }
            return launch(&mut pass, batch)?.read(&heads);
        };
        let uploaded = Pictures::Uploaded(lane.upload(rows)?);
        let turn = lane.turn()?;
        // This lane may have waited long for its turn.
        if !still_wanted.still_wanted() {
            return Err(BackendError::NotWanted.into());
        }
        pass.pictures = &uploaded;
        pass.graphs = Some(&turn.graphs);
        let pending = launch(&mut pass, batch);
        drop(turn);
        pending?.read(&heads)
    }

    fn try_logits(&mut self, inputs: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>> {
        let _no_gradients = tch::no_grad_guard();
        let heads: Vec<&TorchHead> = placed(groups)?;
        if inputs.is_empty() {
            return Ok(vec![Vec::new(); heads.len()]);
        }
        let mut leaves = Inputs::place(self.steps.placement, inputs)?;
        let mut places = Vec::with_capacity(groups.len());
        for (head, group) in heads.iter().zip(groups) {
            let mut place = leaves.of(&group.rows);
            let own = 1 + head.program.input_steps()..head.program.steps();
            if !own.is_empty() && !place.positions.is_empty() {
                let mut pass = TorchPass {
                    steps: &self.steps,
                    pictures: &Pictures::Host(&[]),
                    graphs: None,
                    host: &mut self.host,
                };
                let rows = Rows::Vectors(select(&leaves.leaves[place.leaf], &place.positions)?);
                let rows = pass.try_run(own, &rows, &head.program)?;
                place = LeafRows {
                    leaf: leaves.leaves.len(),
                    positions: (0..place.positions.len()).collect(),
                };
                leaves.leaves.push(rows.as_vectors()?.shallow_clone());
            }
            places.push(place);
        }
        let last: Vec<_> = heads.iter().map(|head| &head.last).zip(&places).collect();
        read_logits(LastProducts::of(&leaves.leaves, &last, &mut self.host)?, &heads)
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
        rows: &[InputRow<'_>],
        groups: &[HeadRows<'_>],
        wanted: &[WantedInput],
        still_wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        Ok(self.try_forward(rows, groups, wanted, still_wanted)?)
    }

    fn logits(&mut self, inputs: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
        Ok(self.try_logits(inputs, groups)?)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn last_inputs(&self) -> Vec<HeadInput> {
        self.steps.stack.last_inputs()
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
    use headswap_checkpoint::{HostTensor, Parameters};
    use headswap_model::{PlacedHead, WeightsSource, demo_head_from, native_backend};
    use headswap_spec::{
        Architecture, CompleteSpec, HeadLayer, Output, Preprocessing, Resize, ResizeFilter, ValueRange,
    };
    use tch::Kind;
    use winograd::Engine;

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

    fn emulated() -> Option<Arc<dyn Accelerator>> {
        Some(Arc::new(Emulated::default()))
    }

    /// Heads that override layers of the backbone from one on, by their number of classes.
    const SPLITS: [(&str, usize); 4] = [
        ("classifier.6", 10),
        ("classifier.6", 3),
        ("classifier.3", 5),
        ("features.0", 7),
    ];

    fn stretched(preset: Preset, size: [u32; 2]) -> Preprocessing {
        Preprocessing {
            resize: Some(Resize::Stretch(size)),
            crop: None,
            ..preset.preprocessing()
        }
    }

    fn tensor(shape: &[usize], seed: usize) -> Arc<HostTensor> {
        let value = |at: usize| ((at * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
        Arc::new(HostTensor::new(
            shape.to_vec(),
            (0..shape.iter().product()).map(value).collect(),
        ))
    }

    /// A head of two Linears and 8 hidden numbers.
    fn own_head(preprocessing: Preprocessing, input: HeadInput, width: usize) -> (Parameters, CompleteSpec) {
        let spec = CompleteSpec {
            preprocessing,
            input,
            layers: vec![
                HeadLayer::Affine,
                HeadLayer::Linear,
                HeadLayer::Elu(Some(0.5)),
                HeadLayer::L2Normalise,
                HeadLayer::Linear,
                HeadLayer::Sigmoid,
            ],
            output: Output::Sigmoid,
            classes: 6,
        };
        let mut parameters = Parameters::new();
        for (index, weight) in [(0, vec![width]), (1, vec![8, width]), (4, vec![6, 8])] {
            parameters.insert(format!("head.{index}.weight"), tensor(&weight, index));
            parameters.insert(format!("head.{index}.bias"), tensor(&weight[..1], index + 1));
        }
        (parameters, spec)
    }

    /// The heads of [`SPLITS`], then heads of other specs.
    fn all_heads() -> Vec<(Parameters, CompleteSpec)> {
        let mut heads = Vec::new();
        for (seed, (split, classes)) in SPLITS.into_iter().enumerate() {
            let parameters = demo_head_from(Architecture::Vgg16Narrow, split, classes, seed as u64);
            heads.push((
                parameters,
                CompleteSpec::plain(Preset::Torchvision.preprocessing(), classes),
            ));
        }
        let last = demo_head_from(Architecture::Vgg16Narrow, "classifier.6", 4, 9);
        heads.push((last.clone(), CompleteSpec::plain(Preset::KerasCaffe.preprocessing(), 4)));
        heads.push((last, CompleteSpec::plain(Preset::TensorflowCaffe.preprocessing(), 4)));
        let standardised = Preprocessing {
            normalisation: ValueRange::Standardised,
            ..stretched(Preset::Unit, [70, 97])
        };
        heads.push(own_head(standardised, HeadInput::Adaptive7x7, 784));
        let half = stretched(Preset::Half, [224, 224]);
        heads.push(own_head(half, HeadInput::GlobalMaxAverage, 32));
        heads.push(own_head(Preset::Torchvision.preprocessing(), HeadInput::Features, 128));
        heads
    }

    fn backbone() -> Backbone {
        let mut backbone = Backbone::load(&WeightsSource::Demo, Architecture::Vgg16Narrow).unwrap();
        backbone.take_last_linear();
        backbone
    }

    fn place(backend: &dyn Backend) -> Vec<PlacedHead> {
        let placer = backend.placer();
        let mut heads = Vec::new();
        for (parameters, spec) in all_heads() {
            heads.push(placer.place(&parameters, &spec).unwrap());
        }
        heads
    }

    /// libtorch on the CPU, or on the CPU as a GPU.
    fn backend_of(kind: Kind, accelerator: Option<Arc<dyn Accelerator>>) -> (Box<TorchBackend>, Vec<PlacedHead>) {
        let placement = Placement {
            device: Device::Cpu,
            kind,
            gpu: accelerator.is_some(),
        };
        let backend = TorchBackend::new(&[backbone()], placement, accelerator, 2).unwrap();
        let heads = place(&backend);
        (Box::new(backend), heads)
    }

    /// A batch: the head of each row.
    type Batch = Vec<usize>;

    fn picture(head: &PlacedHead, seed: usize) -> Prepared {
        let size = head.size.map(|side| side as usize);
        let count = size[0] * size[1] * 3;
        if head.preprocessing.filter == ResizeFilter::BilinearNoAntialias {
            let values = (0..count).map(|at| (at * (seed + 31) % 251) as f32 * 0.9).collect();
            return Prepared::Floats { size, values };
        }
        let values = (0..count).map(|at| (at * (seed + 31) % 251) as u8).collect();
        Prepared::Bytes { size, values }
    }

    /// Runs a batch, and asks for the input of every row's head.
    fn run(backend: &mut dyn Backend, heads: &[PlacedHead], batch: &Batch) -> Outputs {
        let pictures: Vec<Prepared> = (0..batch.len()).map(|row| picture(&heads[batch[row]], row)).collect();
        let (mut rows, mut wanted) = (Vec::new(), Vec::new());
        for (row, picture) in pictures.iter().enumerate() {
            let head = &heads[batch[row]];
            let preprocessing = &head.preprocessing;
            rows.push(InputRow { picture, preprocessing });
            wanted.push(WantedInput {
                row,
                backbone: 0,
                input: head.input,
            });
        }
        backend.forward(&rows, &groups(heads, batch), &wanted).unwrap()
    }

    fn groups<'a>(heads: &'a [PlacedHead], batch: &Batch) -> Vec<HeadRows<'a>> {
        let mut groups = Vec::new();
        for (index, head) in heads.iter().enumerate() {
            let rows: Vec<usize> = (0..batch.len()).filter(|&row| batch[row] == index).collect();
            if !rows.is_empty() {
                groups.push(HeadRows { head, rows });
            }
        }
        groups
    }

    /// Compares within `tolerance` as a part of the largest number of each list.
    fn check(got: &[Vec<f32>], want: &[Vec<f32>], tolerance: f32, what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        for (got, want) in got.iter().zip(want) {
            let largest = want.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            assert_eq!(got.len(), want.len(), "{what}");
            for (a, b) in got.iter().zip(want) {
                assert!((a - b).abs() <= tolerance * largest, "{what}: {got:?} {want:?}");
            }
        }
    }

    /// Batches of a recorded size, of a size that is padded to one, and of one that is too large; heads that use the
    /// recorded pass and heads that do not; other sizes, normalisations and layers, alone and mixed with all others.
    #[test]
    fn lanes_compute_the_same_as_the_cpu() {
        let (mut plain, plain_heads) = backend_of(Kind::Float, None);
        let replays = Arc::new(AtomicUsize::new(0));
        let emulated = Emulated {
            replays: Arc::clone(&replays),
        };
        let (backend, heads) = backend_of(Kind::Float, Some(Arc::new(emulated)));

        let batches: [Batch; 9] = [
            vec![0],
            vec![0, 1, 0],
            // A recorded pass, then a head's own layers.
            vec![8, 8],
            vec![0, 2, 3],
            vec![1; 5],
            // Another normalisation, and floats.
            vec![4],
            vec![5, 0, 4],
            vec![6, 6, 6],
            (0..heads.len()).rev().chain([6, 0]).collect(),
        ];
        let mut expected = Vec::new();
        for batch in &batches {
            expected.push(run(&mut *plain, &plain_heads, batch));
        }

        let (batches, expected, heads) = (&batches, &expected, &heads);
        std::thread::scope(|scope| {
            for mut lane in backend.into_lanes().into_iter().flatten() {
                scope.spawn(move || {
                    lane.prepare(3, &AtomicBool::new(false)).unwrap();
                    for index in (0..batches.len()).chain((0..batches.len()).rev()) {
                        let (got, want) = (run(&mut *lane, heads, &batches[index]), &expected[index]);
                        let what = format!("batch {index}");
                        check(&got.logits, &want.logits, 1e-4, &what);
                        check(&got.inputs, &want.inputs, 1e-4, &what);
                        assert_eq!(got.steps, want.steps);
                    }
                });
            }
        });
        // The first three batches of each lane, each twice; the passes of the others are not recorded.
        assert_eq!(replays.load(Ordering::Relaxed), 3 * 2 * 2);
    }

    /// Inputs of several widths, for heads with layers of their own and without.
    #[test]
    fn logits_of_inputs_are_those_of_the_pictures() {
        let (mut plain, plain_heads) = backend_of(Kind::Float, None);
        let (mut gpu, gpu_heads) = backend_of(Kind::Float, emulated());
        // All but those with parameters of their own before their input.
        let batch = vec![8, 6, 0, 7, 1, 6, 4, 0];
        let want = run(&mut *plain, &plain_heads, &batch);
        let inputs: Vec<&[f32]> = want.inputs.iter().map(Vec::as_slice).collect();
        let again = plain.logits(&inputs, &groups(&plain_heads, &batch)).unwrap();
        assert_eq!(again, want.logits, "to the bit on the CPU");
        check(
            &gpu.logits(&inputs, &groups(&gpu_heads, &batch)).unwrap(),
            &want.logits,
            1e-4,
            "GPU",
        );
        assert!(gpu.logits(&[], &[]).unwrap().is_empty());
    }

    /// One batch of all heads.
    #[test]
    fn every_head_is_computed_as_by_the_native_backend() {
        let mut native = native_backend(vec![backbone()], Precision::F32, Engine::new(1)).unwrap();
        let heads = place(&*native);
        let batch: Batch = (0..heads.len()).collect();
        let want = run(&mut *native, &heads, &batch);
        for (kind, accelerator, tolerance) in [
            (Kind::Float, None, 1e-4),
            (Kind::BFloat16, None, 0.05),
            (Kind::BFloat16, emulated(), 0.05),
            (Kind::Half, emulated(), 0.01),
        ] {
            let what = format!("{kind:?}, GPU: {}", accelerator.is_some());
            let (mut backend, heads) = backend_of(kind, accelerator);
            let got = run(&mut *backend, &heads, &batch);
            check(&got.logits, &want.logits, tolerance, &what);
            check(&got.inputs, &want.inputs, tolerance, &what);
        }
    }
}
