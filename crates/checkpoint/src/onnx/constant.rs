//! Constants of the graph: views of the tensors in the file, and small numbers that were read or computed.

use std::rc::Rc;

use safetensors::Dtype;

use crate::entry::{Encoding, RANK_MAX, Storage, StorageView, element_count, item_bytes};
use crate::source::Source;
use crate::text::excerpt;
use crate::{CheckpointError, TensorEntry};

use super::refusal::{damaged, refused, short};
use super::tensor::Tensor;
use super::wire::{Range, Wire};

/// Limit of the elements of a constant that is read to compute with it: 64 kB of f64.
const SMALL_MAX: usize = 8192;
const ONE_FILE: &str = "save it in one file with onnx.save(onnx.load(path), path), both files beside each other";
const SAVE_AGAIN: &str = "save it again with onnx.save(onnx.load(path), path)";

/// A constant.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    /// The name of its tensor.
    pub name: Rc<str>,
    pub shape: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
    pub is_integer: bool,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    /// Elements in the file.
    Stored { dtype: Dtype, range: Range },
    /// Elements in memory.
    Small(Rc<[f64]>),
}

impl Constant {
    /// Returns the constant that a tensor of the file is.
    pub fn new(wire: &mut Wire<'_>, tensor: &Tensor, name: &str) -> Result<Self, CheckpointError> {
        if tensor.is_external {
            let file = tensor
                .external
                .as_deref()
                .map_or_else(String::new, |file| format!(", `{}`", short(file)));
            let what = format!("keeps {} in another file{file}", quoted(name));
            return Err(refused(what, ONE_FILE));
        }
        let sizes = tensor.dims.iter().map(|size| usize::try_from(*size).ok());
        let shape: Option<Vec<usize>> = sizes.collect();
        let shape = shape.filter(|shape| shape.len() <= RANK_MAX);
        let count = shape.as_deref().and_then(checked_count);
        let (Some(shape), Some(count)) = (shape, count) else {
            return Err(damaged("a tensor has an impossible shape"));
        };
        let (dtype, field) = element_type(tensor.data_type).ok_or_else(|| {
            refused(
                format!("has {} of an element type that is not read", quoted(name)),
                "export the model in f32",
            )
        })?;
        let is_integer = is_integer(dtype);
        let data = match (tensor.raw, tensor.typed) {
            (Some(range), _) => Data::Stored { dtype, range },
            (None, Some(typed)) if typed.field == field => match typed.packed {
                Some(range) if matches!(field, 4 | 10) => Data::Stored { dtype, range },
                Some(range) if is_integer && count <= SMALL_MAX => Data::Small(varints(wire, range, count)?.into()),
                _ => {
                    let what = format!("has the elements of {} one by one", quoted(name));
                    return Err(refused(what, SAVE_AGAIN));
                }
            },
            (None, Some(_)) => return Err(damaged("a tensor's elements are not of its type")),
            (None, None) if count == 0 => Data::Small(Rc::from([])),
            (None, None) => return Err(damaged("a tensor has no elements")),
        };
        if let Data::Stored { dtype, range } = data
            && count
                .checked_mul(item_bytes(dtype).unwrap_or(1))
                .map(|bytes| bytes as u64)
                != Some(range.bytes)
        {
            return Err(damaged("a tensor's elements are not as many as its shape says"));
        }
        Ok(Self {
            name: name.into(),
            strides: row_major(&shape),
            shape,
            is_integer,
            data,
        })
    }

    /// Returns a constant of numbers in memory.
    pub fn small(name: &str, shape: Vec<usize>, values: Vec<f64>, is_integer: bool) -> Self {
        Self {
            name: name.into(),
            strides: row_major(&shape),
            shape,
            is_integer,
            data: Data::Small(values.into()),
        }
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the elements in row-major order, or `None` if there are too many.
    pub fn values(&self, source: &Source) -> Result<Option<Vec<f64>>, CheckpointError> {
        let count = self.elements();
        if count > SMALL_MAX {
            return Ok(None);
        }
        let stored = match &self.data {
            Data::Small(values) => values.to_vec(),
            Data::Stored { dtype, range } => {
                let item = item_bytes(*dtype).unwrap_or(1);
                if range.bytes > (SMALL_MAX * item) as u64 {
                    return Ok(None);
                }
                let bytes = source.read(range.start, range.bytes)?;
                bytes.chunks_exact(item).map(|bytes| number(*dtype, bytes)).collect()
            }
        };
        let mut values = Vec::with_capacity(count);
        for place in 0..count {
            let (mut rest, mut at) = (place, 0);
            for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
                at += rest % size * stride;
                rest /= size;
            }
            values.push(stored.get(at).copied().unwrap_or(f64::NAN));
        }
        Ok(Some(values))
    }

    /// Returns the only element of a constant of one.
    pub fn scalar(&self, source: &Source) -> Result<Option<f64>, CheckpointError> {
        match self.elements() {
            1 => Ok(self.values(source)?.and_then(|values| values.first().copied())),
            _ => Ok(None),
        }
    }

    /// Returns the view with its dimensions in another order, or `None` if `order` is none.
    pub fn transposed(&self, order: &[usize]) -> Option<Self> {
        let mut seen = order.to_vec();
        seen.sort_unstable();
        if !seen.iter().copied().eq(0..self.shape.len()) {
            return None;
        }
        Some(Self {
            shape: order.iter().map(|axis| self.shape[*axis]).collect(),
            strides: order.iter().map(|axis| self.strides[*axis]).collect(),
            ..self.clone()
        })
    }

