//! Reads torch.save's format before PyTorch 1.6, in which torchvision publishes its weights: the pickles of a magic
//! number, a version, system information, the content and the list of the storages' keys; then each storage, its length
//! (u64) before its bytes.

use std::collections::HashMap;

use super::checkpoint::Headers;
use super::entry::Storage;
use super::error::CheckpointError;
use super::format::CheckpointFormat;
use super::pickle::{self, Objects, PICKLE_BYTES_MAX, Ref, Value};
use super::source::Source;
use super::state_dict::{self, storage_item_bytes};
use super::text::excerpt;

/// The magic number as LONG1 writes it: 0x1950a86a20f9469cfc6c in ten bytes.
pub(super) const MAGIC: [u8; 12] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The only version that PyTorch has written.
const VERSION: usize = 1001;

pub(super) fn open(source: &Source) -> Result<Headers, CheckpointError> {
    let window = source.read(0, source.length().min(PICKLE_BYTES_MAX as u64))?;
    let (_, _, end) = pickle::read(&window, 0)?;
    let (objects, version, end) = pickle::read(&window, end)?;
    if objects.size(version) != Some(VERSION) {
        return Err(damaged("its version is not 1001".into()));
    }
    let (_, _, end) = pickle::read(&window, end)?;
    let (objects, result, end) = pickle::read(&window, end)?;
    let (keys, list, end) = pickle::read(&window, end)?;
    let state = state_dict::find(&objects, result)?;
    let items = item_sizes(&objects)?;
    let storages = locate_storages(source, &items, (&keys, list), end as u64)?;
    state_dict::into_headers(state, &objects, |key| Ok(storages.get(key).copied()))
}

/// Returns the range of each storage, by adding up the lengths of those before it.
fn locate_storages<'a>(
    source: &Source,
    items: &HashMap<&str, u64>,
    (keys, list): (&'a Objects<'a>, Ref),
    start: u64,
) -> Result<HashMap<&'a str, Storage>, CheckpointError> {
    let list = keys
        .sequence(list)
        .ok_or_else(|| damaged("its list of storages is missing".into()))?;
    let mut storages = HashMap::new();
    let mut at = start;
    for key in list {
        let key = keys.text(*key).ok_or_else(|| damaged("a storage has no name".into()))?;
        let item = items.get(key).copied();
        let item = item.ok_or_else(|| damaged(format!("no tensor uses the storage {}", excerpt(key))))?;
        let length = source.read_within(at, 8, || truncated(key))?;
        let length = u64::from_le_bytes(length[..].try_into().map_err(|_| truncated(key))?);
        let storage = Storage {
            start: at + 8,
            bytes: length.checked_mul(item).ok_or_else(|| truncated(key))?,
        };
        at = storage
            .start
            .checked_add(storage.bytes)
            .filter(|&end| end <= source.length())
            .ok_or_else(|| truncated(key))?;
        storages.insert(key, storage);
    }
    Ok(storages)
}

fn truncated(key: &str) -> CheckpointError {
    damaged(format!("the storage {} is cut off", excerpt(key)))
}

/// Returns the bytes of an element, by storage, of each storage that the content refers to.
fn item_sizes<'a>(objects: &'a Objects<'a>) -> Result<HashMap<&'a str, u64>, CheckpointError> {
    let mut sizes = HashMap::new();
    for value in objects.all() {
        let Value::Storage(storage) = value else { continue };
        let (Some(key), Some(item)) = (objects.text(storage.key), storage_item_bytes(storage)) else {
            continue;
        };
        if sizes.insert(key, item).is_some_and(|before| before != item) {
            return Err(damaged(format!(
                "the storage {} has elements of two sizes",
                excerpt(key)
            )));
        }
    }
    Ok(sizes)
}

fn damaged(reason: String) -> CheckpointError {
    CheckpointError::Damaged {
        format: CheckpointFormat::TorchLegacy,
        reason,
    }
}
