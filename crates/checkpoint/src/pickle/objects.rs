//! The values that a pickle builds. They are in one list and refer to each other by index, so that neither nesting nor
//! cycles can exhaust the call stack.

use std::ops::Range;

use safetensors::Dtype;

use super::globals::Global;
use crate::entry::NAME_BYTES_MAX;
use crate::error::CheckpointError;

/// Limit of the bytes of a pickle's values. Vectors grow by doubling, so at most three times as much is allocated.
const OBJECTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A value's index in [`Objects`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ref(u32);

/// A value; kinds that tensors do not need are not distinguished.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// None, a float, bytes, a set or other data that is no part of a tensor.
    Opaque,
    Int(i64),
    /// The range of the UTF-8 in the pickle.
    Text(Range<u32>),
    /// A list or a tuple.
    Sequence(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    Global(Global),
    Storage(Box<PickledStorage>),
    Tensor(Box<PickledTensor>),
    /// A tensor or parameter whose state, which follows, holds its storage.
    EmptyTensor,
}

/// A reference to elements outside the pickle.
#[derive(Clone, Debug)]
pub(crate) struct PickledStorage {
    /// `None` for an untyped storage, whose length is in bytes.
    pub dtype: Option<Dtype>,
    /// The storage's key in the file.
    pub key: Ref,
    /// In elements.
    pub length: u64,
    /// First element and length of a view of another storage, in elements.
    pub view: Option<(u64, u64)>,
}

/// A tensor on a storage.
#[derive(Clone, Debug)]
pub(crate) struct PickledTensor {
    pub storage: PickledStorage,
    pub dtype: Dtype,
    /// In elements of `dtype`.
    pub offset: usize,
    pub sizes: Vec<usize>,
    pub strides: Vec<usize>,
}

/// All values of one pickle.
#[derive(Debug)]
pub(crate) struct Objects<'a> {
    pickle: &'a [u8],
    values: Vec<Value>,
    bytes_left: usize,
}

impl<'a> Objects<'a> {
    pub fn new(pickle: &'a [u8]) -> Self {
        Self {
            pickle,
            values: Vec::new(),
            bytes_left: OBJECTS_BYTES_MAX,
        }
    }

    pub fn get(&self, value: Ref) -> &Value {
        &self.values[value.0 as usize]
    }

    pub fn all(&self) -> &[Value] {
        &self.values
    }

    pub fn add(&mut self, value: Value) -> Result<Ref, CheckpointError> {
        let heap = match &value {
            Value::Sequence(elements) => size_of_val(&elements[..]),
            Value::Dict(entries) => size_of_val(&entries[..]),
            Value::Storage(_) => size_of::<PickledStorage>(),
            Value::Tensor(tensor) => size_of::<PickledTensor>() + 2 * size_of_val(&tensor.sizes[..]),
            _ => 0,
        };
        self.charge(size_of::<Value>() + heap)?;
        self.values.push(value);
        Ok(Ref(self.values.len() as u32 - 1))
    }

    pub fn get_mut(&mut self, value: Ref) -> &mut Value {
        &mut self.values[value.0 as usize]
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

    /// Returns text that is short enough for a name. Longer text is not decoded: a pickle may refer to it any number of
    /// times.
    pub fn text(&self, value: Ref) -> Option<&'a str> {
        let Value::Text(range) = self.get(value) else {
            return None;
        };
        let bytes = self.pickle.get(range.start as usize..range.end as usize)?;
        (bytes.len() <= NAME_BYTES_MAX).then(|| std::str::from_utf8(bytes).ok())?
    }

    pub fn sequence(&self, value: Ref) -> Option<&[Ref]> {
        match self.get(value) {
            Value::Sequence(elements) => Some(elements),
            _ => None,
        }
    }

    /// Returns an integer that is not negative.
    pub fn size(&self, value: Ref) -> Option<usize> {
        match self.get(value) {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }
}