    /// Returns the same elements in another shape, or `None` if their order in the file does not allow a view.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        if shape.len() > RANK_MAX || checked_count(shape) != Some(self.elements()) {
            return None;
        }
        let mut strides = Vec::with_capacity(shape.len());
        if self.strides == row_major(&self.shape) {
            strides = row_major(shape);
        } else {
            // The dimensions of more than one element must stay.
            let mut kept = self.shape.iter().zip(&self.strides).filter(|(size, _)| **size != 1);
            for size in shape {
                strides.push(match size {
                    1 => 0,
                    size => *kept.next().filter(|(kept, _)| *kept == size)?.1,
                });
            }
        }
        Some(Self {
            shape: shape.to_vec(),
            strides,
            ..self.clone()
        })
    }

    /// Returns the vector of the elements, if all dimensions but one have one element.
    pub fn vector(&self) -> Option<Self> {
        match self.shape.iter().filter(|size| **size != 1).count() {
            0 | 1 => self.reshaped(&[self.elements()]),
            _ => None,
        }
    }

    /// Returns a vector whose elements are each repeated `count` times in a row, or as a whole `count` times.
    pub fn repeated(&self, count: usize, as_a_whole: bool) -> Option<Self> {
        let ([size], [stride]) = (&self.shape[..], &self.strides[..]) else {
            return None;
        };
        let (shape, strides) = match as_a_whole {
            true => (vec![count, *size], vec![0, *stride]),
            false => (vec![*size, count], vec![*stride, 0]),
        };
        checked_count(&shape)?;
        Some(Self {
            shape,
            strides,
            ..self.clone()
        })
    }

    /// Returns the constant as a parameter of this name and shape, which has as many elements.
    pub fn entry(&self, name: &str, shape: &[usize]) -> Result<TensorEntry, CheckpointError> {
        let Data::Stored { dtype, range } = self.data else {
            let what = format!("computes {} instead of storing it", quoted(&self.name));
            return Err(refused(what, "export the model with constants folded"));
        };
        if self.is_integer {
            let what = format!("has integers as weights, {}", quoted(&self.name));
            return Err(refused(what, "export the model before it is quantised"));
        }
        let storage = Storage {
            start: range.start,
            bytes: range.bytes,
            encoding: Encoding::default(),
        };
        let view = StorageView {
            offset: 0,
            sizes: &self.shape,
            strides: Some(&self.strides),
        };
        let mut entry = TensorEntry::new(name, dtype, view, storage)?;
        if element_count(shape) != Some(entry.elements()) {
            return Err(damaged("a tensor has another shape than its node expects"));
        }
        entry.shape = shape.to_vec();
        Ok(entry)
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", excerpt(&short(name)))
}

/// Returns the product of the sizes, or `None` if any part of it overflows, so that it does not in another order.
fn checked_count(shape: &[usize]) -> Option<usize> {
    let at_least_one: Vec<usize> = shape.iter().map(|size| (*size).max(1)).collect();
    element_count(&at_least_one)?;
    element_count(shape)
}

pub(super) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// The type of `TensorProto.DataType`, and the field that has its elements unless they are raw.
fn element_type(number: i64) -> Option<(Dtype, u64)> {
    Some(match number {
        1 => (Dtype::F32, 4),
        2 => (Dtype::U8, 5),
        3 => (Dtype::I8, 5),
        4 => (Dtype::U16, 5),
        5 => (Dtype::I16, 5),
        6 => (Dtype::I32, 5),
        7 => (Dtype::I64, 7),
        9 => (Dtype::BOOL, 5),
        10 => (Dtype::F16, 5),
        11 => (Dtype::F64, 10),
        12 => (Dtype::U32, 11),
        13 => (Dtype::U64, 11),
        16 => (Dtype::BF16, 5),
        _ => return None,
    })
}

fn is_integer(dtype: Dtype) -> bool {
    !matches!(dtype, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16)
}

fn varints(wire: &mut Wire<'_>, range: Range, count: usize) -> Result<Vec<f64>, CheckpointError> {
    let mut fields = range.fields();
    let mut values = Vec::with_capacity(count);
    while let Some(value) = wire.packed_int(&mut fields)? {
        if values.len() == count {
            return Err(damaged("a tensor's elements are not as many as its shape says"));
        }
        wire.keep(0)?;
        values.push(value as f64);
    }
    match values.len() == count {
        true => Ok(values),
        false => Err(damaged("a tensor's elements are not as many as its shape says")),
    }
}

/// Returns a little-endian element.
fn number(dtype: Dtype, bytes: &[u8]) -> f64 {
    let mut padded = [0; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(padded);
    match dtype {
        Dtype::F32 => f64::from(f32::from_bits(bits as u32)),
        Dtype::F16 => half::f16::from_bits(bits as u16).to_f64(),
        Dtype::BF16 => half::bf16::from_bits(bits as u16).to_f64(),
        Dtype::F64 => f64::from_bits(bits),
        Dtype::I8 => f64::from(bits as i8),
        Dtype::I16 => f64::from(bits as i16),
        Dtype::I32 => f64::from(bits as i32),
        Dtype::I64 => bits as i64 as f64,
        _ => bits as f64,
    }
}
