//! The execution of a batch's steps: convolutions group by group, then Linears.

use std::ops::Range;

use headswap_spec::{HeadInput, HeadLayer};
use winograd::{Bias, Maps, PackedConv};

use super::rows::Rows;
use super::weight::{NativeProgram, Weight};
use super::workspace::{Workspace, normalise};
use crate::backend::{BackendError, InputRow};
use crate::host_linear::HeadProduct;
use crate::layers::{apply_affine, apply_layer};
use crate::pooling::pool_maps;
use crate::program::Operation;
use crate::stack::{POOLED_SIDE, StepParameters};
use crate::walk::Stepper;

/// Pictures that pass the convolutions together: enough that filters of up to 38 MB are read seldom. Larger groups take
/// more memory and are hardly faster.
const GROUP: usize = 8;
/// Maps of this side and above go through the convolutions image by image, so that they stay in a cache; their filters
/// are small.
const LARGE_SIDE: usize = 56;

/// The execution of a batch's steps.
pub(super) struct NativePass<'a> {
    pub workspace: &'a mut Workspace,
    /// The batch.
    pub rows: &'a [InputRow<'a>],
}

/// Consecutive convolutions of a program.
#[derive(Clone, Copy)]
struct Convolutions<'a> {
    program: &'a NativeProgram,
    /// The first, and the one after the last.
    start: usize,
    end: usize,
}

impl<'a> Convolutions<'a> {
    /// Returns what a step computes: its weight, its bias, and whether max pooling follows.
    fn step(self, step: usize) -> (&'a PackedConv, &'a Bias, bool) {
        match self.program.operation(step) {
            Some(Operation::Convolution { parameters, pool, .. }) => {
                let Weight::Conv(weight) = &*parameters.weight else {
                    unreachable!("a convolution's weight is packed as one");
                };
                (weight, &parameters.bias, *pool)
            }
            _ => unreachable!("the step is a convolution"),
        }
    }

    /// Returns the first step whose maps are small, for maps of this height and width before the first.
    fn first_small(self, [mut height, mut width]: [usize; 2]) -> usize {
        for step in self.start..self.end {
            if height * width < LARGE_SIDE * LARGE_SIDE {
                return step;
            }
            if self.step(step).2 {
                (height, width) = (height / 2, width / 2);
            }
        }
        self.end
    }
}

