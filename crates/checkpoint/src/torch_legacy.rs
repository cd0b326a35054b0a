//! Reads torch.save's format before PyTorch 1.6, in which torchvision publishes its weights: the pickles of a magic
//! number, a version, system information, the content and the list of the storages' keys; then each storage, its length
//! (u64) before its bytes.

use std::cell::OnceCell;
use std::collections::HashMap;

use super::checkpoint::Headers;
use super::entry::{Encoding, Storage};
use super::error::CheckpointError;
use super::format::CheckpointFormat;
use super::pickle::{self, Input, Objects, Place, Ref, Value};
use super::source::Source;
use super::state_dict::{self, Surroundings};
use super::stream::Stream;
use super::text::excerpt;

/// The magic number as LONG1 writes it: 0x1950a86a20f9469cfc6c in ten bytes.
pub(super) const MAGIC: [u8; 12] = [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The only version that PyTorch has written.
const VERSION: usize = 1001;

pub(super) fn open(source: &Source, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let mut input = Input::new(Stream::plain(source, 0, source.length()), 0);
    pickle::read(&mut input)?;
    let (objects, version) = pickle::read(&mut input)?;
    if objects.size(version) != Some(VERSION) {
        return Err(damaged("its version is not 1001".into()));
    }
    pickle::read(&mut input)?;
    let (objects, result) = pickle::read(&mut input)?;
    let (keys, list) = pickle::read(&mut input)?;
    let storages = Storages {
        source,
        objects: &objects,
        list: (&keys, list),
        start: input.at(),
        located: OnceCell::new(),
    };
    state_dict::headers(&objects, result, key, &storages)
}

/// The storages behind the pickles, which are located for the first tensor that is looked up.
struct Storages<'a> {
    source: &'a Source,
    objects: &'a Objects,
    list: (&'a Objects, Ref),
    /// The offset of the first.
    start: u64,
    located: OnceCell<HashMap<&'a str, Storage>>,
}

impl Surroundings for Storages<'_> {
    fn storage(&self, key: &str) -> Result<Option<Storage>, CheckpointError> {
        let located = match self.located.get() {
            Some(located) => located,
            None => {
                let items = item_sizes(self.objects)?;
                let located = locate_storages(self.source, &items, self.list, self.start)?;
                self.located.get_or_init(|| located)
            }
        };
        Ok(located.get(key).copied())
    }
}

/// Returns the range of each storage, by adding up the lengths of those before it.
fn locate_storages<'a>(
    source: &Source,
    items: &HashMap<&str, u64>,
    (keys, list): (&'a Objects, Ref),
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
            encoding: Encoding::default(),
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
fn item_sizes(objects: &Objects) -> Result<HashMap<&str, u64>, CheckpointError> {
    let mut sizes = HashMap::new();
    for value in objects.all() {
        let Value::Storage(storage) = value else { continue };
        let Place::Key(key) = storage.place else { continue };
        let Some(key) = objects.text(key) else { continue };
        if sizes
            .insert(key, storage.item)
            .is_some_and(|before| before != storage.item)
        {
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
