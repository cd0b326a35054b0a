//! A batch's rows between steps.

use headswap_model::BackendError;
use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// Rows between two steps.
pub(super) enum Rows {
    /// Pictures of the batch, by their index.
    Pictures(Vec<usize>),
    /// The output of a convolution: `[rows, channels, height, width]`.
    Maps(Tensor),
    /// `[rows, width]`.
    Vectors(Tensor),
}

impl Rows {
    /// Returns the vectors; the rows must have passed the convolutions.
    pub fn as_vectors(&self) -> Result<&Tensor> {
        match self {
            Self::Vectors(vectors) => Ok(vectors),
            Self::Pictures(_) | Self::Maps(_) => {
                Err(BackendError::Device("rows leave the batch before a head's input".into()).into())
            }
        }
    }

    /// Returns another handle to the same rows.
    pub fn share(&self) -> Self {
        match self {
            Self::Pictures(pictures) => Self::Pictures(pictures.clone()),
            Self::Maps(maps) => Self::Maps(maps.shallow_clone()),
            Self::Vectors(vectors) => Self::Vectors(vectors.shallow_clone()),
        }
    }

    /// Returns the rows at these positions, which are ascending and distinct.
    pub fn select(&self, positions: &[usize]) -> Result<Self> {
        Ok(match self {
            Self::Pictures(pictures) => Self::Pictures(positions.iter().map(|&position| pictures[position]).collect()),
            Self::Maps(maps) => Self::Maps(select(maps, positions)?),
            Self::Vectors(vectors) => Self::Vectors(select(vectors, positions)?),
        })
    }
}

/// Returns these rows of a tensor; without a copy if they are all of its rows. `rows` must be ascending and distinct.
pub(super) fn select(tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    if rows.len() as i64 == tensor.size()[0] {
        return Ok(tensor.shallow_clone());
    }
    pick(tensor, rows)
}

/// Returns these rows of a tensor, in any order.
pub(super) fn pick(tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let indices: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let indices = Tensor::f_from_slice(&indices)?.f_to_device(tensor.device())?;
    Ok(tensor.f_index_select(0, &indices)?)
}

/// Returns a tensor's values in f32, row-major.
pub(super) fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor
        .f_to_kind(Kind::Float)?
        .f_to_device(Device::Cpu)?
        .f_contiguous()?;
    let mut values = vec![0f32; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}
