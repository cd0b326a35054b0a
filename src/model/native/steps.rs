//! The steps on a CPU: packed parameters, and rows driven through any range of steps.

use std::ops::Range;
use std::sync::Arc;

use winograd::{Bias, Engine, Maps, PackedConv, PackedLinear, normalise};

use crate::model::host_linear::{HeadProduct, HostLinear};
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
#[derive(Default)]
pub(super) struct Vectors {
    pub numbers: Vec<f32>,
    pub width: usize,
}

impl Vectors {
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.numbers.chunks_exact(self.width.max(1))
    }

    pub fn row(&self, index: usize) -> &[f32] {
        &self.numbers[index * self.width..][..self.width]
    }

    /// Some of the rows, one after the other.
    pub fn copy(&self, rows: &[usize]) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(rows.len() * self.width);
        rows.iter().for_each(|&row| numbers.extend_from_slice(self.row(row)));
        numbers
    }
}

impl Rows {
    fn count(&self) -> usize {
        match self {
            Self::Pictures(pictures) => pictures.len(),
            Self::Maps(maps) => maps.count(),
            Self::Vectors(vectors) => vectors.rows().len(),
        }
    }

    /// What the rows are once they have come to the Linears.
    pub fn as_vectors(&self) -> &Vectors {
        match self {
            Self::Vectors(vectors) => vectors,
            Self::Pictures(_) | Self::Maps(_) => unreachable!("the steps end in vectors"),
        }
    }
}

/// What computes, and the memory that it computes in.
pub(super) struct Workspace {
    engine: Engine,
    linear: HostLinear,
    /// An image's maps, a convolution's result, and the maps of a group.
    maps: [Maps; 3],
    spare_pictures: Vec<Vec<usize>>,
    spare_maps: Vec<Maps>,
    spare_vectors: Vec<Vec<f32>>,
}

impl Workspace {
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            linear: HostLinear::default(),
            maps: Default::default(),
            spare_pictures: Vec::new(),
            spare_maps: Vec::new(),
            spare_vectors: Vec::new(),
        }
    }

    /// Appends the results of a Linear with a weight as it was read.
    pub fn host_linear<'a, R>(&mut self, product: &HeadProduct<'_, R>, results: &mut Vec<f32>)
    where
        R: Fn(usize) -> &'a [f32] + Sync,
    {
        self.linear.compute(product, results, self.engine.pool());
    }

    /// Keeps this thread where the engine's threads leave room for it, if they are pinned.
    pub fn pin_caller(&mut self) {
        self.engine.pool().pin_caller();
    }

    /// Some of the batch's pictures.
    pub fn pictures(&mut self, pictures: impl ExactSizeIterator<Item = usize>) -> Rows {
        let mut list = best_fit(&mut self.spare_pictures, pictures.len(), Vec::capacity);
        list.clear();
        list.extend(pictures);
        Rows::Pictures(list)
    }

    /// No rows yet, with room for `count` of `width` numbers.
    pub fn vectors(&mut self, count: usize, width: usize) -> Vectors {
        let mut numbers = best_fit(&mut self.spare_vectors, count * width, Vec::capacity);
        numbers.clear();
        numbers.reserve_exact(count * width);
        Vectors { numbers, width }
    }

    /// Maps of `count` images of the size of these.
    fn maps_like(&mut self, maps: &Maps, count: usize) -> Maps {
        let need = maps.bytes_of(count);
        let mut new = best_fit(&mut self.spare_maps, need, Maps::bytes);
        new.reset(count, maps.channels(), maps.height(), maps.width());
        new
    }

    /// All of these vectors, one after the other.
    pub fn join(&mut self, parts: &mut Vec<Rows>) -> Vectors {
        let count = parts.iter().map(Rows::count).sum();
        let mut joint = self.vectors(count, parts.first().map_or(0, |part| part.as_vectors().width));
        for part in parts.drain(..) {
            joint.numbers.extend_from_slice(&part.as_vectors().numbers);
            self.recycle(part);
        }
        joint
    }

    /// Takes the memory of rows that are needed no more.
    pub fn recycle(&mut self, rows: Rows) {
        match rows {
            Rows::Pictures(pictures) => self.spare_pictures.push(pictures),
            Rows::Maps(maps) => self.spare_maps.push(maps),
            Rows::Vectors(vectors) => self.spare_vectors.push(vectors.numbers),
        }
    }
}

