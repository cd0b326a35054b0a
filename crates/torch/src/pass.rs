//! The execution of a batch's steps: convolutions, vectors of their maps, then Linears and heads' own layers.

use std::ops::Range;

use headswap_model::{BackendError, Operation, Stepper, apply_affine, apply_layer};
use tch::Tensor;

use super::graphs::Graphs;
use super::host::HostProducts;
use super::input::normalised;
use super::pictures::Pictures;
use super::rows::{Rows, to_host};
use super::steps::{TorchSteps, pad};
use super::weight::{TorchProgram, Vector, Weight};
use crate::error::Result;

/// Pictures that pass the convolutions together on the CPU. Their activations dominate the memory, 26 MB a picture of 224x224
/// in the first block; larger groups need more and are hardly faster (`benches/README.md`).
const CPU_GROUP: usize = 2;

/// The execution of a batch's steps.
pub(super) struct TorchPass<'a> {
    pub steps: &'a TorchSteps,
    pub pictures: &'a Pictures<'a>,
    /// Recorded passes, on a GPU.
    pub graphs: Option<&'a Graphs>,
    pub host: &'a mut HostProducts,
}

impl TorchPass<'_> {
    /// Computes steps for rows.
    pub fn try_run(&mut self, steps: Range<usize>, rows: &Rows, program: &TorchProgram) -> Result<Rows> {
        let end = steps.end.min(program.steps());
        let (mut step, mut rows) = (steps.start.max(1), rows.share());
        if let Some(features) = self.replay(step..end, &rows, program)? {
            step = 1 + program.input_steps();
            rows = Rows::Vectors(features);
        }
        let convolutions = step..step + convolutions(program, step..end);
        if !convolutions.is_empty() {
            step = convolutions.end;
            rows = Rows::Maps(self.convolve(program, convolutions, &rows)?);
        }
        if step >= end {
            return Ok(rows);
        }
        let input = match rows {
            Rows::Maps(rows) | Rows::Vectors(rows) => rows,
            Rows::Pictures(_) => return Err(BackendError::Device("no convolution reads the pictures".into()).into()),
        };
        let own = (1 + program.input_steps()).clamp(step, end);
        if self.steps.placement.gpu {
            return Ok(Rows::Vectors(self.steps.run(program, step..end, input)?));
        }
        let vectors = self.steps.run(program, step..own, input)?;
        Ok(Rows::Vectors(self.own_on_host(program, own..end, vectors)?))
    }

    /// Returns the features by a recorded pass, if the steps begin with the whole backbone and one is large enough.
    fn replay(&self, steps: Range<usize>, rows: &Rows, program: &TorchProgram) -> Result<Option<Tensor>> {
        let (Some(graphs), Rows::Pictures(rows), Pictures::Uploaded(pictures)) = (self.graphs, rows, self.pictures)
        else {
            return Ok(None);
        };
        let end = 1 + program.input_steps();
        let last = program.operation(end - 1).and_then(Operation::backbone_step);
        let whole = steps.start == 1 && end <= steps.end && last == self.steps.stack.steps.len().checked_sub(1);
        // The first backbone's pass is recorded.
        let is_first = program.keys.iter().all(|key| !key.is_of_another());
        if !whole || !is_first || program.first_own().is_some_and(|own| own < end) {
            return Ok(None);
        }
        match pictures.plain(rows)? {
            Some(pixels) => graphs.run(&pixels),
            None => Ok(None),
        }
    }

    fn convolve(&self, program: &TorchProgram, steps: Range<usize>, rows: &Rows) -> Result<Tensor> {
        let count = match rows {
            Rows::Pictures(pictures) => pictures.len(),
            Rows::Maps(maps) | Rows::Vectors(maps) => maps.size()[0] as usize,
        };
        if self.steps.placement.gpu {
            let input = match (rows, self.pictures) {
                (Rows::Pictures(rows), Pictures::Uploaded(pictures)) => self.steps.input(pictures, rows)?,
                (Rows::Pictures(_), Pictures::Host(_)) => return Err(not_uploaded()),
                (Rows::Maps(maps) | Rows::Vectors(maps), _) => pad(maps)?,
            };
            return Ok(self.steps.run(program, steps, input)?.f_narrow(0, 0, count as i64)?);
        }
        let mut convolved = Vec::with_capacity(count.div_ceil(CPU_GROUP));
        for first in (0..count).step_by(CPU_GROUP) {
            let group = first..count.min(first + CPU_GROUP);
            convolved.push(self.steps.run(program, steps.clone(), self.group(rows, group)?)?);
        }
        Ok(match convolved.len() {
            1 => convolved.remove(0),
            _ => Tensor::f_cat(&convolved, 0)?,
        })
    }

    /// Returns the input of the next convolution of some of the rows, on the CPU.
    fn group(&self, rows: &Rows, group: Range<usize>) -> Result<Tensor> {
        match (rows, self.pictures) {
            (Rows::Pictures(rows), Pictures::Host(pictures)) => {
                let pictures = rows[group].iter().map(|&row| &pictures[row]);
                normalised(pictures, self.steps.placement.kind)
            }
            (Rows::Pictures(_), Pictures::Uploaded(_)) => Err(not_uploaded()),
            (Rows::Maps(maps) | Rows::Vectors(maps), _) => {
                Ok(maps.f_narrow(0, group.start as i64, group.len() as i64)?)
            }
        }
    }

    /// Computes a head's own layers on the CPU, in f32.
    fn own_on_host(&mut self, program: &TorchProgram, steps: Range<usize>, rows: Tensor) -> Result<Tensor> {
        if steps.is_empty() {
            return Ok(rows);
        }
        let (count, mut width) = (rows.size()[0], rows.size()[1] as usize);
        let mut numbers = to_host(&rows)?;
        for step in steps {
            match program.operation(step) {
                Some(Operation::Linear { parameters, .. }) => {
                    let (Weight::Host(weight), Some(bias)) = (&*parameters.weight, parameters.bias.on_host()) else {
                        return Err(BackendError::ForeignHead.into());
                    };
                    numbers = self
                        .host
                        .linear(weight, bias, count as usize, |row| &numbers[row * width..][..width]);
                    width = bias.len();
                }
                Some(Operation::Affine { weight, bias }) => {
                    let (Some(weight), Some(bias)) = (weight.on_host(), bias.on_host()) else {
                        return Err(BackendError::ForeignHead.into());
                    };
                    apply_affine(weight, bias, &mut numbers);
                }
                Some(Operation::Layer(layer)) => apply_layer(*layer, &mut numbers, width),
                Some(Operation::Convolution { .. } | Operation::Input(_)) | None => break,
            }
        }
        Ok(Tensor::f_from_slice(&numbers)?.f_reshape([count, width as i64])?)
    }
}

impl Stepper for TorchPass<'_> {
    type Rows = Rows;
    type Weight = Weight;
    type Bias = Vector;

    fn run(&mut self, steps: Range<usize>, rows: &Rows, program: &TorchProgram) -> Result<Rows, BackendError> {
        Ok(self.try_run(steps, rows, program)?)
    }

    fn select(&mut self, rows: &Rows, positions: &[usize]) -> Result<Rows, BackendError> {
        Ok(rows.select(positions)?)
    }
}

/// Returns the number of convolutions that the steps begin with.
fn convolutions(program: &TorchProgram, steps: Range<usize>) -> usize {
    steps
        .take_while(|&step| matches!(program.operation(step), Some(Operation::Convolution { .. })))
        .count()
}

fn not_uploaded() -> crate::error::TorchError {
    BackendError::Device("the pictures are on another device".into()).into()
}
