//! The steps on a CPU: packed parameters, and rows driven through any range of steps.

use std::ops::Range;
use std::sync::Arc;

use winograd::{Bias, Engine, Maps, PackedConv, PackedLinear, normalise};

use crate::model::host_linear::{HeadProduct, host_linear};
use crate::model::network::NetworkError;
use crate::model::stack::{Overrides, Stack, StepParameters};
use crate::model::step::Step;
use crate::model::tensor::{HostTensor, Parameters};
use crate::model::walk::Stepper;

/// Pictures that pass the convolutions together: as many as it takes for filters of up to 38 MB to be read seldom. More
/// take more memory and are hardly faster.
const GROUP: usize = 8;
/// Maps of this side and above go through the convolutions image by image, so that they stay in a cache; their filters
/// are small.
const LARGE_SIDE: usize = 56;

/// The steps' parameters in memory.
pub(super) type NativeStack = Stack<Weight, Bias>;
/// A head's.
pub(super) type NativeOverrides = Overrides<Weight, Bias>;

/// The weight of a step.
pub(super) enum Weight {
    Conv(PackedConv),
    Linear(PackedLinear),
    /// A Linear as it was read.
    Host(Arc<HostTensor>),
}

impl Weight {
    /// Packs a weight of the backbone for speed.
    fn fast(step: &Step, weight: &HostTensor, precision: winograd::Precision) -> Self {
        let outputs = weight.shape[0];
        if step.is_convolution() {
            Self::Conv(PackedConv::new(&weight.values, outputs, precision))
        } else {
            Self::Linear(PackedLinear::new(&weight.values, outputs, precision))
        }
    }

    /// Packs a weight of a head's own, to take no more than it has.
    pub fn small(step: &Step, weight: &Arc<HostTensor>) -> Self {
        if step.is_convolution() {
            Self::Conv(PackedConv::direct(&weight.values, weight.shape[0]))
        } else {
            Self::Host(Arc::clone(weight))
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Conv(conv) => conv.bytes(),
            Self::Linear(linear) => linear.bytes(),
            Self::Host(weight) => weight.bytes(),
        }
    }
}

/// Packs the backbone, tensor by tensor, each of which is freed when it is packed. From the last step on, since the
/// Linears' weights are the largest: so never more than one of them is there twice.
pub(super) fn pack(steps: Vec<Step>, mut parameters: Parameters, precision: winograd::Precision) -> NativeStack {
    let mut backbone: Vec<_> = steps
        .iter()
        .rev()
        .map(|step| {
            let bias = Bias::new(&parameters[&step.bias()].values);
            let weight = Weight::fast(step, &parameters[&step.weight()], precision);
            parameters.remove(&step.weight());
            StepParameters {
                weight: Arc::new(weight),
                bias: Arc::new(bias),
            }
        })
        .collect();
    backbone.reverse();
    Stack::new(steps, backbone)
}

/// Rows on their way.
pub(super) enum Rows {
    /// Pictures of the batch, by their index.
    Pictures(Vec<usize>),
    /// What a convolution gave.
    Maps(Maps),
    /// What goes into a Linear or comes out of it.
    Vectors(Vectors),
}

/// Rows of `width` numbers each, one after the other.
pub(super) struct Vectors {
    pub numbers: Vec<f32>,
    pub width: usize,
}

impl Vectors {
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.numbers.chunks_exact(self.width.max(1))
    }
}

impl Rows {
    fn count(&self) -> usize {
        match self {
            Self::Pictures(pictures) => pictures.len(),
            Self::Maps(maps) => maps.count(),
            Self::Vectors(vectors) => vectors.rows().count(),
        }
    }

    /// The rows that have come to the Linears.
    pub fn vectors(&self) -> impl Iterator<Item = &[f32]> {
        let vectors = match self {
            Self::Vectors(vectors) => Some(vectors),
            Self::Pictures(_) | Self::Maps(_) => None,
        };
        vectors.into_iter().flat_map(Vectors::rows)
    }
}

/// What computes, and the memory that it computes in.
pub(super) struct Workspace {
    engine: Engine,
    /// An image's maps, a convolution's result, and the maps of a group.
    maps: [Maps; 3],
    spare_maps: Vec<Maps>,
    spare_vectors: Vec<Vec<f32>>,
}

impl Workspace {
    pub fn new(threads: usize) -> Self {
        Self {
            engine: Engine::new(threads),
            maps: Default::default(),
            spare_maps: Vec::new(),
            spare_vectors: Vec::new(),
        }
    }

    /// No rows yet, of `width` numbers.
    fn vectors(&mut self, width: usize) -> Vectors {
        let mut numbers = self.spare_vectors.pop().unwrap_or_default();
        numbers.clear();
        Vectors { numbers, width }
    }

    /// Maps of `count` images of the size of these.
    fn maps_like(&mut self, maps: &Maps, count: usize) -> Maps {
        let mut new = self.spare_maps.pop().unwrap_or_default();
        new.reset(count, maps.channels(), maps.height(), maps.width());
        new
    }
}

/// A batch on its way through the steps.
pub(super) struct NativePass<'a> {
    pub stack: &'a NativeStack,
    pub workspace: &'a mut Workspace,
    /// The batch's pictures: 224 x 224 x 3 u8 each, RGB interleaved.
    pub pictures: &'a [&'a [u8]],
}