impl NativePass<'_> {
    /// Runs rows through convolutions, group by group.
    fn convolve(&mut self, convolutions: Convolutions<'_>, rows: &Rows) -> Rows {
        let count = rows.count();
        let mut done = None;
        for first in (0..count).step_by(GROUP) {
            let group = first..count.min(first + GROUP);
            self.convolve_group(convolutions, rows, group.clone());
            // Taken out, so that the workspace can be borrowed.
            let maps = std::mem::take(&mut self.workspace.maps[2]);
            let done = done.get_or_insert_with(|| self.workspace.maps_like(&maps, count));
            for (from, to) in group.enumerate() {
                done.copy_image(to, &maps, from);
            }
            self.workspace.maps[2] = maps;
        }
        Rows::Maps(done.unwrap_or_default())
    }

    /// Runs some of the rows through convolutions, and leaves the result in the workspace's last maps.
    fn convolve_group(&mut self, convolutions: Convolutions<'_>, rows: &Rows, group: Range<usize>) {
        let Workspace { engine, maps, .. } = &mut *self.workspace;
        let [image, result, joint] = maps;
        let size = match rows {
            Rows::Pictures(pictures) => self.rows[pictures[group.start]].picture.size(),
            Rows::Maps(maps) => [maps.height(), maps.width()],
            Rows::Vectors(_) => unreachable!("vectors come after the convolutions"),
        };
        let together = convolutions.first_small(size);
        let images = group.len();
        for (place, row) in group.enumerate() {
            match rows {
                Rows::Pictures(pictures) => normalise(self.rows[pictures[row]], image, engine),
                Rows::Maps(maps) => {
                    image.reset(1, maps.channels(), maps.height(), maps.width());
                    image.copy_image(0, maps, row);
                }
                Rows::Vectors(_) => unreachable!("vectors come after the convolutions"),
            }
            if together == convolutions.start {
                if place == 0 {
                    joint.reset(images, image.channels(), image.height(), image.width());
                }
                joint.copy_image(place, image, 0);
                continue;
            }
            for step in convolutions.start..together - 1 {
                let (weight, bias, pool) = convolutions.step(step);
                weight.forward(image, bias, pool, result, engine);
                std::mem::swap(image, result);
            }
            // The last one writes directly to the group's maps.
            let (weight, bias, pool) = convolutions.step(together - 1);
            if place == 0 {
                weight.shape_output(images, image, pool, joint);
            }
            weight.forward_at(image, bias, pool, (joint, place), engine);
        }
        for step in together..convolutions.end {
            let (weight, bias, pool) = convolutions.step(step);
            weight.forward(joint, bias, pool, result, engine);
            std::mem::swap(joint, result);
        }
    }

    /// Makes a vector of the maps of each row.
    fn pool(&mut self, input: HeadInput, rows: &Rows) -> Rows {
        let Rows::Maps(maps) = rows else {
            unreachable!("the convolutions give maps");
        };
        let size = [maps.height(), maps.width()];
        let (count, area) = (maps.count(), maps.height() * maps.width());
        let mut flat = std::mem::take(&mut self.workspace.flat);
        flat.clear();
        maps.flatten(&mut flat);
        let planes = maps.channels() * area;
        let mut vectors = self.workspace.vectors(count, pooled_width(input, maps));
        for maps in flat.chunks_exact(planes) {
            pool_maps(input, maps, size, &mut vectors.numbers);
        }
        self.workspace.flat = flat;
        Rows::Vectors(vectors)
    }

    fn linear(&mut self, parameters: &StepParameters<Weight, Bias>, relu: bool, rows: &Rows) -> Rows {
        let input = rows.as_vectors();
        let bias = &*parameters.bias;
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
                    apply_layer(HeadLayer::Relu, &mut output.numbers, output.width);
                }
            }
            Weight::Conv(_) => unreachable!("a Linear's weight is packed as one"),
        }
        Rows::Vectors(output)
    }

    /// Returns the rows at these positions.
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
    type Weight = Weight;
    type Bias = Bias;

    fn run(&mut self, steps: Range<usize>, rows: &Rows, program: &NativeProgram) -> Result<Rows, BackendError> {
        let mut done: Option<Rows> = None;
        let mut step = steps.start.max(1);
        while step < steps.end {
            let input = done.as_ref().unwrap_or(rows);
            let output = match program.operation(step) {
                Some(Operation::Convolution { .. }) => {
                    let start = step;
                    while step + 1 < steps.end
                        && matches!(program.operation(step + 1), Some(Operation::Convolution { .. }))
                    {
                        step += 1;
                    }
                    let end = step + 1;
                    self.convolve(Convolutions { program, start, end }, input)
                }
                Some(Operation::Input(kind)) => self.pool(*kind, input),
                Some(Operation::Linear { parameters, relu, .. }) => self.linear(parameters, *relu, input),
                Some(Operation::Affine { weight, bias }) => {
                    let mut output = done.take().unwrap_or_else(|| self.pick(rows, 0..rows.count()));
                    apply_affine(weight.values(), bias.values(), output.numbers());
                    output
                }
                Some(Operation::Layer(layer)) => {
                    let mut output = done.take().unwrap_or_else(|| self.pick(rows, 0..rows.count()));
                    let width = output.as_vectors().width;
                    apply_layer(*layer, output.numbers(), width);
                    output
                }
                None => break,
            };
            if let Some(input) = done.replace(output) {
                self.recycle(input);
            }
            step += 1;
        }
        Ok(done.unwrap_or_else(|| self.pick(rows, 0..rows.count())))
    }

    fn select(&mut self, rows: &Rows, positions: &[usize]) -> Result<Rows, BackendError> {
        Ok(self.pick(rows, positions.iter().copied()))
    }

    fn recycle(&mut self, rows: Rows) {
        self.workspace.recycle(rows);
    }
}

/// Returns the length of the vector that `input` makes of these maps.
fn pooled_width(input: HeadInput, maps: &Maps) -> usize {
    let channels = maps.channels();
    match input {
        HeadInput::Flatten | HeadInput::FlattenHwc => channels * maps.height() * maps.width(),
        HeadInput::Adaptive7x7 | HeadInput::Features => channels * POOLED_SIDE * POOLED_SIDE,
        HeadInput::GlobalAverage | HeadInput::GlobalMax => channels,
        HeadInput::GlobalMaxAverage => 2 * channels,
    }
}
