//! One tensor of a checkpoint: its names, its shape, and where its elements are in the file.

use std::sync::Arc;

use half::{bf16, f16};
use safetensors::Dtype;

use super::chunks::Chunks;
use super::error::CheckpointError;
use super::gather;
use super::source::Source;
use super::sparse::Sparse;
use super::stream::Packed;
use super::tensor::HostTensor;
use super::text::excerpt;
use super::throttle::Throttle;

/// Elements that are checked for NaN and infinities between two pauses of the throttle.
const FINITE_BLOCK: usize = 64 << 10;

/// Limit of the tensors in a checkpoint. A VGG16 has 32, and three times as many with its optimiser's.
pub(super) const TENSORS_MAX: usize = 4096;
/// Limit of the bytes of a tensor's name.
pub(super) const NAME_BYTES_MAX: usize = 512;
/// Limit of the dimensions of a tensor.
pub(super) const RANK_MAX: usize = 8;

/// Limit of the elements of a tensor that repeats those of a smaller storage, or whose zeros are not stored.
const REPEATED_MAX: usize = 4 << 20;
/// Limit of the elements of a sparse tensor for each that is stored, beyond [`REPEATED_MAX`].
const SPARSE_RATIO_MAX: usize = 64;

/// What a checkpoint says about a tensor before the tensor is read.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorEntry {
    /// The name in torchvision.
    pub name: String,
    /// The name in the file.
    pub file_name: String,
    /// The element type in the file.
    pub dtype: Dtype,
    /// The shape in torchvision, outermost dimension first. The product of the sizes does not overflow.
    pub shape: Vec<usize>,
    pub(super) layout: Layout,
}

/// Where the elements are in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    /// The offset of the first element, in bytes.
    pub start: u64,
    /// `None` if the elements are contiguous in row-major order. Else (size, stride) of each dimension of more than one
    /// element, strides in elements.
    pub strides: Option<Vec<(usize, usize)>>,
    pub encoding: Encoding,
    /// The stored elements of a sparse tensor, whose other fields are not used.
    pub sparse: Option<Box<Sparse>>,
    /// The chunks of which the tensor is a view. They are as if contiguous for `strides`, and `start` is that of the first.
    pub chunks: Option<Arc<Chunks>>,
}

impl Layout {
    /// Where reading begins in the file, and how many decoded bytes are skipped from there.
    pub fn file_offset(&self) -> (u64, u64) {
        match self.encoding.packed {
            Some(packed) => (packed.start, self.start),
            None => (self.start, 0),
        }
    }
}

/// How the bytes at [`Layout::start`] are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Encoding {
    /// The offset is in what these bytes of the file inflate to.
    pub packed: Option<Packed>,
    /// The bytes are these many of UTF-8, each character of which stands for one byte.
    pub latin1_bytes: Option<u64>,
}

/// A range of the file's bytes that holds the elements of one or several tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    pub start: u64,
    /// Decoded.
    pub bytes: u64,
    pub encoding: Encoding,
}

/// A tensor's view of its storage, as PyTorch describes it; all numbers count elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct StorageView<'a> {
    pub offset: usize,
    pub sizes: &'a [usize],
    /// One for each of `sizes`; `None` if the elements are contiguous.
    pub strides: Option<&'a [usize]>,
}

