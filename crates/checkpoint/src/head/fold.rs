//! Folds batch norms into the Linears beside them.

use std::sync::Arc;

use headswap_spec::HeadLayer;

use super::error::HeadFileError;
use super::part::Part;
use super::values::{Reader, ScaleShift, finite};
use crate::{HostTensor, Throttle};

/// A layer of the normal form with the parts of the file that it is made of.
#[derive(Debug)]
pub(super) struct Folded<'p, 'a> {
    pub layer: HeadLayer,
    /// The Linear; or the first part of an affine.
    pub part: Option<&'p Part<'a>>,
    /// What is done to the values before a Linear, and to its results.
    before: Option<ScaleShift>,
    after: Option<ScaleShift>,
}

/// Returns the layers without batch norms. Each is folded into the Linear or affine directly before it, else into the one
/// directly after it, else it becomes an affine.
pub(super) fn fold<'p, 'a>(
    layers: &[HeadLayer],
    parts: &[Option<&'p Part<'a>>],
    reader: &Reader<'_>,
) -> Result<Vec<Folded<'p, 'a>>, HeadFileError> {
    let mut folded: Vec<Folded<'p, 'a>> = Vec::new();
    let mut pending: Option<(ScaleShift, &'p Part<'a>)> = None;
    for (layer, part) in layers.iter().zip(parts) {
        match (layer, part) {
            (HeadLayer::BatchNorm(eps), Some(part)) => {
                let norm = reader.batch_norm(part, f64::from(eps.unwrap_or(1e-5)))?;
                match (pending.take(), folded.last_mut()) {
                    (Some((before, first)), _) => pending = Some((before.then(&norm), first)),
                    (None, Some(last)) if last.takes_norms() => last.append(&norm),
                    (None, _) => pending = Some((norm, part)),
                }
            }
            (HeadLayer::Affine, Some(part)) => {
                let own = reader.affine(part)?;
                let after = match pending.take() {
                    Some((before, _)) => before.then(&own),
                    None => own,
                };
                folded.push(Folded::affine(after, part));
            }
            (HeadLayer::Linear, part) => folded.push(Folded {
                layer: HeadLayer::Linear,
                part: *part,
                before: pending.take().map(|(norm, _)| norm),
                after: None,
            }),
            (layer, _) => {
                folded.extend(pending.take().map(|(norm, part)| Folded::affine(norm, part)));
                folded.push(Folded {
                    layer: *layer,
                    part: None,
                    before: None,
                    after: None,
                });
            }
        }
    }
    folded.extend(pending.map(|(norm, part)| Folded::affine(norm, part)));
    Ok(folded)
}

impl<'p, 'a> Folded<'p, 'a> {
    fn affine(after: ScaleShift, part: &'p Part<'a>) -> Self {
        Self {
            layer: HeadLayer::Affine,
            part: Some(part),
            before: None,
            after: Some(after),
        }
    }

    fn takes_norms(&self) -> bool {
        matches!(self.layer, HeadLayer::Linear | HeadLayer::Affine)
    }

    fn append(&mut self, norm: &ScaleShift) {
        self.after = Some(match self.after.take() {
            Some(after) => after.then(norm),
            None => norm.clone(),
        });
    }

    /// Reads and computes the layer's weight and bias; `None` for layers without.
    pub fn parameters(&self, reader: &Reader<'_>) -> Result<Option<[Arc<HostTensor>; 2]>, HeadFileError> {
        let Some(part) = self.part else { return Ok(None) };
        let (shape, weight, bias) = match (self.layer, part.linear()) {
            (HeadLayer::Linear, Some((input, output))) => {
                let (weight, bias) = (reader.weight(part)?, reader.bias(part, output)?);
                let join = Join {
                    before: self.before.as_ref(),
                    after: self.after.as_ref(),
                    part,
                    throttle: reader.throttle,
                };
                let (weight, bias) = join.apply(weight, bias)?;
                (vec![output, input], weight, bias)
            }
            (HeadLayer::Affine, _) => {
                let Some(own) = &self.after else { return Ok(None) };
                let weight = finite(single(&own.scale), part)?;
                (vec![weight.len()], weight, finite(single(&own.shift), part)?)
            }
            _ => return Ok(None),
        };
        let rows = vec![bias.len()];
        Ok(Some([
            Arc::new(HostTensor::new(shape, weight)),
            Arc::new(HostTensor::new(rows, bias)),
        ]))
    }
}

/// What is folded into a Linear or a convolution.
pub(super) struct Join<'x> {
    /// What is done to the values that it takes.
    pub before: Option<&'x ScaleShift>,
    /// What is done to those that it returns.
    pub after: Option<&'x ScaleShift>,
    pub part: &'x Part<'x>,
    pub throttle: &'x Throttle,
}

impl Join<'_> {
    /// Returns weight and bias with both folded in: in f64, rounded once.
    pub fn apply(&self, mut weight: Vec<f32>, mut bias: Vec<f32>) -> Result<(Vec<f32>, Vec<f32>), HeadFileError> {
        if self.before.is_none() && self.after.is_none() {
            return Ok((weight, bias));
        }
        let columns = weight.len() / bias.len().max(1);
        for (row, (weights, bias)) in weight.chunks_exact_mut(columns.max(1)).zip(&mut bias).enumerate() {
            let (scale, shift) = match self.after {
                Some(after) => (after.scale[row], after.shift[row]),
                None => (1.0, 0.0),
            };
            let mut sum = f64::from(*bias);
            for (column, weight) in weights.iter_mut().enumerate() {
                let mut value = f64::from(*weight);
                if let Some(before) = self.before {
                    sum += value * before.shift[column];
                    value *= before.scale[column];
                }
                *weight = (value * scale) as f32;
            }
            *bias = (sum * scale + shift) as f32;
            self.throttle.pause();
        }
        Ok((finite(weight, self.part)?, finite(bias, self.part)?))
    }
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}
