//! The functions and classes that pickles of state dicts name, and the value that each stands for. Nothing is imported
//! or run.

use safetensors::Dtype;

/// A supported function or class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    /// A dictionary, empty or of a list of pairs.
    Dict,
    /// Returns its only argument.
    Identity,
    /// `(storage, offset, size, stride, ..)`.
    RebuildTensor,
    /// `(storage, offset, size, stride, requires_grad, hooks, dtype, ..)`.
    RebuildTypedTensor,
    /// `(tensor, ..)`; without arguments its state holds the tensor.
    Parameter,
    /// `(function, class, arguments, state)`: a tensor with attributes.
    RebuildFromType,
    /// A tensor whose state holds its storage, as PyTorch 0.1 wrote it.
    EmptyTensor,
    /// The class of a storage of elements of one type.
    Storage(Dtype),
    /// The class of a storage of bytes.
    UntypedStorage,
    /// An element type.
    Dtype(Dtype),
    /// Makes data that is no part of a tensor; the data is dropped.
    Inert,
}

/// Returns the function or class of this name; `None` if it must be refused.
pub(super) fn global(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict" | "Counter") => Global::Dict,
        // Its argument is the factory of missing values, which is never called.
        ("collections", "defaultdict") => Global::Inert,
        ("torch", "Size") => Global::Identity,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTypedTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
        | ("torch.nn.parameter", "Parameter") => Global::Parameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("torch", "Tensor") | ("torch.nn.parameter", "Buffer") => Global::EmptyTensor,
        ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => Global::UntypedStorage,
        ("torch" | "torch.cuda", _) if torch(name).is_some() => return torch(name),
        ("torch", "device")
        | ("torch.serialization", "_get_layout")
        | ("_codecs", "encode")
        | ("numpy", "dtype" | "ndarray")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
        | ("argparse", "Namespace") => Global::Inert,
        ("builtins" | "__builtin__", name) if BUILTINS.contains(&name) => Global::Inert,
        _ => return None,
    })
}

/// Python's built-in types.
const BUILTINS: [&str; 14] = [
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
];

/// `FloatStorage`, `FloatTensor`, `float32`, and so on.
fn torch(name: &str) -> Option<Global> {
    const TYPES: [(&str, &str, Dtype); 9] = [
        ("Float", "float32", Dtype::F32),
        ("Half", "float16", Dtype::F16),
        ("BFloat16", "bfloat16", Dtype::BF16),
        ("Double", "float64", Dtype::F64),
        ("Long", "int64", Dtype::I64),
        ("Int", "int32", Dtype::I32),
        ("Short", "int16", Dtype::I16),
        ("Char", "int8", Dtype::I8),
        ("Byte", "uint8", Dtype::U8),
    ];
    const MORE: [(&str, Dtype); 7] = [
        ("bool", Dtype::BOOL),
        ("uint16", Dtype::U16),
        ("uint32", Dtype::U32),
        ("uint64", Dtype::U64),
        ("float8_e4m3fn", Dtype::F8_E4M3),
        ("float8_e5m2", Dtype::F8_E5M2),
        ("complex64", Dtype::C64),
    ];
    if let Some(class) = name.strip_suffix("Storage") {
        let dtype = match class {
            "Bool" => Dtype::BOOL,
            "ComplexFloat" => Dtype::C64,
            class => TYPES.iter().find(|(name, ..)| *name == class)?.2,
        };
        return Some(Global::Storage(dtype));
    }
    if let Some(class) = name.strip_suffix("Tensor") {
        let known = class == "Bool" || TYPES.iter().any(|(name, ..)| *name == class);
        return known.then_some(Global::EmptyTensor);
    }
    let dtypes = TYPES.iter().map(|(_, name, dtype)| (name, dtype));
    let mut dtypes = dtypes.chain(MORE.iter().map(|(name, dtype)| (name, dtype)));
    dtypes
        .find(|(known, _)| **known == name)
        .map(|(_, dtype)| Global::Dtype(*dtype))
}
