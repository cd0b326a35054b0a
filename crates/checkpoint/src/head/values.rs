//! Reads the parameters of a part, with masks and norms folded in.

use super::error::HeadFileError;
use super::part::Part;
use super::stored::Stored;
use crate::{Checkpoint, Throttle};

/// Reads tensors of one file.
pub(super) struct Reader<'a> {
    pub checkpoint: &'a Checkpoint,
    pub throttle: &'a Throttle,
}

/// A batch norm or an affine as y = scale · x + shift, one of each for every channel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ScaleShift {
    pub scale: Vec<f64>,
    pub shift: Vec<f64>,
}

impl ScaleShift {
    /// This one, followed by `next`.
    pub fn then(&self, next: &Self) -> Self {
        let mut scale = Vec::with_capacity(self.scale.len());
        let mut shift = Vec::with_capacity(self.shift.len());
        for channel in 0..self.scale.len() {
            scale.push(next.scale[channel] * self.scale[channel]);
            shift.push(next.scale[channel] * self.shift[channel] + next.shift[channel]);
        }
        Self { scale, shift }
    }
}

impl Reader<'_> {
    /// Reads a weight, row-major.
    pub fn weight(&self, part: &Part<'_>) -> Result<Vec<f32>, HeadFileError> {
        match part.weight {
            Some(stored) => self.stored(part, stored),
            None => Ok(Vec::new()),
        }
    }

    /// Reads a bias of `rows` values; zeros if the part has none.
    pub fn bias(&self, part: &Part<'_>, rows: usize) -> Result<Vec<f32>, HeadFileError> {
        match part.bias {
            Some(stored) => self.stored(part, stored),
            None => Ok(vec![0.0; rows]),
        }
    }

    /// Reads a batch norm's four vectors: y = (x − mean) / √(variance + eps) · weight + bias.
    pub fn batch_norm(&self, part: &Part<'_>, eps: f64) -> Result<ScaleShift, HeadFileError> {
        let (Some(mean), Some(variance)) = (part.running_mean, part.running_var) else {
            return self.affine(part);
        };
        let mean = self.checkpoint.read_throttled(mean, self.throttle)?.values;
        let variance = self.checkpoint.read_throttled(variance, self.throttle)?.values;
        let weight = match part.weight {
            Some(stored) => self.stored(part, stored)?,
            None => vec![1.0; mean.len()],
        };
        let bias = self.bias(part, mean.len())?;
        let mut folded = ScaleShift {
            scale: Vec::with_capacity(mean.len()),
            shift: Vec::with_capacity(mean.len()),
        };
        for channel in 0..mean.len() {
            let scale = f64::from(weight[channel]) / (f64::from(variance[channel]) + eps).sqrt();
            folded.scale.push(scale);
            folded
                .shift
                .push(f64::from(bias[channel]) - f64::from(mean[channel]) * scale);
        }
        Ok(folded)
    }

    /// Reads a pair of vectors.
    pub fn affine(&self, part: &Part<'_>) -> Result<ScaleShift, HeadFileError> {
        let weight = self.weight(part)?;
        let bias = self.bias(part, weight.len())?;
        Ok(ScaleShift {
            scale: weight.into_iter().map(f64::from).collect(),
            shift: bias.into_iter().map(f64::from).collect(),
        })
    }

    fn stored(&self, part: &Part<'_>, stored: Stored<'_>) -> Result<Vec<f32>, HeadFileError> {
        match stored {
            Stored::Plain(entry) => Ok(self.checkpoint.read_throttled(entry, self.throttle)?.values),
            Stored::Masked { values, mask } => {
                let mut values = self.checkpoint.read_throttled(values, self.throttle)?.values;
                let mask = self.checkpoint.read_throttled(mask, self.throttle)?.values;
                for (value, mask) in values.iter_mut().zip(mask) {
                    // A pruned -1 is 0, not -0, so that equal weights have equal digests.
                    *value = *value * mask + 0.0;
                }
                finite(values, part)
            }
            Stored::Normed { direction, length } => {
                let mut values = self.checkpoint.read_throttled(direction, self.throttle)?.values;
                let lengths = self.checkpoint.read_throttled(length, self.throttle)?.values;
                let row_length = values.len() / lengths.len().max(1);
                for (row, length) in values.chunks_exact_mut(row_length.max(1)).zip(lengths) {
                    let squares: f64 = row.iter().map(|value| f64::from(*value).powi(2)).sum();
                    let factor = f64::from(length) / squares.sqrt();
                    for value in row {
                        *value = (f64::from(*value) * factor) as f32;
                    }
                }
                finite(values, part)
            }
        }
    }
}

/// Refuses numbers that folding made infinite or NaN.
pub(super) fn finite(values: Vec<f32>, part: &Part<'_>) -> Result<Vec<f32>, HeadFileError> {
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(HeadFileError::NotFinite { name: part.name() })
    }
}
