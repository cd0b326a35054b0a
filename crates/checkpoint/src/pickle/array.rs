//! NumPy arrays whose bytes are in the pickle.

use safetensors::Dtype;

use super::objects::{Objects, Ref};
use super::rebuild::{UNSUPPORTED, read_sizes};
use super::value::{PickledStorage, PickledTensor, Place, Text, TextKind, Value};
use crate::entry::{element_count, item_bytes};

/// Why a big-endian array cannot be read.
const BIG_ENDIAN: &str = "is a big-endian NumPy array; save it with .astype('<f4')";

/// Returns the element type of `numpy.dtype(text, ..)`.
pub(super) fn element_type(objects: &Objects, arguments: &[Ref]) -> Value {
    let text = arguments.first().and_then(|text| objects.text(*text));
    let dtype = match text.map(|text| text.trim_start_matches(['<', '=', '|', '>'])) {
        Some("f2") => Some(Dtype::F16),
        Some("f4") => Some(Dtype::F32),
        Some("f8") => Some(Dtype::F64),
        Some("i8") => Some(Dtype::I64),
        Some("i4") => Some(Dtype::I32),
        Some("i2") => Some(Dtype::I16),
        Some("i1") => Some(Dtype::I8),
        Some("u1") => Some(Dtype::U8),
        Some("b1") => Some(Dtype::BOOL),
        _ => None,
    };
    Value::ArrayType(dtype, text.is_some_and(|text| text.starts_with('>')))
}

/// Returns an element type with the byte order that its state gives: `(version, order, ..)`.
pub(super) fn build_type(objects: &Objects, dtype: Option<Dtype>, state: Ref) -> Value {
    let order = objects.sequence(state).and_then(|parts| objects.text(*parts.get(1)?));
    Value::ArrayType(dtype, order == Some(">"))
}

/// Returns the array of the state `(version, shape, element type, is Fortran's order, bytes)`.
pub(super) fn build(objects: &Objects, state: Ref) -> Value {
    match objects.sequence(state) {
        Some([_version, sizes, dtype, is_fortran, bytes]) => {
            let is_fortran = matches!(objects.get(*is_fortran), Value::Bool(true) | Value::Int(1));
            array(objects, [*bytes, *dtype, *sizes], is_fortran)
        }
        _ => Value::Unreadable(UNSUPPORTED),
    }
}

/// Returns the array of `(bytes, element type, shape, order)`.
pub(super) fn from_buffer(objects: &Objects, arguments: &[Ref]) -> Value {
    match arguments {
        [bytes, dtype, sizes, order, ..] => array(objects, [*bytes, *dtype, *sizes], objects.text(*order) == Some("F")),
        _ => Value::Unreadable(UNSUPPORTED),
    }
}

/// Returns the number of `(element type, bytes)`, if it is an integer: class_to_idx may hold such ones.
pub(super) fn scalar(objects: &Objects, arguments: &[Ref]) -> Value {
    let [dtype, bytes] = arguments else {
        return Value::Opaque;
    };
    let bytes = objects.bytes(*bytes).unwrap_or_default();
    let number = match objects.get(*dtype) {
        Value::ArrayType(Some(Dtype::I64), false) => bytes[..].try_into().map(i64::from_le_bytes).ok(),
        Value::ArrayType(Some(Dtype::I32), false) => bytes[..].try_into().map(i32::from_le_bytes).map(i64::from).ok(),
        _ => None,
    };
    number.map_or(Value::Opaque, Value::Int)
}

fn array(objects: &Objects, [bytes, dtype, sizes]: [Ref; 3], is_fortran: bool) -> Value {
    let (dtype, bytes) = match (objects.get(dtype), objects.get(bytes)) {
        (Value::ArrayType(_, true), _) => return Value::Unreadable(BIG_ENDIAN),
        (Value::ArrayType(Some(dtype), false), Value::Text(bytes)) => (*dtype, bytes),
        // Text, objects or records, which are no part of a network.
        _ => return Value::Opaque,
    };
    let tensor = read_sizes(objects, sizes).and_then(|sizes| on_bytes(bytes, dtype, sizes, is_fortran));
    tensor.map_or(Value::Unreadable(UNSUPPORTED), |tensor| Value::Tensor(Box::new(tensor)))
}

fn on_bytes(bytes: &Text, dtype: Dtype, sizes: Vec<usize>, is_fortran: bool) -> Option<PickledTensor> {
    let (count, item) = (element_count(&sizes)?, item_bytes(dtype)?);
    let is_latin1 = bytes.kind == TextKind::Latin1;
    let wanted = (count as u64).checked_mul(item as u64)?;
    // Latin-1 takes one or two bytes of UTF-8.
    let fits = match is_latin1 {
        true => wanted <= bytes.blob.length && bytes.blob.length <= wanted.checked_mul(2)?,
        false => wanted == bytes.blob.length,
    };
    let strides = strides(&sizes, is_fortran)?;
    fits.then_some(PickledTensor {
        storage: PickledStorage {
            dtype: Some(dtype),
            item: item as u64,
            place: Place::Pickle(bytes.blob, is_latin1),
            length: count as u64,
            view: None,
        },
        dtype,
        offset: 0,
        sizes,
        strides,
    })
}

/// Returns the strides of contiguous elements, the first dimension's changing fastest if `is_fortran`.
fn strides(sizes: &[usize], is_fortran: bool) -> Option<Vec<usize>> {
    let mut strides = vec![0; sizes.len()];
    let mut stride: usize = 1;
    for step in 0..sizes.len() {
        let dimension = if is_fortran { step } else { sizes.len() - 1 - step };
        strides[dimension] = stride;
        stride = stride.checked_mul(sizes[dimension].max(1))?;
    }
    Some(strides)
}
