//! The functions and classes that pickles of tensors name, and the value that each stands for. Nothing is imported or
//! run.

use safetensors::Dtype;

/// A supported function or class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Global {
    /// A dictionary, empty or of a list of pairs.
    Dict,
    /// A dictionary with a factory of missing values, which is never called.
    DefaultDict,
    /// Returns its first argument.
    Identity,
    /// `(class, ..)`: an instance of the class.
    NewObject,
    /// `(text, 'latin1')`: bytes.
    Latin1,
    /// `(storage, offset, size, stride, ..)`.
    RebuildTensor,
    /// `(storage, offset, size, stride, requires_grad, hooks, dtype, ..)`.
    RebuildTypedTensor,
    /// `(layout, (indices, values, size, ..))`.
    RebuildSparse,
    /// `(tensor, ..)`; without arguments its state holds the tensor.
    Parameter,
    /// `(function, class, arguments, state)`: a tensor with attributes.
    RebuildFromType,
    /// A tensor whose state holds its storage, as PyTorch 0.1 wrote it.
    EmptyTensor,
    /// A tensor that cannot be read, and why.
    Unreadable(&'static str),
    /// The class of a storage: the element type, unless it is not supported, and its size in bytes.
    Storage(Option<Dtype>, u8),
    /// An element type.
    Dtype(Dtype),
    /// A NumPy array whose state holds its bytes.
    EmptyArray,
    /// `(bytes, element type, shape, order)`: a NumPy array.
    ArrayFromBuffer,
    /// A NumPy element type.
    ArrayType,
    /// `(element type, bytes)`: a NumPy number.
    Scalar,
    /// Makes data that is no part of a tensor; the data is dropped.
    Inert,
}

/// Why a quantised tensor cannot be read.
pub(crate) const QUANTISED: &str =
    "is quantised, which is not supported; save the weights of the model as it was before it was quantised";
/// Why a tensor on the device `meta` cannot be read.
pub(super) const META: &str =
    "is a meta tensor, which has a shape but no data; save the model after its weights have been loaded";
/// Why a sparse tensor in another layout than coordinates cannot be read.
pub(super) const COMPRESSED: &str = "is a sparse tensor that is not in the COO layout; save its .to_dense()";
/// Why a tensor of tensors cannot be read.
const NESTED: &str = "is a nested tensor, which no weight is; leave it out";
/// Why a subclass without its own storage cannot be read.
const WRAPPER: &str = "is a tensor subclass without a storage (DTensor, torchao); save its full, dequantised tensor";

/// Returns the function or class of this name; `None` if it is not one of those that pickles of tensors need.
pub(super) fn global(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict" | "Counter") | ("builtins" | "__builtin__", "dict") => Global::Dict,
        ("collections", "defaultdict") => Global::DefaultDict,
        ("torch", "Size") | ("builtins" | "__builtin__", "list" | "tuple" | "set" | "frozenset") => Global::Identity,
        (
            "torch.jit._pickle",
            "build_intlist" | "build_tensorlist" | "build_doublelist" | "build_boollist" | "restore_type_tag",
        )
        | (
            "torch._utils",
            "_rebuild_device_tensor_from_numpy" | "_rebuild_device_tensor_from_cpu_tensor" | "_rebuild_xla_tensor",
        ) => Global::Identity,
        ("copyreg" | "copy_reg", "__newobj__" | "__newobj_ex__" | "_reconstructor") => Global::NewObject,
        ("_codecs", "encode") => Global::Latin1,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTypedTensor,
        ("torch._utils", "_rebuild_sparse_tensor") => Global::RebuildSparse,
        ("torch._utils", "_rebuild_sparse_csr_tensor") => Global::Unreadable(COMPRESSED),
        ("torch._utils", "_rebuild_nested_tensor") => Global::Unreadable(NESTED),
        ("torch._utils", "_rebuild_wrapper_subclass") => Global::Unreadable(WRAPPER),
        ("torch._utils", "_rebuild_qtensor") | ("torch.jit._pickle", "build_tensor_from_id") => {
            Global::Unreadable(QUANTISED)
        }
        ("torch._utils", "_rebuild_meta_tensor_no_storage") => Global::Unreadable(META),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
        | ("torch.nn.parameter", "Parameter") => Global::Parameter,
        ("torch._tensor", "_rebuild_from_type_v2") | ("torch.tensor" | "torch._tensor", "_rebuild_from_type") => {
            Global::RebuildFromType
        }
        ("torch", "Tensor") | ("torch.nn.parameter", "Buffer") => Global::EmptyTensor,
        ("torch.storage" | "torch", "UntypedStorage") => Global::Storage(None, 1),
        ("torch" | "torch.cuda" | "torch.storage", _) if torch(name).is_some() => return torch(name),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Global::EmptyArray,
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Global::ArrayFromBuffer,
        ("numpy", "dtype") => Global::ArrayType,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::Scalar,
        ("torch", "device") | ("torch.serialization", "_get_layout") | ("numpy", "ndarray") => Global::Inert,
        ("builtins" | "__builtin__", name) if BUILTINS.contains(&name) => Global::Inert,
        _ => return None,
    })
}

/// Python's other built-in types.
const BUILTINS: [&str; 9] = [
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "float",
    "int",
    "range",
    "slice",
    "str",
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
        let typed = match class {
            "Bool" => Some(Dtype::BOOL),
            "ComplexFloat" => Some(Dtype::C64),
            class => TYPES.iter().find(|(name, ..)| *name == class).map(|(.., dtype)| *dtype),
        };
        return match (typed, class) {
            (Some(dtype), _) => Some(Global::Storage(typed, (dtype.bitsize() / 8) as u8)),
            (None, "QInt8" | "QUInt8" | "QUInt4x2" | "QUInt2x4") => Some(Global::Storage(None, 1)),
            (None, "QInt32") => Some(Global::Storage(None, 4)),
            (None, "ComplexDouble") => Some(Global::Storage(None, 16)),
            _ => None,
        };
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