impl NativePass<'_> {
    /// Drives rows through convolutions, group by group. After the last of all there are vectors.
    fn convolve(&mut self, steps: Range<usize>, rows: &Rows, head: Option<&NativeOverrides>) -> Rows {
        let count = rows.count();
        let mut vectors = self.workspace.vectors(0);
        let mut whole = None;
        for first in (0..count).step_by(GROUP) {
            let group = first..count.min(first + GROUP);
            self.convolve_group(steps.clone(), rows, group.clone(), head);
            // Taken out for a moment, so that memory can be asked for.
            let done = std::mem::take(&mut self.workspace.maps[2]);
            if steps.end == self.stack.convolutions() {
                vectors.width = done.channels() * done.height() * done.width();
                done.flatten(&mut vectors.numbers);
            } else {
                let whole = whole.get_or_insert_with(|| self.workspace.maps_like(&done, count));
                group
                    .enumerate()
                    .for_each(|(from, to)| whole.copy_image(to, &done, from));
            }
            self.workspace.maps[2] = done;
        }
        match whole {
            Some(whole) => {
                self.recycle(Rows::Vectors(vectors));
                Rows::Maps(whole)
            }
            None => Rows::Vectors(vectors),
        }
    }

    /// Drives some of the rows through convolutions, and leaves the result in the workspace's last maps.
    fn convolve_group(
        &mut self,
        steps: Range<usize>,
        rows: &Rows,
        group: Range<usize>,
        head: Option<&NativeOverrides>,
    ) {
        let Workspace { engine, maps, .. } = &mut *self.workspace;
        let [image, result, joint] = maps;
        let stack = self.stack;
        let convolve = |step: usize, maps: &mut Maps, result: &mut Maps, engine: &mut Engine| {
            let parameters = stack.parameters(step, head);
            let Weight::Conv(weight) = &*parameters.weight else {
                unreachable!("a convolution's weight is packed as one")
            };
            weight.forward(maps, &parameters.bias, stack.steps[step].pool, result, engine);
            std::mem::swap(maps, result);
        };
        let images = group.len();
        let mut together = steps.start;
        for (place, row) in group.enumerate() {
            match rows {
                Rows::Pictures(pictures) => normalise(self.pictures[pictures[row]], image, engine),
                Rows::Maps(maps) => {
                    image.reset(1, maps.channels(), maps.height(), maps.width());
                    image.copy_image(0, maps, row);
                }
                Rows::Vectors(_) => unreachable!("vectors come after the convolutions"),
            }
            together = steps.start;
            while together < steps.end && image.height() >= LARGE_SIDE {
                convolve(together, image, result, engine);
                together += 1;
            }
            if place == 0 {
                joint.reset(images, image.channels(), image.height(), image.width());
            }
            joint.copy_image(place, image, 0);
        }
        for step in together..steps.end {
            convolve(step, joint, result, engine);
        }
    }

    fn linear(&mut self, step: usize, rows: &Rows, head: Option<&NativeOverrides>) -> Rows {
        let Rows::Vectors(input) = rows else {
            unreachable!("the convolutions end in vectors")
        };
        let parameters = self.stack.parameters(step, head);
        let (bias, relu) = (&*parameters.bias, self.stack.steps[step].relu);
        let mut output = self.workspace.vectors(bias.values().len());
        match &*parameters.weight {
            Weight::Linear(weight) => {
                let engine = &mut self.workspace.engine;
                weight.forward(&input.numbers, bias, relu, &mut output.numbers, engine);
            }
            Weight::Host(weight) => {
                let (rows, bias) = (input.rows().collect(), bias.values());
                output.numbers = host_linear(&[HeadProduct { weight, bias, rows }]).concat();
                if relu {
                    // NaN stays.
                    let negative = output.numbers.iter_mut().filter(|number| **number < 0.0);
                    negative.for_each(|number| *number = 0.0);
                }
            }
            Weight::Conv(_) => unreachable!("a Linear's weight is packed as one"),
        }
        Rows::Vectors(output)
    }
}

impl Stepper for NativePass<'_> {
    type Rows = Rows;
    type Head = NativeOverrides;

    fn steps(&self) -> usize {
        self.stack.steps.len()
    }

    fn run(&mut self, steps: Range<usize>, rows: &Rows, head: Option<&NativeOverrides>) -> Result<Rows, NetworkError> {
        let all = self.stack.convolutions();
        let convolutions = steps.start..steps.end.min(all);
        let mut done = (!convolutions.is_empty()).then(|| self.convolve(convolutions, rows, head));
        for step in steps.start.max(all)..steps.end {
            let output = self.linear(step, done.as_ref().unwrap_or(rows), head);
            if let Some(input) = done.replace(output) {
                self.recycle(input);
            }
        }
        match done {
            Some(done) => Ok(done),
            None => self.select(rows, &(0..rows.count()).collect::<Vec<_>>()),
        }
    }

    fn select(&mut self, rows: &Rows, positions: &[usize]) -> Result<Rows, NetworkError> {
        Ok(match rows {
            Rows::Pictures(pictures) => Rows::Pictures(positions.iter().map(|&position| pictures[position]).collect()),
            Rows::Maps(maps) => {
                let mut selected = self.workspace.maps_like(maps, positions.len());
                for (to, &from) in positions.iter().enumerate() {
                    selected.copy_image(to, maps, from);
                }
                Rows::Maps(selected)
            }
            Rows::Vectors(vectors) => {
                let width = vectors.width;
                let mut selected = self.workspace.vectors(width);
                for &position in positions {
                    let row = &vectors.numbers[position * width..][..width];
                    selected.numbers.extend_from_slice(row);
                }
                Rows::Vectors(selected)
            }
        })
    }

    fn recycle(&mut self, rows: Rows) {
        match rows {
            Rows::Pictures(_) => {}
            Rows::Maps(maps) => self.workspace.spare_maps.push(maps),
            Rows::Vectors(vectors) => self.workspace.spare_vectors.push(vectors.numbers),
        }
    }
}
