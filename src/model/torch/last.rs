//! The last Linear of the heads of a batch, in few products however many heads there are.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::placement::{PlacedTensor, Placement};
use crate::model::host_linear::{HeadProduct, host_linear};
use crate::model::network::NetworkError;
use crate::model::tensor::HostTensor;

/// On a GPU, heads of up to this many classes are gathered into one product over all rows. What it computes in vain is
/// nothing beside the convolutions: 256 rows by 256 heads of 64 classes are 17 GFLOP, half a picture's.
const GATHERED_CLASSES_MAX: usize = 64;

/// A head's last Linear.
pub(super) enum LastLinear {
    /// In the host's memory, in f32 whatever the backbone computes in: few numbers, and exact.
    Host {
        /// `[K, width]`.
        weight: Arc<HostTensor>,
        /// `[K]`.
        bias: Arc<HostTensor>,
    },
    /// In a GPU's.
    Device {
        /// `[K, width]`.
        weight: PlacedTensor,
        /// `[K]`.
        bias: PlacedTensor,
    },
}

impl LastLinear {
    pub fn place(placement: Placement, weight: &Arc<HostTensor>, bias: &Arc<HostTensor>) -> Result<Self, NetworkError> {
        if placement.device == Device::Cpu {
            let (weight, bias) = (Arc::clone(weight), Arc::clone(bias));
            return Ok(Self::Host { weight, bias });
        }
        Ok(Self::Device {
            weight: placement.place(weight)?,
            bias: placement.place(bias)?,
        })
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Host { weight, bias } => weight.bytes() + bias.bytes(),
            Self::Device { weight, bias } => weight.bytes() + bias.bytes(),
        }
    }
}

/// For each head, the logits of its rows of `features`, one after the other: rows x classes.
pub(super) fn last_linears(
    features: &Tensor,
    heads: &[(&LastLinear, &[usize])],
) -> Result<Vec<Vec<f32>>, NetworkError> {
    if features.device() == Device::Cpu {
        return last_linears_on_host(features, heads);
    }
    let small = |head: &LastLinear| matches!(head, LastLinear::Device { bias, .. } if bias.handle().numel() <= GATHERED_CLASSES_MAX);
    let (gathered, alone): (Vec<usize>, Vec<usize>) = (0..heads.len()).partition(|&head| small(heads[head].0));
    let mut logits = vec![Vec::new(); heads.len()];
    for head in alone {
        let (last, rows) = &heads[head];
        let rows = select(features, rows)?;
        let LastLinear::Device { weight, bias } = last else {
            return Err(NetworkError::ForeignHead);
        };
        logits[head] = to_host(&rows.f_linear(&weight.handle(), Some(bias.handle()))?)?;
    }
    let gathered: Vec<(usize, &LastLinear, &[usize])> = gathered
        .into_iter()
        .map(|head| (head, heads[head].0, heads[head].1))
        .collect();
    if !gathered.is_empty() {
        for (head, found) in gather(features, &gathered)? {
            logits[head] = found;
        }
    }
    Ok(logits)
}

/// One product of all rows with all of these heads' weights, of which each head takes its rows and columns.
fn gather(features: &Tensor, heads: &[(usize, &LastLinear, &[usize])]) -> Result<Vec<(usize, Vec<f32>)>, NetworkError> {
    let (mut weights, mut biases) = (Vec::new(), Vec::new());
    for (_, last, _) in heads {
        let LastLinear::Device { weight, bias } = last else {
            return Err(NetworkError::ForeignHead);
        };
        weights.push(weight.handle());
        biases.push(bias.handle());
    }
    let product = features.f_linear(&Tensor::f_cat(&weights, 0)?, Some(Tensor::f_cat(&biases, 0)?))?;
    let columns = product.size()[1] as usize;
    let product = to_host(&product)?;
    let mut first = 0;
    let mut found = Vec::with_capacity(heads.len());
    for ((head, _, rows), bias) in heads.iter().zip(&biases) {
        let classes = first..first + bias.numel();
        first = classes.end;
        let row = |&row: &usize| &product[row * columns + classes.start..row * columns + classes.end];
        found.push((*head, rows.iter().flat_map(row).copied().collect()));
    }
    Ok(found)
}

fn last_linears_on_host(features: &Tensor, heads: &[(&LastLinear, &[usize])]) -> Result<Vec<Vec<f32>>, NetworkError> {
    let width = features.size()[1] as usize;
    let features = to_host(features)?;
    let mut products = Vec::with_capacity(heads.len());
    for (last, rows) in heads {
        let LastLinear::Host { weight, bias } = last else {
            return Err(NetworkError::ForeignHead);
        };
        let rows = rows
            .iter()
            .map(|row| &features[row * width..(row + 1) * width])
            .collect();
        let bias = &bias.values;
        products.push(HeadProduct { weight, bias, rows });
    }
    Ok(host_linear(&products))
}

/// Some rows of a tensor, or all of it if that is what they are.
pub(super) fn select(tensor: &Tensor, rows: &[usize]) -> Result<Tensor, NetworkError> {
    if rows.len() as i64 == tensor.size()[0] {
        return Ok(tensor.shallow_clone());
    }
    let indices: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let indices = Tensor::f_from_slice(&indices)?.f_to_device(tensor.device())?;
    Ok(tensor.f_index_select(0, &indices)?)
}

/// A tensor's values in f32, row-major.
pub(super) fn to_host(tensor: &Tensor) -> Result<Vec<f32>, NetworkError> {
    let tensor = tensor
        .f_to_kind(Kind::Float)?
        .f_to_device(Device::Cpu)?
        .f_contiguous()?;
    let mut values = vec![0f32; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}
