//! Sparse tensors: the stored elements and their coordinates, added up to a dense tensor block by block.

use safetensors::Dtype;

use super::entry::{Encoding, TensorEntry, Widen, item_bytes, refused};
use super::error::CheckpointError;
use super::source::Source;
use super::throttle::Throttle;

/// Elements that are read at once.
const BLOCK_ELEMENTS: usize = 64 * 1024;

/// The stored elements of a sparse tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sparse {
    /// One row for each dimension, one column for each value.
    pub indices: TensorEntry,
    pub values: TensorEntry,
}

impl Sparse {
    /// Checks that the parts fit together and are contiguous in the file.
    pub fn check(&self, name: &str, sizes: &[usize]) -> Result<(), CheckpointError> {
        let Self { indices, values } = self;
        let stored = values.elements();
        let is_consistent = indices.dtype == Dtype::I64
            && indices.shape[..] == [sizes.len(), stored]
            && values.shape[..] == [stored]
            && !sizes.is_empty();
        if !is_consistent {
            return Err(refused(name, "is a sparse tensor whose parts do not fit together"));
        }
        let is_plain =
            |part: &TensorEntry| part.layout.strides.is_none() && part.layout.encoding == Encoding::default();
        match is_plain(indices) && is_plain(values) {
            true => Ok(()),
            false => Err(refused(
                name,
                "is a sparse tensor in a compressed archive, or of parts that are not contiguous",
            )),
        }
    }

    /// Returns the dense values, in row-major order.
    pub fn densify(
        &self,
        dense: &TensorEntry,
        source: &Source,
        widen: Widen,
        throttle: &Throttle,
    ) -> Result<Vec<f32>, CheckpointError> {
        let stored = self.values.elements();
        let item = item_bytes(self.values.dtype).unwrap_or(1);
        let mut result = vec![0.0; dense.elements()];
        for start in (0..stored).step_by(BLOCK_ELEMENTS) {
            let count = BLOCK_ELEMENTS.min(stored - start);
            let mut places = vec![0; count];
            for (row, size) in dense.shape.iter().enumerate() {
                let at = self.indices.layout.start + ((row * stored + start) * size_of::<i64>()) as u64;
                let indices = source.read(at, (count * size_of::<i64>()) as u64)?;
                for (place, index) in places.iter_mut().zip(indices.as_chunks().0) {
                    let index = usize::try_from(i64::from_le_bytes(*index)).ok();
                    let index = index.filter(|index| index < size);
                    let outside = || refused(&dense.name, "is a sparse tensor with an index outside of its shape");
                    *place = *place * size + index.ok_or_else(outside)?;
                }
            }
            let at = self.values.layout.start + (start * item) as u64;
            let mut values = Vec::with_capacity(count);
            widen(&source.read(at, (count * item) as u64)?, &mut values);
            for (place, value) in places.into_iter().zip(values) {
                result[place] += value;
            }
            throttle.pause();
        }
        Ok(result)
    }
}
