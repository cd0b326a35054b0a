//! Turns the network that a pickle holds into a checkpoint's headers.

use super::checkpoint::Headers;
use super::entry::{Encoding, Storage, StorageView, TensorEntry};
use super::error::CheckpointError;
use super::label_lists;
use super::module::Module;
use super::module_kind::{Attributes, kind, needs_attributes, unmangled};
use super::module_tree;
use super::network::{self, Network};
use super::pickle::{Objects, PickledStorage, PickledTensor, Place, QUANTISED, Ref, Value};
use super::sparse::Sparse;
use super::stream::Packed;
use super::text::excerpt;

/// What surrounds a pickle: the file's storages, and the code of its classes.
pub(super) trait Surroundings {
    /// Returns the range of a storage, by its key.
    fn storage(&self, key: &str) -> Result<Option<Storage>, CheckpointError>;

    /// The compressed bytes that the pickle was inflated from.
    fn packed(&self) -> Option<Packed> {
        None
    }

    /// Returns the source code of a TorchScript class, by its full name.
    fn code(&self, _class: &str) -> Option<String> {
        None
    }
}

/// Returns the headers of the network in a pickle's result: of what `key` names, or of the only one.
pub(super) fn headers(
    objects: &Objects,
    result: Ref,
    key: Option<&str>,
    around: &impl Surroundings,
) -> Result<Headers, CheckpointError> {
    let Network {
        container,
        selected,
        tensors,
        modules,
        quantised,
    } = network::find(objects, result, key)?;
    if let Some(path) = quantised {
        return Err(unreadable(&path, QUANTISED));
    }
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, value) in tensors {
        entries.push(entry(objects, &name, value, around)?);
    }
    let mut typed = Vec::with_capacity(modules.len());
    for (path, value) in modules {
        typed.push(layer(objects, path, value, around));
    }
    Ok(Headers {
        container,
        selected,
        entries,
        modules: typed,
        label_lists: label_lists::find(objects, result),
        ..Headers::default()
    })
}

fn layer(objects: &Objects, path: String, value: Ref, around: &impl Surroundings) -> Module {
    let Value::Object(object) = objects.get(value) else {
        return Module {
            path,
            kind: super::module::ModuleKind::Other(String::new()),
        };
    };
    let class = module_tree::class(objects, object);
    let kind = if class.starts_with("__torch__.") {
        let name = unmangled(class);
        let code = needs_attributes(&name).then(|| around.code(class)).flatten();
        kind(&name, &Attributes::Code(code))
    } else {
        kind(class, &Attributes::Pickled(objects, objects.attributes(object)))
    };
    Module { path, kind }
}

/// Returns the entry of a value that should be a tensor.
fn entry(
    objects: &Objects,
    name: &str,
    value: Ref,
    around: &impl Surroundings,
) -> Result<TensorEntry, CheckpointError> {
    match objects.get(value) {
        Value::Tensor(tensor) => tensor_entry(objects, name, tensor, around),
        Value::Sparse(sparse) => {
            let parts = Sparse {
                indices: tensor_entry(objects, name, &sparse.indices, around)?,
                values: tensor_entry(objects, name, &sparse.values, around)?,
            };
            TensorEntry::sparse(name, &sparse.sizes, parts)
        }
        Value::Unreadable(reason) => Err(unreadable(name, reason)),
        Value::Object(_) => Err(CheckpointError::Global {
            name: excerpt(objects.full_name(value).unwrap_or("an unnamed function")),
        }),
        _ => Err(unreadable(name, QUANTISED)),
    }
}

fn tensor_entry(
    objects: &Objects,
    name: &str,
    tensor: &PickledTensor,
    around: &impl Surroundings,
) -> Result<TensorEntry, CheckpointError> {
    let storage = match tensor.storage.place {
        Place::Key(key) => {
            let key = objects.text(key).unwrap_or_default();
            around.storage(key)?.ok_or_else(|| CheckpointError::Tensor {
                name: excerpt(name),
                reason: format!("is in the storage {}, which the file lacks", excerpt(key)),
            })?
        }
        Place::Pickle(blob, is_latin1) => Storage {
            start: blob.start,
            bytes: tensor.storage.length.saturating_mul(tensor.storage.item),
            encoding: Encoding {
                packed: around.packed(),
                latin1_bytes: is_latin1.then_some(blob.length),
            },
        },
    };
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
    let claimed = pickled.length.checked_mul(pickled.item)?;
    let (start, bytes) = match pickled.view {
        Some((offset, length)) => (offset.checked_mul(pickled.item)?, length.checked_mul(pickled.item)?),
        None => (0, claimed),
    };
    let end = start.checked_add(bytes)?;
    (end <= storage.bytes && claimed <= storage.bytes).then_some(Storage {
        start: storage.start + start,
        bytes,
        encoding: storage.encoding,
    })
}

fn unreadable(name: &str, reason: &str) -> CheckpointError {
    CheckpointError::Unreadable {
        name: excerpt(name),
        reason: reason.to_owned(),
    }
}
