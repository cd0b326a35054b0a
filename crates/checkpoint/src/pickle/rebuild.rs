//! The values that the supported functions and classes return.

use safetensors::Dtype;

use super::array;
use super::globals::{COMPRESSED, Global};
use super::objects::{Objects, Ref};
use super::value::{Object, PickledSparse, PickledStorage, PickledTensor, Place, TextKind, Value};
use crate::entry::RANK_MAX;
use crate::error::CheckpointError;

/// Why a tensor of unexpected parts cannot be read.
pub(crate) const UNSUPPORTED: &str = "is a tensor that torch.save does not write; save the file again";

/// Why a view of which PyTorch negates or conjugates the elements when they are read cannot be read.
const PENDING: &str = "is a view whose negation or conjugation is pending; save its .resolve_neg().resolve_conj()";

/// Returns the value of a call. A tensor of unexpected arguments is [`Value::Unreadable`], which is an error only if the
/// tensor is used.
pub(super) fn call(objects: &mut Objects, global: Global, arguments: &[Ref]) -> Result<Value, CheckpointError> {
    match global {
        Global::Dict => dict(objects, arguments),
        Global::DefaultDict => Ok(Value::Dict(Vec::new())),
        Global::Identity => Ok(arguments
            .first()
            .map_or(Value::Sequence(Vec::new()), |first| objects.get(*first).clone())),
        Global::NewObject => Ok(match arguments {
            [class, ..] => Value::Object(Box::new(Object {
                class: *class,
                is_called: false,
                state: None,
                entries: Vec::new(),
            })),
            [] => Value::Opaque,
        }),
        Global::Latin1 => Ok(match arguments.first().map(|text| objects.get(*text)) {
            Some(Value::Text(text)) => {
                let mut text = *text;
                text.kind = TextKind::Latin1;
                Value::Text(text)
            }
            _ => Value::Opaque,
        }),
        Global::RebuildTensor => Ok(tensor(objects, arguments, None)),
        Global::RebuildTypedTensor => {
            let dtype = arguments.get(6).map(|dtype| objects.get(*dtype));
            Ok(match dtype {
                Some(Value::Global(Global::Dtype(dtype))) => tensor(objects, arguments, Some(*dtype)),
                _ => Value::Unreadable(UNSUPPORTED),
            })
        }
        Global::RebuildSparse => Ok(sparse(objects, arguments)),
        Global::Parameter => Ok(match arguments.first().map(|tensor| objects.get(*tensor)) {
            None => Value::EmptyTensor,
            // The class itself says nothing about an object that it wraps, which may be an unknown function's.
            Some(tensor) => tensor.clone(),
        }),
        Global::RebuildFromType => from_type(objects, arguments),
        Global::EmptyTensor => Ok(Value::EmptyTensor),
        Global::Unreadable(reason) => Ok(Value::Unreadable(reason)),
        Global::EmptyArray => Ok(Value::EmptyArray),
        Global::ArrayFromBuffer => Ok(array::from_buffer(objects, arguments)),
        Global::ArrayType => Ok(array::element_type(objects, arguments)),
        Global::Scalar => Ok(array::scalar(objects, arguments)),
        Global::Storage(..) | Global::Dtype(_) | Global::Inert => Ok(Value::Opaque),
    }
}

/// Returns the tensor of `(function, class, arguments, state)`.
fn from_type(objects: &mut Objects, arguments: &[Ref]) -> Result<Value, CheckpointError> {
    let [function, _, inner, ..] = arguments else {
        return Ok(Value::Unreadable(UNSUPPORTED));
    };
    match (objects.get(*function), objects.sequence(*inner)) {
        // At most one level of calls: torch.save nests no further.
        (Value::Global(function), Some(inner)) if *function != Global::RebuildFromType => {
            let (function, inner) = (*function, inner.to_vec());
            objects.charge(size_of_val(&inner[..]))?;
            call(objects, function, &inner)
        }
        _ => Ok(Value::Unreadable(UNSUPPORTED)),
    }
}

/// Returns the tensor that an empty tensor's state describes, if it describes one. PyTorch 0.1 wrote tensors so.
pub(super) fn build(objects: &Objects, state: Ref) -> Option<Value> {
    match objects.sequence(state) {
        Some(parts @ [_, _, _, _]) => Some(tensor(objects, parts, None)),
        Some([data, _, _, _, _]) => Some(match objects.get(*data) {
            data @ Value::Tensor(_) => data.clone(),
            _ => Value::Unreadable(UNSUPPORTED),
        }),
        _ => None,
    }
}