impl TensorEntry {
    pub(super) fn new(
        name: &str,
        dtype: Dtype,
        view: StorageView<'_>,
        storage: Storage,
    ) -> Result<Self, CheckpointError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(refused(name, "has too long a name"));
        }
        // Elements of less than a byte are never read, only listed.
        let item = item_bytes(dtype).unwrap_or(1);
        let StorageView { offset, sizes, strides } = view;
        let capacity = storage.bytes.saturating_mul(8) / dtype.bitsize() as u64;
        let repeats = strides.is_some_and(|strides| {
            sizes
                .iter()
                .zip(strides)
                .any(|(size, stride)| *size > 1 && *stride == 0)
        });
        let count_max = if repeats {
            capacity.max(REPEATED_MAX as u64)
        } else {
            capacity
        };
        let count = element_count(sizes).filter(|&count| count as u64 <= count_max);
        let count = count.ok_or_else(|| refused(name, "has more elements than its storage"))?;
        let strides = strides.filter(|strides| count > 0 && !is_contiguous(sizes, strides));
        let extent = match strides {
            Some(strides) => extent(sizes, strides),
            None => Some(count),
        };
        let end = extent.and_then(|extent| extent.checked_add(offset));
        if end.is_none_or(|end| end as u64 > capacity) {
            return Err(refused(name, "reaches beyond its storage"));
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
                encoding: storage.encoding,
                sparse: None,
                chunks: None,
            },
        })
    }

    /// Returns the entry of a sparse tensor of these sizes.
    pub(super) fn sparse(name: &str, sizes: &[usize], sparse: Sparse) -> Result<Self, CheckpointError> {
        sparse.check(name, sizes)?;
        let stored = sparse.values.elements();
        let count_max = REPEATED_MAX.saturating_add(stored.saturating_mul(SPARSE_RATIO_MAX));
        if element_count(sizes).is_none_or(|count| count > count_max) {
            return Err(refused(name, "is a sparse tensor with too many zeros"));
        }
        Ok(Self {
            name: name.to_owned(),
            file_name: name.to_owned(),
            dtype: sparse.values.dtype,
            shape: sizes.to_vec(),
            layout: Layout {
                start: sparse.values.layout.start,
                strides: None,
                encoding: Encoding::default(),
                sparse: Some(Box::new(sparse)),
                chunks: None,
            },
        })
    }

    /// Returns a matrix whose columns are a map's values by row, column and channel, as one whose columns are the same by
    /// channel, row and column. `map` is the number of each; their product is that of the columns.
    pub(super) fn with_columns_channels_first(&self, map: [usize; 3]) -> Self {
        let [rows, columns, channels] = map;
        let (outputs, inputs) = match self.shape[..] {
            [outputs, inputs] if inputs == rows * columns * channels => (outputs, inputs),
            _ => return self.clone(),
        };
        // (size, stride) of each dimension of more than one element.
        let before = self
            .layout
            .strides
            .clone()
            .unwrap_or_else(|| vec![(outputs, inputs), (inputs, 1)]);
        let mut strides: Vec<(usize, usize)> = before.iter().copied().take(usize::from(outputs > 1)).collect();
        let step = before.last().map_or(1, |(_, stride)| *stride);
        strides.push((channels, step));
        strides.push((rows, step * channels * columns));
        strides.push((columns, step * channels));
        let mut entry = self.clone();
        entry.layout.strides = Some(strides);
        entry
    }

    /// Returns true if its name in the file is `prefix` or begins with it and a dot.
    pub(super) fn is_under(&self, prefix: &str) -> bool {
        let rest = self.file_name.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns true if both are the same elements of the file.
    pub(super) fn is_alias(&self, other: &Self) -> bool {
        (&self.layout, &self.shape, self.dtype) == (&other.layout, &other.shape, other.dtype)
    }

    /// Returns the values as f32, in row-major order.
    pub(super) fn read(&self, source: &Source, throttle: &Throttle) -> Result<HostTensor, CheckpointError> {
        let elements = elements(self.dtype).ok_or_else(|| CheckpointError::Dtype {
            name: excerpt(&self.name),
            dtype: self.dtype,
        })?;
        let Layout {
            sparse,
            chunks,
            strides,
            ..
        } = &self.layout;
        let values = match (sparse, chunks, strides) {
            (Some(sparse), _, _) => sparse.densify(self, source, elements.widen, throttle)?,
            (None, Some(chunks), _) => chunks.read(self, source, elements, throttle)?,
            (None, None, None) => self.read_contiguous(source, elements, throttle)?,
            (None, None, Some(strides)) => gather::gather(self, source, elements, strides, throttle)?,
        };
        let finite = values.chunks(FINITE_BLOCK).all(|block| {
            throttle.pause();
            block.iter().all(|value| value.is_finite())
        });
        if !finite && let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let name = excerpt(&self.name);
            if self.dtype == Dtype::F64 && values[index].is_infinite() {
                return Err(CheckpointError::BeyondSingle {
                    name,
                    value: values[index],
                    index,
                });
            }
            return Err(CheckpointError::NotFinite {
                name,
                value: values[index],
                index,
            });
        }
        Ok(HostTensor::new(self.shape.clone(), values))
    }

    fn read_contiguous(
        &self,
        source: &Source,
        Elements { bytes: item, widen }: Elements,
        throttle: &Throttle,
    ) -> Result<Vec<f32>, CheckpointError> {
        let count = self.elements();
        let mut values = Vec::with_capacity(count);
        let each = |block: &[u8]| {
            widen(block, &mut values);
            throttle.pause();
        };
        let bytes = (count * item) as u64;
        match self.layout.encoding {
            Encoding {
                packed: None,
                latin1_bytes: None,
            } => source.read_blocks(self.layout.start, bytes, each)?,
            encoding => gather::decode_blocks(source, self.layout.start, encoding, bytes, each)
                .map_err(|error| self.undecodable(error))?,
        }
        Ok(values)
    }

    pub(super) fn undecodable(&self, error: std::io::Error) -> CheckpointError {
        refused(
            &self.name,
            &format!("cannot be decompressed ({})", excerpt(&error.to_string())),
        )
    }
}

pub(super) fn refused(name: &str, reason: &str) -> CheckpointError {
    CheckpointError::Tensor {
        name: excerpt(name),
        reason: reason.to_owned(),
    }
}

/// Returns the product of the sizes, or `None` if it overflows.
pub(super) fn element_count(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size))
}

/// Returns true if the strides are those of contiguous row-major elements. Strides of dimensions of one element are
/// ignored.
fn is_contiguous(sizes: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    sizes.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected *= size;
        fits
    })
}

/// Returns the distance from the first element to the end of the last, in elements, or `None` if it overflows. Every size
/// must be at least 1.
pub(super) fn extent(sizes: &[usize], strides: &[usize]) -> Option<usize> {
    let last = sizes.iter().zip(strides).try_fold(0usize, |last, (&size, &stride)| {
        last.checked_add((size - 1).checked_mul(stride)?)
    });
    last?.checked_add(1)
}

/// Returns the bytes of one element, or `None` if it is not a whole number of bytes.
pub(super) fn item_bytes(dtype: Dtype) -> Option<usize> {
    let bits = dtype.bitsize();
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// How elements are stored.
#[derive(Clone, Copy)]
pub(super) struct Elements {
    /// The bytes of one.
    pub bytes: usize,
    pub widen: Widen,
}

/// Appends little-endian elements, converted to f32.
pub(super) type Widen = fn(&[u8], &mut Vec<f32>);

/// Returns how elements of this type are stored, if they are read.
pub(super) fn elements(dtype: Dtype) -> Option<Elements> {
    let widen: Widen = match dtype {
        Dtype::F32 => |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::F16 => {
            |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()))
        }
        Dtype::BF16 => {
            |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()))
        }
        Dtype::F64 => |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        _ => return None,
    };
    let bytes = item_bytes(dtype)?;
    Some(Elements { bytes, widen })
}
