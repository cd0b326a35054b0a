//! One tensor of a checkpoint: its names, its shape, and where its elements lie.

use half::{bf16, f16};
use safetensors::Dtype;

use super::error::CheckpointError;
use super::source::Source;
use super::tensor::HostTensor;
use super::text::excerpt;
use super::throttle::Throttle;

/// Numbers that are checked between two pauses.
const FINITE_BLOCK: usize = 64 << 10;

/// Tensors in a checkpoint at most: a VGG16 has 32, and thrice that with its optimiser's.
pub(super) const TENSORS_MAX: usize = 4096;
/// Bytes of a tensor's name at most.
pub(super) const NAME_BYTES_MAX: usize = 512;
/// Dimensions of a tensor at most.
pub(super) const RANK_MAX: usize = 8;

/// What a checkpoint says of a tensor before it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorEntry {
    /// As torchvision calls it.
    pub name: String,
    /// As the file calls it.
    pub file_name: String,
    /// The element type in the file.
    pub dtype: Dtype,
    /// As torchvision shapes it, outermost dimension first. A product of the sizes does not overflow.
    pub shape: Vec<usize>,
    pub(super) layout: Layout,
}

/// Where the elements lie in the file, in row-major order of the tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    /// The first element's byte.
    pub start: u64,
    /// None if they follow each other; else the sizes and strides, in elements, of the dimensions of more than one.
    pub strides: Option<Vec<(usize, usize)>>,
}

/// The bytes of the file that a tensor's elements are in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    pub start: u64,
    pub bytes: u64,
}

impl TensorEntry {
    /// A tensor of these `sizes` and, unless its elements follow each other, `strides`, `offset` elements into a storage.
    pub(super) fn new(
        name: &str,
        dtype: Dtype,
        (sizes, strides): (&[usize], Option<&[usize]>),
        offset: usize,
        storage: Storage,
    ) -> Result<Self, CheckpointError> {
        let refused = |reason: &str| CheckpointError::Tensor {
            name: excerpt(name),
            reason: reason.to_owned(),
        };
        if name.len() > NAME_BYTES_MAX {
            return Err(refused("has too long a name"));
        }
        let item = item_bytes(dtype).ok_or_else(|| refused("has elements of less than a byte"))?;
        let capacity = storage.bytes / item as u64;
        let count = element_count(sizes).filter(|&count| count as u64 <= capacity);
        let count = count.ok_or_else(|| refused("has more elements than its storage"))?;
        let strides = strides.filter(|strides| count > 0 && !follow_each_other(sizes, strides));
        let extent = match strides {
            Some(strides) => extent(sizes, strides),
            None => Some(count),
        };
        let end = extent.and_then(|extent| extent.checked_add(offset));
        if end.is_none_or(|end| end as u64 > capacity) {
            return Err(refused("reaches beyond its storage"));
        }
        Ok(Self {
            name: name.to_owned(),
            file_name: name.to_owned(),
            dtype,
            shape: sizes.to_vec(),
            layout: Layout {
                start: storage.start + (offset * item) as u64,
                strides: strides.map(|strides| {
                    let dimensions = sizes.iter().copied().zip(strides.iter().copied());
                    dimensions.filter(|(size, _)| *size > 1).collect()
                }),
            },
        })
    }

    /// How many elements it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns its values as f32, row by row.
    pub(super) fn read(&self, source: &Source, throttle: &Throttle) -> Result<HostTensor, CheckpointError> {
        let widen = widen(self.dtype).ok_or_else(|| CheckpointError::Dtype {
            name: excerpt(&self.name),
            dtype: self.dtype,
        })?;
        let item = item_bytes(self.dtype).unwrap_or(1);
        let values = match &self.layout.strides {
            None => self.read_row_by_row(source, item, widen, throttle)?,
            Some(strides) => self.gather(source, item, widen, strides)?,
        };
        let finite = values.chunks(FINITE_BLOCK).all(|block| {
            throttle.pause();
            block.iter().all(|value| value.is_finite())
        });
        if !finite && let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(CheckpointError::NotFinite {
                name: excerpt(&self.name),
                value: values[index],
                index,
            });
        }
        Ok(HostTensor::new(self.shape.clone(), values))
    }

    fn read_row_by_row(
        &self,
        source: &Source,
        item: usize,
        widen: Widen,
        throttle: &Throttle,
    ) -> Result<Vec<f32>, CheckpointError> {
        let count = self.elements();
        let mut values = Vec::with_capacity(count);
        source.read_blocks(self.layout.start, (count * item) as u64, |block| {
            widen(block, &mut values);
            throttle.pause();
        })?;
        Ok(values)
    }

    /// Reads the part of the storage that the elements are spread over, then picks them.
    fn gather(
        &self,
        source: &Source,
        item: usize,
        widen: Widen,
        strides: &[(usize, usize)],
    ) -> Result<Vec<f32>, CheckpointError> {
        let (sizes, steps): (Vec<usize>, Vec<usize>) = strides.iter().copied().unzip();
        let extent = extent(&sizes, &steps).unwrap_or(0);
        let spread = source.read(self.layout.start, (extent * item) as u64)?;
        let mut values = Vec::with_capacity(self.elements());
        let mut index = vec![0; sizes.len()];
        let mut at = 0;
        for _ in 0..self.elements() {
            widen(&spread[at * item..(at + 1) * item], &mut values);
            for dimension in (0..sizes.len()).rev() {
                index[dimension] += 1;
                at += steps[dimension];
                if index[dimension] < sizes[dimension] {
                    break;
                }
                at -= steps[dimension] * sizes[dimension];
                index[dimension] = 0;
            }
        }
        Ok(values)
    }
}

/// The product of the sizes, if it fits.
pub(super) fn element_count(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size))
}

/// Whether row-major elements lie one behind the other. The strides of dimensions of one element mean nothing.
fn follow_each_other(sizes: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    sizes.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected *= size;
        fits
    })
}

/// From the first element to behind the last, in elements; every size is at least 1.
fn extent(sizes: &[usize], strides: &[usize]) -> Option<usize> {
    let last = sizes.iter().zip(strides).try_fold(0usize, |last, (&size, &stride)| {
        last.checked_add((size - 1).checked_mul(stride)?)
    });
    last?.checked_add(1)
}

/// The bytes of one element, if they are whole.
pub(super) fn item_bytes(dtype: Dtype) -> Option<usize> {
    let bits = dtype.bitsize();
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Appends little-endian elements as f32.
type Widen = fn(&[u8], &mut Vec<f32>);

fn widen(dtype: Dtype) -> Option<Widen> {
    Some(match dtype {
        Dtype::F32 => |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::F16 => {
            |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()))
        }
        Dtype::BF16 => {
            |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()))
        }
        Dtype::F64 => |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        _ => return None,
    })
}
