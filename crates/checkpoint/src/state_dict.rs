//! The dictionary of tensors in what a training script saved.

use super::checkpoint::Found;
use super::entry::{Storage, TENSORS_MAX, TensorEntry, item_bytes};
use super::error::CheckpointError;
use super::pickle::{Objects, PickledStorage, PickledTensor, Ref, Value};
use super::text::excerpt;

/// Where scripts put it, the likeliest first.
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
/// Dictionaries in dictionaries at most.
const DEPTH_MAX: usize = 3;

/// Tensors by name, and under which keys they were found.
pub(super) struct StateDict<'a> {
    pub container: String,
    pub tensors: Tensors<'a>,
}

/// Finds the state dict in a pickle's result: behind a usual key, else the result itself if it holds tensors, else the
/// only entry that holds any.
pub(super) fn find<'a>(objects: &'a Objects<'a>, result: Ref) -> Result<StateDict<'a>, CheckpointError> {
    let (keys, tensors) =
        find_in(objects, result, DEPTH_MAX)?.ok_or_else(|| refused("no dictionary of tensors".into()))?;
    Ok(StateDict {
        container: excerpt(&keys.join(".")),
        tensors,
    })
}

type Tensors<'a> = Vec<(&'a str, &'a PickledTensor)>;

/// The keys that lead from `place` to tensors, and the tensors.
fn find_in<'a>(
    objects: &'a Objects<'a>,
    place: Ref,
    depth: usize,
) -> Result<Option<(Vec<&'a str>, Tensors<'a>)>, CheckpointError> {
    let inner = || named(objects, place).filter(|(_, value)| matches!(objects.get(*value), Value::Dict(_)));
    if depth > 0 {
        let rank = |key: &str| CONTAINERS.iter().position(|usual| *usual == key);
        let mut usual = [None; CONTAINERS.len()];
        for (key, value) in inner() {
            if let Some(rank) = rank(key) {
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
    let own = tensors_in(objects, place)?;
    if !own.is_empty() || depth == 0 {
        return Ok((!own.is_empty()).then_some((Vec::new(), own)));
    }
    let mut only: Option<(&str, Tensors<'_>)> = None;
    for (key, value) in inner() {
        let tensors = tensors_in(objects, value)?;
        match &only {
            _ if tensors.is_empty() => {}
            None => only = Some((key, tensors)),
            Some((other, _)) => {
                let (first, second) = (excerpt(other), excerpt(key));
                return Err(refused(format!(
                    "several dictionaries of tensors, as `{first}` and `{second}`"
                )));
            }
        }
    }
    Ok(only.map(|(key, tensors)| (vec![key], tensors)))
}

fn tensors_in<'a>(objects: &'a Objects<'a>, place: Ref) -> Result<Tensors<'a>, CheckpointError> {
    let mut tensors = Vec::new();
    for (key, value) in named(objects, place) {
        if let Value::Tensor(tensor) = objects.get(value) {
            if tensors.len() == TENSORS_MAX {
                return Err(refused(format!("more than {TENSORS_MAX} tensors")));
            }
            tensors.push((key, &**tensor));
        }
    }
    Ok(tensors)
}

fn named<'a>(objects: &'a Objects<'a>, place: Ref) -> impl Iterator<Item = (&'a str, Ref)> {
    let entries = match objects.get(place) {
        Value::Dict(entries) => &entries[..],
        _ => &[],
    };
    entries
        .iter()
        .filter_map(|(key, value)| Some((objects.text(*key)?, *value)))
}

/// Puts every tensor on its place in the file, where `locate` finds each storage by its key.
pub(super) fn place(
    state: StateDict<'_>,
    objects: &Objects<'_>,
    locate: impl Fn(&str) -> Result<Option<Storage>, CheckpointError>,
) -> Result<Found, CheckpointError> {
    let mut entries = Vec::with_capacity(state.tensors.len());
    for (name, tensor) in state.tensors {
        let key = objects.text(tensor.storage.key).unwrap_or_default();
        let storage = locate(key)?.ok_or_else(|| CheckpointError::Tensor {
            name: excerpt(name),
            reason: format!("lies in the storage {}, which the file lacks", excerpt(key)),
        })?;
        entries.push(entry(name, tensor, storage)?);
    }
    Ok(Found {
        container: state.container,
        entries,
        ..Found::default()
    })
}

/// Puts a pickled tensor on the part of the file that `storage` is.
fn entry(name: &str, tensor: &PickledTensor, storage: Storage) -> Result<TensorEntry, CheckpointError> {
    let part = part(&tensor.storage, storage).ok_or_else(|| CheckpointError::Tensor {
        name: excerpt(name),
        reason: "lies in a storage that the file cuts short".into(),
    })?;
    let layout = (&tensor.sizes[..], Some(&tensor.strides[..]));
    TensorEntry::new(name, tensor.dtype, layout, tensor.offset, part)
}

/// What the pickle claims of a storage, if the file has as much.
fn part(pickled: &PickledStorage, storage: Storage) -> Option<Storage> {
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

/// The bytes of one element; an untyped storage counts bytes.
pub(super) fn storage_item_bytes(storage: &PickledStorage) -> Option<u64> {
    storage
        .dtype
        .map_or(Some(1), |dtype| item_bytes(dtype).map(|bytes| bytes as u64))
}

fn refused(reason: String) -> CheckpointError {
    CheckpointError::StateDict { reason }
}
