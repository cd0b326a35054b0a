//! The execution of a batch's steps: convolutions group by group, then Linears.

use std::ops::Range;

use super::rows::{Rows, Vectors};
use super::weight::{NativeOverrides, NativeStack, Weight};
use super::workspace::Workspace;
use crate::backend::BackendError;
use crate::host_linear::HeadProduct;
use crate::walk::Stepper;

/// Pictures that pass the convolutions together: enough that filters of up to 38 MB are read seldom. Larger groups take
/// more memory and are hardly faster.
const GROUP: usize = 8;
/// Maps of this side and above go through the convolutions image by image, so that they stay in a cache; their filters
/// are small.
const LARGE_SIDE: usize = 56;

/// The execution of a batch's steps.
pub(super) struct NativePass<'a> {
    pub stack: &'a NativeStack,
    pub workspace: &'a mut Workspace,
    /// The batch's pictures: 224 x 224 x 3 u8 each, RGB interleaved.
    pub pictures: &'a [&'a [u8]],
}

impl NativePass<'_> {
    /// Runs rows through convolutions, group by group. The last convolution of the network gives vectors.
    fn convolve(&mut self, steps: Range<usize>, rows: &Rows, head: Option<&NativeOverrides>) -> Rows {
        let count = rows.count();
        let mut done = None;
        for first in (0..count).step_by(GROUP) {
            let group = first..count.min(first + GROUP);
            self.convolve_group(steps.clone(), rows, group.clone(), head);
            // Taken out, so that the workspace can be borrowed.
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

    /// Runs some of the rows through convolutions, and leaves the result in the workspace's last maps.
    fn convolve_group(
        &mut self,
        steps: Range<usize>,
        rows: &Rows,
        group: Range<usize>,
        head: Option<&NativeOverrides>,
    ) {
        let Workspace {
            engine,
            normalisation,
            maps,
            ..
        } = &mut *self.workspace;
        let [image, result, joint] = maps;
        let stack = self.stack;
        let is_large = |step: &usize| stack.input_side(*step) >= LARGE_SIDE;
        let together = steps.start + steps.clone().take_while(is_large).count();
        let convolution = |step: usize| {
            let parameters = stack.parameters(step, head);
            let Weight::Conv(weight) = &*parameters.weight else {
                unreachable!("a convolution's weight is packed as one")
            };
            (weight, &*parameters.bias, stack.steps[step].pool)
        };
        let images = group.len();
        for (place, row) in group.enumerate() {
            match rows {
                Rows::Pictures(pictures) => normalisation.apply(self.pictures[pictures[row]], image, engine),
                Rows::Maps(maps) if together == steps.start => {
                    if place == 0 {
                        joint.reset(images, maps.channels(), maps.height(), maps.width());
                    }
                    joint.copy_image(place, maps, row);
                    continue;
                }
                Rows::Maps(maps) => {
                    image.reset(1, maps.channels(), maps.height(), maps.width());
                    image.copy_image(0, maps, row);
                }
                Rows::Vectors(_) => unreachable!("vectors come after the convolutions"),
            }
            for step in steps.start..together - 1 {
                let (weight, bias, pool) = convolution(step);
                weight.forward(image, bias, pool, result, engine);
                std::mem::swap(image, result);
            }
            // The last one writes directly to the group's maps.
            let (weight, bias, pool) = convolution(together - 1);
            if place == 0 {
                weight.shape_output(images, image, pool, joint);
            }
            weight.forward_at(image, bias, pool, (joint, place), engine);
        }
        for step in together..steps.end {
            let (weight, bias, pool) = convolution(step);
            weight.forward(joint, bias, pool, result, engine);
            std::mem::swap(joint, result);
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
                    // NaN is kept.
                    let negative = output.numbers.iter_mut().filter(|number| **number < 0.0);
                    negative.for_each(|number| *number = 0.0);
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
    type Head = NativeOverrides;

    fn steps(&self) -> usize {
        self.stack.steps.len()
    }

    fn run(&mut self, steps: Range<usize>, rows: &Rows, head: Option<&NativeOverrides>) -> Result<Rows, BackendError> {
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

    fn select(&mut self, rows: &Rows, positions: &[usize]) -> Result<Rows, BackendError> {
        Ok(self.pick(rows, positions.iter().copied()))
    }

    fn recycle(&mut self, rows: Rows) {
        self.workspace.recycle(rows);
    }
}
