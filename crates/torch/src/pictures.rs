//! The pictures of a batch.

use headswap_model::{BackendError, InputRow};
use tch::{Kind, Tensor};

use super::input::FoldedInput;
use super::rows::{pick, select};
use crate::error::Result;

/// The pictures of a batch.
pub(super) enum Pictures<'a> {
    /// In host memory, for the CPU.
    Host(&'a [InputRow<'a>]),
    /// On the GPU.
    Uploaded(Uploaded),
}

/// Pictures on the device.
pub(super) struct Uploaded {
    /// The pictures of one size and element type: `[N, height, width, 3]`, u8 or f32.
    pub stacks: Vec<Tensor>,
    /// Where the picture of each row is.
    pub places: Vec<Place>,
    /// `[rows, 3, 3]` in f32, the numbers of each row's conversion; none if all rows are plain.
    pub conversions: Option<Tensor>,
}

/// Where the picture of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The index of its stack.
    pub stack: usize,
    /// Its index there.
    pub position: usize,
    /// True if it needs no conversion.
    pub plain: bool,
    /// True if its channels are reversed.
    pub reversed: bool,
}

impl Uploaded {
    /// Returns the bytes of these rows, `[N, 224, 224, 3]`, if all are plain. `rows` must be ascending and distinct.
    pub fn plain(&self, rows: &[usize]) -> Result<Option<Tensor>> {
        let Some(stack) = rows.first().map(|&row| self.places[row].stack) else {
            return Ok(None);
        };
        if !rows.iter().all(|&row| self.places[row].plain) {
            return Ok(None);
        }
        // Plain pictures have one size and type, and so one stack, in the order of the batch.
        Ok(Some(select(&self.stacks[stack], &self.positions(rows))?))
    }

    /// Returns the first convolution's input of rows of one size, with `padded` rows of which the last are of no picture.
    pub fn input(&self, rows: &[usize], folded: &FoldedInput, padded: usize) -> Result<Tensor> {
        if let Some(pixels) = self.plain(rows)? {
            return folded.of_bytes(&pixels, padded);
        }
        let Some(conversions) = &self.conversions else {
            return Err(BackendError::Device("a picture was uploaded without its conversion".into()).into());
        };
        let numbers = select(conversions, rows)?;
        let [factors, offsets, reversed] = parts(&numbers)?;
        let mut values = self.values(rows)?;
        let reversals = rows.iter().filter(|&&row| self.places[row].reversed).count();
        if reversals == rows.len() {
            values = values.f_flip([3])?;
        } else if reversals > 0 {
            values = values.f_flip([3])?.f_where_self(&reversed.f_gt(0.5)?, &values)?;
        }
        folded.of_values(&values, &factors, &offsets, padded)
    }

    /// Returns the values of rows of one size: `[N, height, width, 3]` in f32.
    fn values(&self, rows: &[usize]) -> Result<Tensor> {
        let mut used: Vec<usize> = rows.iter().map(|&row| self.places[row].stack).collect();
        used.sort_unstable();
        used.dedup();
        if let [stack] = used[..] {
            let pictures = select(&self.stacks[stack], &self.positions(rows))?;
            return Ok(pictures.f_to_kind(Kind::Float)?);
        }
        // Bytes and floats of one size.
        let (mut parts, mut positions, mut first) = (Vec::new(), vec![0; rows.len()], 0);
        for stack in used {
            for (position, &row) in positions.iter_mut().zip(rows) {
                if self.places[row].stack == stack {
                    *position = first + self.places[row].position;
                }
            }
            parts.push(self.stacks[stack].f_to_kind(Kind::Float)?);
            first += self.stacks[stack].size()[0] as usize;
        }
        pick(&Tensor::f_cat(&parts, 0)?, &positions)
    }

    fn positions(&self, rows: &[usize]) -> Vec<usize> {
        rows.iter().map(|&row| self.places[row].position).collect()
    }
}

/// Splits the numbers of conversions, `[rows, 3, 3]`, into three tensors, `[rows, 1, 1, 3]`.
fn parts(numbers: &Tensor) -> Result<[Tensor; 3]> {
    let shape = [numbers.size()[0], 1, 1, 3];
    Ok([
        numbers.f_narrow(1, 0, 1)?.f_reshape(shape)?,
        numbers.f_narrow(1, 1, 1)?.f_reshape(shape)?,
        numbers.f_narrow(1, 2, 1)?.f_reshape(shape)?,
    ])
}