/// Returns the value with this persistent id: the storage of `('storage', class, key, location, length[, view])`, or the
/// class of `('module', class, file, source)`, with which the legacy format keeps a module's source code.
pub(super) fn persistent(objects: &Objects, id: Ref) -> Value {
    if let Some([kind, class, ..]) = objects.sequence(id)
        && objects.text(*kind) == Some("module")
    {
        return objects.get(*class).clone();
    }
    read_storage(objects, id).map_or(Value::Opaque, |storage| Value::Storage(Box::new(storage)))
}

fn read_storage(objects: &Objects, id: Ref) -> Option<PickledStorage> {
    let [kind, class, key, _location, length, view @ ..] = objects.sequence(id)? else {
        return None;
    };
    if objects.text(*kind) != Some("storage") || objects.text(*key).is_none() {
        return None;
    }
    let Value::Global(Global::Storage(dtype, item)) = objects.get(*class) else {
        return None;
    };
    let view = match view.first().and_then(|view| objects.sequence(*view)) {
        Some([_key, offset, length]) => Some((objects.size(*offset)? as u64, objects.size(*length)? as u64)),
        Some(_) => return None,
        None => None,
    };
    Some(PickledStorage {
        dtype: *dtype,
        item: (*item).into(),
        place: Place::Key(*key),
        length: objects.size(*length)? as u64,
        view,
    })
}

/// Returns the tensor of `(storage, offset, sizes, strides, ..)`; `dtype` replaces that of the storage.
fn tensor(objects: &Objects, arguments: &[Ref], dtype: Option<Dtype>) -> Value {
    // After requires_grad and the hooks, of which an OrderedDict is written: what is still to be done to the elements.
    let pending = arguments
        .iter()
        .skip(6)
        .any(|argument| !objects.entries(*argument).is_empty());
    if pending {
        return Value::Unreadable(PENDING);
    }
    let tensor = read_tensor(objects, arguments, dtype);
    tensor.map_or(Value::Unreadable(UNSUPPORTED), |tensor| Value::Tensor(Box::new(tensor)))
}

fn read_tensor(objects: &Objects, arguments: &[Ref], dtype: Option<Dtype>) -> Option<PickledTensor> {
    let [storage, offset, sizes, strides, ..] = arguments else {
        return None;
    };
    let Value::Storage(storage) = objects.get(*storage) else {
        return None;
    };
    let dtype = dtype.or(storage.dtype)?;
    let (sizes, strides) = (read_sizes(objects, *sizes)?, read_sizes(objects, *strides)?);
    if sizes.len() != strides.len() {
        return None;
    }
    Some(PickledTensor {
        storage: (**storage).clone(),
        dtype,
        offset: objects.size(*offset)?,
        sizes,
        strides,
    })
}

/// Returns the tensor of `(layout, (indices, values, sizes, ..))`.
fn sparse(objects: &Objects, arguments: &[Ref]) -> Value {
    let parts = arguments.get(1).and_then(|parts| objects.sequence(*parts));
    let Some([indices, values, sizes, ..]) = parts else {
        return Value::Unreadable(UNSUPPORTED);
    };
    match (objects.get(*indices), objects.get(*values), read_sizes(objects, *sizes)) {
        (Value::Tensor(indices), Value::Tensor(values), Some(sizes)) => Value::Sparse(Box::new(PickledSparse {
            indices: (**indices).clone(),
            values: (**values).clone(),
            sizes,
        })),
        // The rows, the columns and the values of a compressed layout.
        (Value::Tensor(_), Value::Tensor(_), None) => Value::Unreadable(COMPRESSED),
        _ => Value::Unreadable(UNSUPPORTED),
    }
}

pub(super) fn read_sizes(objects: &Objects, tuple: Ref) -> Option<Vec<usize>> {
    let elements = objects.sequence(tuple)?;
    if elements.len() > RANK_MAX {
        return None;
    }
    elements.iter().map(|element| objects.size(*element)).collect()
}

/// Python 3 creates an OrderedDict empty and then sets its entries; Python 2 passes a list of pairs.
fn dict(objects: &mut Objects, arguments: &[Ref]) -> Result<Value, CheckpointError> {
    let first = arguments.first().copied();
    if let Some(Value::Dict(entries)) = first.map(|first| objects.get(first)) {
        return Ok(Value::Dict(entries.clone()));
    }
    let pairs = first.and_then(|pairs| objects.sequence(pairs)).unwrap_or(&[]).to_vec();
    objects.charge(size_of_val(&pairs[..]))?;
    let mut entries = Vec::with_capacity(pairs.len());
    for pair in pairs {
        match objects.sequence(pair) {
            Some([key, value]) => entries.push((*key, *value)),
            _ => return Ok(Value::Opaque),
        }
    }
    Ok(Value::Dict(entries))
}
