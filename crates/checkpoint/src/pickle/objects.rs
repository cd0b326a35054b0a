//! The values that a pickle builds. They are in one list and refer to each other by index, so that neither nesting nor
//! cycles can exhaust the call stack.

use super::input::Blob;
use super::input::Input;
use super::value::{Object, PickledSparse, PickledStorage, PickledTensor, Text, TextKind, Value};
use crate::entry::NAME_BYTES_MAX;
use crate::error::CheckpointError;

/// Limit of the bytes of a pickle's values. A vector that grows by doubling takes three times as much for a moment.
const OBJECTS_BYTES_MAX: usize = 5 * 1024 * 1024;
/// Values in one allocation, so that adding a value never moves the others.
const CHUNK: usize = 1024;

/// A value's index in [`Objects`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ref(u32);

impl Ref {
    /// None, True and False, which are stored once.
    pub const NONE: Self = Self(0);
    const TRUE: Self = Self(1);
    const FALSE: Self = Self(2);
}

/// All values of one pickle.
#[derive(Debug)]
pub(crate) struct Objects {
    chunks: Vec<Vec<Value>>,
    /// The text that is short enough for a name.
    kept: Vec<u8>,
    bytes_left: usize,
}

impl Objects {
    pub fn new() -> Self {
        Self {
            chunks: vec![vec![Value::None, Value::Bool(true), Value::Bool(false)]],
            kept: Vec::new(),
            bytes_left: OBJECTS_BYTES_MAX,
        }
    }

    pub fn get(&self, value: Ref) -> &Value {
        &self.chunks[value.0 as usize / CHUNK][value.0 as usize % CHUNK]
    }

    pub fn all(&self) -> impl Iterator<Item = &Value> {
        self.chunks.iter().flatten()
    }

    pub fn add(&mut self, value: Value) -> Result<Ref, CheckpointError> {
        let heap = match &value {
            Value::None => return Ok(Ref::NONE),
            Value::Bool(true) => return Ok(Ref::TRUE),
            Value::Bool(false) => return Ok(Ref::FALSE),
            Value::Sequence(elements) => size_of_val(&elements[..]),
            Value::Dict(entries) => size_of_val(&entries[..]),
            Value::Object(object) => size_of::<Object>() + size_of_val(&object.entries[..]),
            Value::Storage(_) => size_of::<PickledStorage>(),
            Value::Tensor(tensor) => tensor_bytes(tensor),
            Value::Sparse(sparse) => {
                size_of::<PickledSparse>() + tensor_bytes(&sparse.indices) + tensor_bytes(&sparse.values)
            }
            _ => 0,
        };
        self.charge(size_of::<Value>() + heap)?;
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let index = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().map_or(0, |chunk| {
            chunk.push(value);
            chunk.len() - 1
        });
        Ok(Ref((index + chunk) as u32))
    }

    pub fn get_mut(&mut self, value: Ref) -> &mut Value {
        &mut self.chunks[value.0 as usize / CHUNK][value.0 as usize % CHUNK]
    }

    /// Takes `bytes`, which are about to be allocated, from the budget.
    pub fn charge(&mut self, bytes: usize) -> Result<(), CheckpointError> {
        self.bytes_left = self
            .bytes_left
            .checked_sub(bytes)
            .ok_or_else(|| CheckpointError::StateDict {
                reason: "more than a state dict needs".into(),
            })?;
        Ok(())
    }

    /// Reads text or bytes of `length` bytes.
    pub fn read_text(&mut self, input: &mut Input<'_>, length: u64, kind: TextKind) -> Result<Value, CheckpointError> {
        let is_kept = length <= NAME_BYTES_MAX as u64;
        if is_kept {
            self.charge(length as usize)?;
        }
        let at = self.kept.len() as u32;
        Ok(Value::Text(Text {
            blob: input.blob(length, &mut self.kept)?,
            kept: is_kept.then_some(at),
            kind,
        }))
    }

    /// Adds the full name of a function or class.
    pub fn name(&mut self, module: &str, name: &str) -> Result<Value, CheckpointError> {
        let length = module.len() + 1 + name.len();
        self.charge(length)?;
        let at = self.kept.len() as u32;
        for part in [module, ".", name] {
            self.kept.extend_from_slice(part.as_bytes());
        }
        Ok(Value::Name(Text {
            blob: Blob {
                start: 0,
                length: length as u64,
            },
            kept: Some(at),
            kind: TextKind::Unicode,
        }))
    }

    /// Returns text, or bytes as text, if it is short enough for a name.
    pub fn text(&self, value: Ref) -> Option<&str> {
        match self.get(value) {
            Value::Text(text) => self.kept(text),
            _ => None,
        }
    }

    /// Returns bytes that are few enough for a name.
    pub fn bytes(&self, value: Ref) -> Option<Vec<u8>> {
        let Value::Text(text) = self.get(value) else {
            return None;
        };
        let start = text.kept? as usize;
        let bytes = self.kept.get(start..start + text.blob.length as usize)?;
        match text.kind {
            TextKind::Latin1 => {
                let characters = std::str::from_utf8(bytes).ok()?.chars();
                characters.map(|character| u8::try_from(character).ok()).collect()
            }
            _ => Some(bytes.to_vec()),
        }
    }

    fn kept(&self, text: &Text) -> Option<&str> {
        let start = text.kept? as usize;
        let bytes = self.kept.get(start..start + text.blob.length as usize)?;
        std::str::from_utf8(bytes).ok()
    }

    /// Returns the full name of a function or class that is not supported.
    pub fn full_name(&self, value: Ref) -> Option<&str> {
        match self.get(value) {
            Value::Name(name) => self.kept(name),
            // The result of a function's result, as of functools.partial.
            Value::Object(object) => match self.get(object.class) {
                Value::Name(name) => self.kept(name),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn sequence(&self, value: Ref) -> Option<&[Ref]> {
        match self.get(value) {
            Value::Sequence(elements) => Some(elements),
            _ => None,
        }
    }

    /// Returns the entries of a dictionary, or of an object: those of a subclass of dict, else its attributes.
    pub fn entries(&self, value: Ref) -> &[(Ref, Ref)] {
        match self.get(value) {
            Value::Dict(entries) => entries,
            Value::Object(object) if !object.entries.is_empty() => &object.entries,
            Value::Object(object) => self.attributes(object),
            _ => &[],
        }
    }

    /// Returns an object's attributes.
    pub fn attributes(&self, object: &Object) -> &[(Ref, Ref)] {
        match object.state.map(|state| self.get(state)) {
            Some(Value::Dict(entries)) => entries,
            // The attributes, and those of `__slots__`.
            Some(Value::Sequence(parts)) => match parts.first().map(|first| self.get(*first)) {
                Some(Value::Dict(entries)) => entries,
                _ => &[],
            },
            _ => &[],
        }
    }

    /// Returns the value of the last entry with this key.
    pub fn value_of(&self, entries: &[(Ref, Ref)], key: &str) -> Option<Ref> {
        let found = entries.iter().rev().find(|(name, _)| self.text(*name) == Some(key));
        found.map(|(_, value)| *value)
    }

    /// Returns an integer that is not negative.
    pub fn size(&self, value: Ref) -> Option<usize> {
        match self.get(value) {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Returns an integer or a float.
    pub fn number(&self, value: Ref) -> Option<f64> {
        match self.get(value) {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }
}

fn tensor_bytes(tensor: &PickledTensor) -> usize {
    size_of::<PickledTensor>() + 2 * size_of_val(&tensor.sizes[..])
}
