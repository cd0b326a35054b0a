//! What a pickle builds: values in one list that refer to each other by their places in it, so that neither nesting nor
//! cycles can exhaust the stack.

use std::ops::Range;

use safetensors::Dtype;

use super::globals::Global;
use crate::entry::NAME_BYTES_MAX;
use crate::error::CheckpointError;

/// Bytes that the values of a pickle may take. Vectors grow by doubling, so thrice this is the most there ever is.
const OBJECTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A value's place in [`Objects`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ref(u32);

/// A value, as far as state dicts need to tell them apart.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// None, a float, bytes, a set: data that no tensor is made of.
    Opaque,
    Int(i64),
    /// Where in the pickle the UTF-8 is.
    Text(Range<u32>),
    /// A list or a tuple.
    Sequence(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    Global(Global),
    Storage(Box<PickledStorage>),
    Tensor(Box<PickledTensor>),
    /// A tensor or parameter that its state will fill.
    EmptyTensor,
}

/// A reference to numbers outside the pickle.
#[derive(Clone, Debug)]
pub(crate) struct PickledStorage {
    /// None of an untyped storage, whose length is in bytes.
    pub dtype: Option<Dtype>,
    /// The name of the numbers.
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

    pub fn get(&self, place: Ref) -> &Value {
        &self.values[place.0 as usize]
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

    pub fn get_mut(&mut self, place: Ref) -> &mut Value {
        &mut self.values[place.0 as usize]
    }

    /// Counts memory that is about to be taken.
    pub fn charge(&mut self, bytes: usize) -> Result<(), CheckpointError> {
        self.bytes_left = self
            .bytes_left
            .checked_sub(bytes)
            .ok_or_else(|| CheckpointError::StateDict {
                reason: "more than a state dict needs".into(),
            })?;
        Ok(())
    }

    /// Text that is short enough for a name. Longer text is not even decoded: it may be referred to over and over.
    pub fn text(&self, place: Ref) -> Option<&'a str> {
        let Value::Text(range) = self.get(place) else {
            return None;
        };
        let bytes = self.pickle.get(range.start as usize..range.end as usize)?;
        (bytes.len() <= NAME_BYTES_MAX).then(|| std::str::from_utf8(bytes).ok())?
    }

    pub fn sequence(&self, place: Ref) -> Option<&[Ref]> {
        match self.get(place) {
            Value::Sequence(elements) => Some(elements),
            _ => None,
        }
    }

    /// An integer that is not negative.
    pub fn size(&self, place: Ref) -> Option<usize> {
        match self.get(place) {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }
}
