//! The tensors of a Keras layer as PyTorch has them.

use super::refused;
use crate::CheckpointError;
use crate::entry::TensorEntry;
use crate::hdf5::{Dataset, View};

/// PyTorch's name of a variable.
fn leaf(variable: &str) -> &str {
    match variable {
        "kernel" | "gamma" => "weight",
        "beta" => "bias",
        "moving_mean" => "running_mean",
        "moving_variance" => "running_var",
        other => other,
    }
}

/// Returns the entry of a layer's variable: kernels of (rows, columns, in, out) as \[out, in, rows, columns\] and those of
/// (in, out) as \[out, in\], by strides.
///
/// # Errors
/// [`CheckpointError::Layer`] for a kernel of another rank, or what is wrong with the dataset.
pub(super) fn of(path: &str, variable: &str, dataset: &Dataset) -> Result<TensorEntry, CheckpointError> {
    let name = format!("{path}.{}", leaf(variable));
    let permuted = |axes: &[usize]| {
        let shape: Vec<usize> = axes.iter().map(|axis| dataset.shape[*axis]).collect();
        let view = View {
            sizes: &dataset.shape,
            axes,
            shape: &shape,
        };
        dataset.view(&name, view)
    };
    match (variable, dataset.shape.len()) {
        ("kernel", 2) => permuted(&[1, 0]),
        ("kernel", 4) => permuted(&[3, 2, 0, 1]),
        ("kernel", _) => Err(refused(
            path,
            &format!("has a kernel of shape {:?}; 2 or 4 dimensions are read", dataset.shape),
        )),
        _ => dataset.entry(&name),
    }
}
