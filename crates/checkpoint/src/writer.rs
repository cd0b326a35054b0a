//! Writes safetensors files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};

use half::{bf16, f16};
use safetensors::{Dtype, View};
use serde_json::{Map, json};

use super::checkpoint::Checkpoint;
use super::error::CheckpointError;
use super::tensor::HostTensor;
use super::text::excerpt;

/// The element type to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum StoredDtype {
    /// 4 bytes: the file is as large as the weights in memory.
    F32,
    /// 2 bytes, with 11 significant bits and numbers up to 65504.
    F16,
    /// 2 bytes, with 8 significant bits and f32's range.
    Bf16,
}

/// Lets the safetensors crate write a tensor without a copy.
impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        bytemuck::cast_slice(&self.values).into()
    }

    fn data_len(&self) -> usize {
        self.bytes()
    }
}

/// The reason for which a checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The operating system returned an error.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
    /// A value is beyond the range of the element type.
    #[error("{name} holds {value} at element {index}, which is too large for {dtype:?}; choose another --dtype")]
    TooLarge {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
        /// The element's index in row-major order, from 0.
        index: usize,
        /// The element type that was asked for.
        dtype: StoredDtype,
    },
}

/// Writes every tensor with torchvision's name and shape, one at a time and in the order of the input file. `written` is
/// called with the number of bytes written since its last call. The metadata is kept.
///
/// # Errors
/// [`ConvertError`] names the tensor; what was written until then is not a valid file.
pub fn write_safetensors(
    checkpoint: &Checkpoint,
    dtype: StoredDtype,
    out: &mut dyn Write,
    mut written: impl FnMut(u64),
) -> Result<(), ConvertError> {
    let mut metadata = checkpoint.metadata().clone();
    // Hugging Face's libraries require this key.
    metadata.entry("format".into()).or_insert_with(|| "pt".into());
    let tensors = checkpoint
        .tensors()
        .map(|entry| (entry.name.as_str(), &entry.shape[..]));
    out.write_all(&safetensors_header(tensors, dtype, &metadata))?;
    let mut block = Vec::new();
    for entry in checkpoint.tensors() {
        let tensor = checkpoint.read(entry)?;
        for (number, values) in tensor.values.chunks(BLOCK_ELEMENTS).enumerate() {
            block.clear();
            dtype
                .encode(values, &mut block)
                .map_err(|index| ConvertError::TooLarge {
                    name: excerpt(&entry.name),
                    value: values[index],
                    index: number * BLOCK_ELEMENTS + index,
                    dtype,
                })?;
            out.write_all(&block)?;
            written(block.len() as u64);
        }
    }
    Ok(())
}

/// Returns the bytes that all tensors take once written.
pub fn safetensors_bytes(checkpoint: &Checkpoint, dtype: StoredDtype) -> u64 {
    let elements: usize = checkpoint.tensors().map(|entry| entry.elements()).sum();
    (elements * dtype.bytes()) as u64
}

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian, and tensors are written in the machine's byte order");

const BLOCK_ELEMENTS: usize = 64 * 1024;
/// The alignment of the first tensor, in bytes.
const ALIGNMENT: usize = 8;

/// Returns the start of a safetensors file: the header's length and the header, padded so that the tensors are aligned
/// (<https://github.com/huggingface/safetensors#format>).
///
/// `tensors` are names and shapes, in the order in which the tensors will be written, all as `dtype`.
pub fn safetensors_header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    dtype: StoredDtype,
    metadata: &HashMap<String, String>,
) -> Vec<u8> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!(metadata))]);
    let mut start = 0;
    for (name, shape) in tensors {
        let end = start + shape.iter().product::<usize>() * dtype.bytes();
        let tensor = json!({
            "dtype": format!("{:?}", Dtype::from(dtype)), "shape": shape, "data_offsets": [start, end],
        });
        header.insert(name.to_owned(), tensor);
        start = end;
    }
    let mut json = serde_json::Value::Object(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    bytes
}

impl StoredDtype {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Appends the values in little-endian order, rounded to nearest.
    ///
    /// # Errors
    /// The index of a value that becomes infinite.
    fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
        let infinite = match self {
            Self::F32 => {
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                None
            }
            Self::F16 => {
                out.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()));
                values.iter().position(|value| !f16::from_f32(*value).is_finite())
            }
            Self::Bf16 => {
                out.extend(values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()));
                values.iter().position(|value| !bf16::from_f32(*value).is_finite())
            }
        };
        infinite.map_or(Ok(()), Err)
    }
}

impl From<StoredDtype> for Dtype {
    fn from(dtype: StoredDtype) -> Self {
        match dtype {
            StoredDtype::F32 => Self::F32,
            StoredDtype::F16 => Self::F16,
            StoredDtype::Bf16 => Self::BF16,
        }
    }
}
