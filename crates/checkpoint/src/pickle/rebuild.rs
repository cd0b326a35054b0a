//! The values that the supported functions and classes return.

use safetensors::Dtype;

use super::globals::Global;
use super::objects::{Objects, PickledStorage, PickledTensor, Ref, Value};
use crate::entry::RANK_MAX;
use crate::error::CheckpointError;

/// Returns the value of a call. Unexpected arguments are an error if the call should return a tensor; otherwise the value
/// is opaque.
pub(super) fn call(objects: &mut Objects<'_>, global: Global, arguments: &[Ref]) -> Result<Value, CheckpointError> {
    match global {
        Global::Dict => dict(objects, arguments),
        Global::Identity => Ok(arguments
            .first()
            .map_or(Value::Opaque, |first| objects.get(*first).clone())),
        Global::RebuildTensor => tensor(objects, arguments, None),
        Global::RebuildTypedTensor => {
            let dtype = arguments.get(6).map(|dtype| objects.get(*dtype));
            match dtype {
                Some(Value::Global(Global::Dtype(dtype))) => tensor(objects, arguments, Some(*dtype)),
                _ => Err(unsupported("a tensor's element type")),
            }
        }
        Global::Parameter => match arguments.first().map(|tensor| objects.get(*tensor)) {
            None => Ok(Value::EmptyTensor),
            Some(tensor @ (Value::Tensor(_) | Value::EmptyTensor)) => Ok(tensor.clone()),
            Some(_) => Err(unsupported("a parameter's tensor")),
        },
        Global::RebuildFromType => {
            let [function, _, inner, ..] = arguments else {
                return Err(unsupported("a tensor with attributes"));
            };
            match (objects.get(*function), objects.sequence(*inner)) {
                // At most one level of calls: torch.save nests no further.
                (Value::Global(function), Some(inner)) if *function != Global::RebuildFromType => {
                    let (function, inner) = (*function, inner.to_vec());
                    objects.charge(size_of_val(&inner[..]))?;
                    call(objects, function, &inner)
                }
                _ => Err(unsupported("a tensor with attributes")),
            }
        }
        Global::EmptyTensor => Ok(Value::EmptyTensor),
        Global::Storage(_) | Global::UntypedStorage | Global::Dtype(_) | Global::Inert => Ok(Value::Opaque),
    }
}

/// Returns the tensor that an empty tensor's state describes, if it describes one. PyTorch 0.1 wrote tensors so.
pub(super) fn build(objects: &Objects<'_>, state: Ref) -> Result<Option<Value>, CheckpointError> {
    match objects.sequence(state) {
        Some(parts @ [_, _, _, _]) => tensor(objects, parts, None).map(Some),
        Some([data, _, _, _, _]) => match objects.get(*data) {
            data @ Value::Tensor(_) => Ok(Some(data.clone())),
            _ => Err(unsupported("a parameter's tensor")),
        },
        _ => Ok(None),
    }
}

/// Returns the storage with this persistent id: `('storage', class, key, location, length[, view])`.
pub(super) fn storage(objects: &Objects<'_>, id: Ref) -> Result<Value, CheckpointError> {
    let storage = read_storage(objects, id).ok_or_else(|| unsupported("a storage"))?;
    Ok(Value::Storage(Box::new(storage)))
}

fn read_storage(objects: &Objects<'_>, id: Ref) -> Option<PickledStorage> {
    let [kind, class, key, _location, length, view @ ..] = objects.sequence(id)? else {
        return None;
    };
    if objects.text(*kind) != Some("storage") || objects.text(*key).is_none() {
        return None;
    }
    let dtype = match objects.get(*class) {
        Value::Global(Global::Storage(dtype)) => Some(*dtype),
        Value::Global(Global::UntypedStorage) => None,
        _ => return None,
    };
    let view = match view.first().and_then(|view| objects.sequence(*view)) {
        Some([_key, offset, length]) => Some((objects.size(*offset)? as u64, objects.size(*length)? as u64)),
        Some(_) => return None,
        None => None,
    };
    Some(PickledStorage {
        dtype,
        key: *key,
        length: objects.size(*length)? as u64,
        view,
    })
}

/// Returns the tensor of `(storage, offset, sizes, strides, ..)`; `dtype` replaces that of the storage.
fn tensor(objects: &Objects<'_>, arguments: &[Ref], dtype: Option<Dtype>) -> Result<Value, CheckpointError> {
    let [storage, layout @ ..] = arguments else {
        return Err(unsupported("a tensor"));
    };
    let Value::Storage(storage) = objects.get(*storage) else {
        return Err(unsupported("a tensor's storage"));
    };
    let tensor = read_tensor(objects, storage, layout, dtype).ok_or_else(|| unsupported("a tensor"))?;
    Ok(Value::Tensor(Box::new(tensor)))
}

fn read_tensor(
    objects: &Objects<'_>,
    storage: &PickledStorage,
    layout: &[Ref],
    dtype: Option<Dtype>,
) -> Option<PickledTensor> {
    let [offset, sizes, strides, ..] = layout else {
        return None;
    };
    let dtype = dtype.or(storage.dtype)?;
    let (sizes, strides) = (read_sizes(objects, *sizes)?, read_sizes(objects, *strides)?);
    if sizes.len() != strides.len() {
        return None;
    }
    Some(PickledTensor {
        storage: storage.clone(),
        dtype,
        offset: objects.size(*offset)?,
        sizes,
        strides,
    })
}

fn read_sizes(objects: &Objects<'_>, tuple: Ref) -> Option<Vec<usize>> {
    let elements = objects.sequence(tuple)?;
    if elements.len() > RANK_MAX {
        return None;
    }
    elements.iter().map(|element| objects.size(*element)).collect()
}

/// Python 3 creates an OrderedDict empty and then sets its entries; Python 2 passes a list of pairs.
fn dict(objects: &mut Objects<'_>, arguments: &[Ref]) -> Result<Value, CheckpointError> {
    let pairs = arguments
        .first()
        .and_then(|pairs| objects.sequence(*pairs))
        .unwrap_or(&[])
        .to_vec();
    objects.charge(size_of_val(&pairs[..]))?;
    let pairs: Option<Vec<(Ref, Ref)>> = pairs
        .iter()
        .map(|pair| match objects.sequence(*pair) {
            Some([key, value]) => Some((*key, *value)),
            _ => None,
        })
        .collect();
    Ok(pairs.map_or(Value::Opaque, Value::Dict))
}

fn unsupported(what: &str) -> CheckpointError {
    CheckpointError::StateDict {
        reason: format!("{what} that torch.save does not write"),
    }
}
