//! What a known function or class makes of its arguments.

use safetensors::Dtype;

use super::globals::Global;
use super::objects::{Objects, PickledStorage, PickledTensor, Ref, Value};
use crate::entry::RANK_MAX;
use crate::error::CheckpointError;

/// The value of a call. Arguments that do not fit make something opaque, except where a tensor is due.
pub(super) fn call(objects: &mut Objects<'_>, global: Global, arguments: &[Ref]) -> Result<Value, CheckpointError> {
    match global {
        Global::Dict => dict(objects, arguments),
        Global::Same => Ok(arguments
            .first()
            .map_or(Value::Opaque, |first| objects.get(*first).clone())),
        Global::RebuildTensor => tensor(objects, arguments, None),
        Global::RebuildTypedTensor => {
            let dtype = arguments.get(6).map(|dtype| objects.get(*dtype));
            match dtype {
                Some(Value::Global(Global::Dtype(dtype))) => tensor(objects, arguments, Some(*dtype)),
                _ => Err(malformed("a tensor's element type")),
            }
        }
        Global::Parameter => match arguments.first().map(|tensor| objects.get(*tensor)) {
            None => Ok(Value::EmptyTensor),
            Some(tensor @ (Value::Tensor(_) | Value::EmptyTensor)) => Ok(tensor.clone()),
            Some(_) => Err(malformed("a parameter's tensor")),
        },
        Global::RebuildFromType => {
            let [function, _, inner, ..] = arguments else {
                return Err(malformed("a tensor with attributes"));
            };
            match (objects.get(*function), objects.sequence(*inner)) {
                // A function that calls another, and so on, would be no tensor's.
                (Value::Global(function), Some(inner)) if *function != Global::RebuildFromType => {
                    let (function, inner) = (*function, inner.to_vec());
                    objects.charge(size_of_val(&inner[..]))?;
                    call(objects, function, &inner)
                }
                _ => Err(malformed("a tensor with attributes")),
            }
        }
        Global::EmptyTensor => Ok(Value::EmptyTensor),
        Global::Storage(_) | Global::UntypedStorage | Global::Dtype(_) | Global::Inert => Ok(Value::Opaque),
    }
}

/// What an object becomes by its state, if anything: tensors of PyTorch 0.1 are filled by theirs.
pub(super) fn build(objects: &Objects<'_>, state: Ref) -> Result<Option<Value>, CheckpointError> {
    match objects.sequence(state) {
        Some(parts @ [_, _, _, _]) => tensor(objects, parts, None).map(Some),
        Some([data, _, _, _, _]) => match objects.get(*data) {
            data @ Value::Tensor(_) => Ok(Some(data.clone())),
            _ => Err(malformed("a parameter's tensor")),
        },
        _ => Ok(None),
    }
}

/// Numbers outside the pickle: `('storage', class, key, location, length[, view])`.
pub(super) fn storage(objects: &Objects<'_>, id: Ref) -> Result<Value, CheckpointError> {
    let fault = || malformed("a storage");
    let [kind, class, key, _location, length, view @ ..] = objects.sequence(id).ok_or_else(fault)? else {
        return Err(fault());
    };
    if objects.text(*kind) != Some("storage") || objects.text(*key).is_none() {
        return Err(fault());
    }
    let dtype = match objects.get(*class) {
        Value::Global(Global::Storage(dtype)) => Some(*dtype),
        Value::Global(Global::UntypedStorage) => None,
        _ => return Err(fault()),
    };
    let view = match view.first().and_then(|view| objects.sequence(*view)) {
        Some([_key, offset, length]) => Some((
            size(objects, *offset, fault)? as u64,
            size(objects, *length, fault)? as u64,
        )),
        Some(_) => return Err(fault()),
        None => None,
    };
    Ok(Value::Storage(Box::new(PickledStorage {
        dtype,
        key: *key,
        length: size(objects, *length, fault)? as u64,
        view,
    })))
}

fn tensor(objects: &Objects<'_>, arguments: &[Ref], dtype: Option<Dtype>) -> Result<Value, CheckpointError> {
    let fault = || malformed("a tensor");
    let [storage, offset, sizes, strides, ..] = arguments else {
        return Err(fault());
    };
    let Value::Storage(storage) = objects.get(*storage) else {
        return Err(malformed("a tensor's storage"));
    };
    let dtype = dtype.or(storage.dtype).ok_or_else(fault)?;
    let (sizes, strides) = (numbers(objects, *sizes, fault)?, numbers(objects, *strides, fault)?);
    if sizes.len() != strides.len() {
        return Err(fault());
    }
    Ok(Value::Tensor(Box::new(PickledTensor {
        storage: (**storage).clone(),
        dtype,
        offset: size(objects, *offset, fault)?,
        sizes,
        strides,
    })))
}

fn numbers(
    objects: &Objects<'_>,
    place: Ref,
    fault: impl Fn() -> CheckpointError,
) -> Result<Vec<usize>, CheckpointError> {
    let elements = objects.sequence(place).filter(|elements| elements.len() <= RANK_MAX);
    let elements = elements.ok_or_else(&fault)?;
    elements.iter().map(|element| size(objects, *element, &fault)).collect()
}

fn size(objects: &Objects<'_>, place: Ref, fault: impl Fn() -> CheckpointError) -> Result<usize, CheckpointError> {
    objects.size(place).ok_or_else(fault)
}

/// Python 3 writes an OrderedDict empty and sets its entries; Python 2 hands over a list of pairs.
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

fn malformed(what: &str) -> CheckpointError {
    CheckpointError::StateDict {
        reason: format!("{what} that torch.save does not write"),
    }
}
