//! Reads safetensors files, <https://github.com/huggingface/safetensors#format>: the header's length (u64), the header as
//! JSON, and the tensors' bytes without gaps.
//!
//! The crate `safetensors` is used only for its element types: its reader allocates memory in proportion to what a header
//! claims to describe.

use std::collections::{HashMap, HashSet};
use std::fmt;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::checkpoint::Headers;
use super::entry::{Encoding, NAME_BYTES_MAX, RANK_MAX, Storage, StorageView, TENSORS_MAX, TensorEntry, element_count};
use super::error::CheckpointError;
use super::format::CheckpointFormat;
use super::source::Source;
use super::text::excerpt;

/// Limit of the bytes of a header. A VGG16's has 3 kB; the labels are in the header, too.
const HEADER_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Limit of the entries of free-form metadata.
const METADATA_MAX: usize = 4096;

pub(super) fn open(source: &Source, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let length = source.read_within(0, 8, || damaged(format!("{} bytes are too few", source.length())))?;
    let header_bytes = u64::from_le_bytes(length[..].try_into().unwrap_or_default());
    let bytes_max = HEADER_BYTES_MAX.min(source.length() - 8);
    if header_bytes > bytes_max {
        let reason = match bytes_max {
            HEADER_BYTES_MAX => format!("the limit is {HEADER_BYTES_MAX}; leave metadata out of it"),
            rest => format!("{rest} follow"),
        };
        return Err(damaged(format!("its header claims {header_bytes} bytes, and {reason}")));
    }
    let header = source.read(8, header_bytes)?;
    let header: Header = serde_json::from_slice(&header)
        .map_err(|error| damaged(format!("its header is invalid: {}", excerpt(&error.to_string()))))?;
    let data = Storage {
        start: 8 + header_bytes,
        bytes: source.length() - 8 - header_bytes,
        encoding: Encoding::default(),
    };
    Ok(Headers {
        entries: last_entries(header.tensors, data)?,
        metadata: header.metadata,
        selected: key.map(str::to_owned),
        ..Headers::default()
    })
}

/// Returns the entries of the tensors, of several with the same name that of the last. This is what JSON's readers do,
/// the crate's too; the others' numbers are then a gap, unless they are the same.
fn last_entries(mut tensors: Vec<(String, Tensor)>, data: Storage) -> Result<Vec<TensorEntry>, CheckpointError> {
    let mut seen = HashSet::new();
    let mut twice = None;
    let mut keep = vec![false; tensors.len()];
    for (index, (name, _)) in tensors.iter().enumerate().rev() {
        keep[index] = seen.insert(name.as_str());
        if !keep[index] {
            twice = Some(excerpt(name));
        }
    }
    let mut keep = keep.into_iter();
    tensors.retain(|_| keep.next().unwrap_or(true));
    entries(tensors, data).map_err(|error| match twice {
        Some(name) => CheckpointError::Twice {
            first: name.clone(),
            second: name.clone(),
            name,
        },
        None => error,
    })
}

/// Returns the tensors' entries, after checking that the tensors cover the data without gaps or overlaps.
fn entries(mut tensors: Vec<(String, Tensor)>, data: Storage) -> Result<Vec<TensorEntry>, CheckpointError> {
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut covered = 0;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let (start, end) = tensor.data_offsets;
        let count = element_count(&tensor.shape.0).map(|count| count as u64);
        let bits = count.and_then(|count| count.checked_mul(tensor.dtype.bitsize() as u64));
        let bytes = bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8);
        if start != covered || end.checked_sub(start) != bytes || bytes.is_none() || end > data.bytes {
            return Err(damaged(format!(
                "{} has shape {:?} and dtype {:?}, but bytes {start} to {end} of {}",
                excerpt(&name),
                tensor.shape.0,
                tensor.dtype,
                data.bytes
            )));
        }
        covered = end;
        let storage = Storage {
            start: data.start + start,
            bytes: end - start,
            encoding: Encoding::default(),
        };
        let view = StorageView {
            offset: 0,
            sizes: &tensor.shape.0,
            strides: None,
        };
        entries.push(TensorEntry::new(&name, tensor.dtype, view, storage)?);
    }
    if covered != data.bytes {
        return Err(damaged(format!(
            "its header describes {covered} bytes of numbers, the file has {}",
            data.bytes
        )));
    }
    Ok(entries)
}

fn damaged(reason: String) -> CheckpointError {
    CheckpointError::Damaged {
        format: CheckpointFormat::Safetensors,
        reason,
    }
}

/// The header's content.
#[derive(Default)]
struct Header {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, Tensor)>,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata = map.next_value_seed(Metadata)?;
                    } else if header.tensors.len() == TENSORS_MAX || name.len() > NAME_BYTES_MAX {
                        return Err(de::Error::custom("too many tensors or too long a name"));
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Deserializes free-form metadata of a bounded number of entries.
struct Metadata;

impl<'de> DeserializeSeed<'de> for Metadata {
    type Value = HashMap<String, String>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata {
    type Value = HashMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(HashMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut metadata = HashMap::new();
        while let Some((key, value)) = map.next_entry()? {
            if metadata.len() == METADATA_MAX {
                return Err(de::Error::custom("too much metadata"));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }
}

/// The sizes of a bounded number of dimensions.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = sequence.next_element()? {
                    if sizes.len() == RANK_MAX {
                        return Err(de::Error::custom("too many dimensions"));
                    }
                    sizes.push(size);
                }
                Ok(Shape(sizes))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}