/// Takes out the smallest that is large enough, or else the largest, so that few ever grow; if there is none, a new one.
fn best_fit<T: Default>(spares: &mut Vec<T>, need: usize, size: impl Fn(&T) -> usize) -> T {
    let lack = |spare: &T| (size(spare) < need, size(spare).abs_diff(need));
    let best = (0..spares.len()).min_by_key(|&index| lack(&spares[index]));
    best.map_or_else(T::default, |index| spares.swap_remove(index))
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
        let mut done = None;
        for first in (0..count).step_by(GROUP) {
            let group = first..count.min(first + GROUP);
            self.convolve_group(steps.clone(), rows, group.clone(), head);
            // Taken out for a moment, so that memory can be asked for.
            let maps = std::mem::take(&mut self.workspace.maps[2]);
            let done = done.get_or_insert_with(|| {
                if steps.end == self.stack.convolutions() {
                    let width = maps.channels() * maps.height() * maps.width();
                    Rows::Vectors(self.workspace.vectors(count, width))
                } else {
                    Rows::Maps(self.workspace.maps_like(&maps, count))
                }
            });
            match done {
                Rows::Vectors(vectors) => maps.flatten(&mut vectors.numbers),
                Rows::Maps(whole) => group
                    .enumerate()
                    .for_each(|(from, to)| whole.copy_image(to, &maps, from)),
                Rows::Pictures(_) => unreachable!("convolutions give maps"),
            }
            self.workspace.maps[2] = maps;
        }
        done.unwrap_or(Rows::Vectors(Vectors::default()))
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
        let input = rows.as_vectors();
        let parameters = self.stack.parameters(step, head);
        let (bias, relu) = (&*parameters.bias, self.stack.steps[step].relu);
        let count = input.rows().len();
        let mut output = self.workspace.vectors(count, bias.values().len());
        match &*parameters.weight {
            Weight::Linear(weight) => {
                let engine = &mut self.workspace.engine;
                weight.forward(&input.numbers, bias, relu, &mut output.numbers, engine);
            }
            Weight::Host(weight) => {
                let product = HeadProduct {
                    weight,
                    bias: bias.values(),
                    rows: count,
                    row: |row| input.row(row),
                };
                self.workspace.host_linear(&product, &mut output.numbers);
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

    /// Those of the rows at these positions.
    fn pick(&mut self, rows: &Rows, positions: impl ExactSizeIterator<Item = usize>) -> Rows {
        match rows {
            Rows::Pictures(pictures) => self.workspace.pictures(positions.map(|position| pictures[position])),
            Rows::Maps(maps) => {
                let mut picked = self.workspace.maps_like(maps, positions.len());
                for (to, from) in positions.enumerate() {
                    picked.copy_image(to, maps, from);
                }
                Rows::Maps(picked)
            }
            Rows::Vectors(vectors) => {
                let mut picked = self.workspace.vectors(positions.len(), vectors.width);
                positions.for_each(|position| picked.numbers.extend_from_slice(vectors.row(position)));
                Rows::Vectors(picked)
            }
        }
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
        Ok(done.unwrap_or_else(|| self.pick(rows, 0..rows.count())))
    }

    fn select(&mut self, rows: &Rows, positions: &[usize]) -> Result<Rows, NetworkError> {
        Ok(self.pick(rows, positions.iter().copied()))
    }

    fn recycle(&mut self, rows: Rows) {
        self.workspace.recycle(rows);
    }
}
