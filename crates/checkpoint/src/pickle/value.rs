//! What the values of a pickle can be.

use safetensors::Dtype;

use super::globals::Global;
use super::input::Blob;
use super::objects::Ref;

/// A value; kinds that no network needs are not distinguished.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text, or bytes (which Python 2 uses as text).
    Text(Text),
    /// A list, a tuple or a set.
    Sequence(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    /// A supported function or class.
    Global(Global),
    /// The full name of another function or class.
    Name(Text),
    /// What another function or class makes.
    Object(Box<Object>),
    Storage(Box<PickledStorage>),
    Tensor(Box<PickledTensor>),
    Sparse(Box<PickledSparse>),
    /// A tensor or parameter whose state, which follows, holds its storage.
    EmptyTensor,
    /// A NumPy array whose state, which follows, holds its bytes.
    EmptyArray,
    /// A NumPy element type; `None` if it is not supported. The flag is true if it is big-endian.
    ArrayType(Option<Dtype>, bool),
    /// A tensor that cannot be read, and why: the rest of a sentence that begins with its name.
    Unreadable(&'static str),
    /// Other data that is no part of a tensor.
    Opaque,
}

/// Text or bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub blob: Blob,
    /// The offset in the text that is kept; `None` if it is too long for a name.
    pub(super) kept: Option<u32>,
    pub kind: TextKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextKind {
    /// UTF-8.
    Unicode,
    Bytes,
    /// Bytes, written as the UTF-8 of their Latin-1.
    Latin1,
}

/// An object as data: nothing was called to make it.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub class: Ref,
    /// True if the pickle asks for the result of a call, false if for an instance with this state.
    pub is_called: bool,
    pub state: Option<Ref>,
    /// The entries of a subclass of dict.
    pub entries: Vec<(Ref, Ref)>,
}

/// A reference to elements: in a storage of the file or in the pickle.
#[derive(Clone, Debug)]
pub(crate) struct PickledStorage {
    /// `None` for an untyped storage, whose length is in bytes, and for element types that are not supported.
    pub dtype: Option<Dtype>,
    /// The bytes of an element.
    pub item: u64,
    pub place: Place,
    /// In elements.
    pub length: u64,
    /// First element and length of a view of another storage, in elements.
    pub view: Option<(u64, u64)>,
}

/// Where a storage's bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// The storage's key in the file.
    Key(Ref),
    /// Bytes in the pickle; true if they are the UTF-8 of their Latin-1.
    Pickle(Blob, bool),
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

/// A sparse tensor of coordinates.
#[derive(Clone, Debug)]
pub(crate) struct PickledSparse {
    /// One column for each value.
    pub indices: PickledTensor,
    pub values: PickledTensor,
    pub sizes: Vec<usize>,
}
