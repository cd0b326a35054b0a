//! Finds the dictionary of tensors in what a training script saved.

use super::checkpoint::Headers;
use super::entry::{Storage, StorageView, TENSORS_MAX, TensorEntry, item_bytes};
use super::error::CheckpointError;
use super::pickle::{Objects, PickledStorage, PickledTensor, Ref, Value};
use super::text::excerpt;

/// The keys under which training scripts save it, the most usual first.
const CONTAINERS: [&str; 8] = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
];
/// Limit of the nesting of dictionaries.
const DEPTH_MAX: usize = 3;

/// Tensors by name, and the path of keys to them.
pub(super) struct StateDict<'a> {
    pub container: String,
    pub tensors: Tensors<'a>,
}

/// Finds the state dict in a pickle's result: the value of a usual key, else the result itself if it holds tensors, else
/// the only entry that holds any.
pub(super) fn find<'a>(objects: &'a Objects<'a>, result: Ref) -> Result<StateDict<'a>, CheckpointError> {
    let (keys, tensors) =
        find_in(objects, result, DEPTH_MAX)?.ok_or_else(|| refused("no dictionary of tensors".into()))?;
    Ok(StateDict {
        container: excerpt(&keys.join(".")),
        tensors,
    })
}

type Tensors<'a> = Vec<(&'a str, &'a PickledTensor)>;

/// Returns the path of keys from `dict` to the tensors, and the tensors.
fn find_in<'a>(
    objects: &'a Objects<'a>,
    dict: Ref,
    depth: usize,
) -> Result<Option<(Vec<&'a str>, Tensors<'a>)>, CheckpointError> {
    if depth > 0 {
        let mut usual = [None; CONTAINERS.len()];
        for (key, value) in dicts_in(objects, dict) {
            if let Some(rank) = CONTAINERS.iter().position(|usual| *usual == key) {
                usual[rank] = Some((key, value));
            }
        }
        for (key, value) in usual.into_iter().flatten() {
            if let Some((mut keys, tensors)) = find_in(objects, value, depth - 1)? {
                keys.insert(0, key);
                return Ok(Some((keys, tensors)));
            }
        }
    }
    let own = tensors_in(objects, dict)?;
    if !own.is_empty() || depth == 0 {
        return Ok((!own.is_empty()).then_some((Vec::new(), own)));
    }
    let mut only: Option<(&str, Tensors<'_>)> = None;
    for (key, value) in dicts_in(objects, dict) {
        let tensors = tensors_in(objects, value)?;
        match &only {
            _ if tensors.is_empty() => {}
            None => only = Some((key, tensors)),
            Some((other, _)) => {
                let (first, second) = (excerpt(other), excerpt(key));
                return Err(refused(format!(
                    "several dictionaries of tensors, for example `{first}` and `{second}`"
                )));
            }
        }
    }
    Ok(only.map(|(key, tensors)| (vec![key], tensors)))
}

fn tensors_in<'a>(objects: &'a Objects<'a>, dict: Ref) -> Result<Tensors<'a>, CheckpointError> {
    let mut tensors = Vec::new();
    for (key, value) in entries_in(objects, dict) {
        if let Value::Tensor(tensor) = objects.get(value) {
            if tensors.len() == TENSORS_MAX {
                return Err(refused(format!("more than {TENSORS_MAX} tensors")));
            }
            tensors.push((key, &**tensor));
        }
    }
    Ok(tensors)
}

fn dicts_in<'a>(objects: &'a Objects<'a>, dict: Ref) -> impl Iterator<Item = (&'a str, Ref)> {
    entries_in(objects, dict).filter(|(_, value)| matches!(objects.get(*value), Value::Dict(_)))
}

/// Returns the entries of a dictionary whose keys are text; none if the value is not a dictionary.
fn entries_in<'a>(objects: &'a Objects<'a>, dict: Ref) -> impl Iterator<Item = (&'a str, Ref)> {
    let entries = match objects.get(dict) {
        Value::Dict(entries) => &entries[..],
        _ => &[],
    };
    entries
        .iter()
        .filter_map(|(key, value)| Some((objects.text(*key)?, *value)))
}

/// Returns the headers of a state dict, with each tensor's range in the file. `locate` returns a storage by its key.
pub(super) fn into_headers(
    state: StateDict<'_>,
    objects: &Objects<'_>,
    locate: impl Fn(&str) -> Result<Option<Storage>, CheckpointError>,
) -> Result<Headers, CheckpointError> {
    let mut entries = Vec::with_capacity(state.tensors.len());
    for (name, tensor) in state.tensors {
        let key = objects.text(tensor.storage.key).unwrap_or_default();
        let storage = locate(key)?.ok_or_else(|| CheckpointError::Tensor {
            name: excerpt(name),
            reason: format!("is in the storage {}, which the file lacks", excerpt(key)),
        })?;
        entries.push(entry(name, tensor, storage)?);
    }
    Ok(Headers {
        container: state.container,
        entries,
        ..Headers::default()
    })
}

/// Returns the entry of a pickled tensor whose storage is at `storage` in the file.
fn entry(name: &str, tensor: &PickledTensor, storage: Storage) -> Result<TensorEntry, CheckpointError> {
    let viewed = viewed(&tensor.storage, storage).ok_or_else(|| CheckpointError::Tensor {
        name: excerpt(name),
        reason: "is in a storage that the file cuts short".into(),
    })?;
    let view = StorageView {
        offset: tensor.offset,
        sizes: &tensor.sizes,
        strides: Some(&tensor.strides),
    };
    TensorEntry::new(name, tensor.dtype, view, viewed)
}

/// Returns the range that the pickled storage views, or `None` if the file has fewer bytes than the pickle claims.
fn viewed(pickled: &PickledStorage, storage: Storage) -> Option<Storage> {
    let item = storage_item_bytes(pickled)?;
    let claimed = pickled.length.checked_mul(item)?;
    let (start, bytes) = match pickled.view {
        Some((offset, length)) => (offset.checked_mul(item)?, length.checked_mul(item)?),
        None => (0, claimed),
    };
    let end = start.checked_add(bytes)?;
    (end <= storage.bytes && claimed <= storage.bytes).then_some(Storage {
        start: storage.start + start,
        bytes,
    })
}

/// Returns the bytes of one element, or `None` if it is not a whole number of bytes. An untyped storage counts bytes.
pub(super) fn storage_item_bytes(storage: &PickledStorage) -> Option<u64> {
    storage
        .dtype
        .map_or(Some(1), |dtype| item_bytes(dtype).map(|bytes| bytes as u64))
}

fn refused(reason: String) -> CheckpointError {
    CheckpointError::StateDict { reason }
}
