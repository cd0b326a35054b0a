//! A safetensors file on the disk, written and read tensor by tensor: nothing holds a second copy of a head.
//!
//! The format: <https://github.com/huggingface/safetensors#format>.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::error::{HeadError, shown};
use super::store::StoreError;
use crate::model::{HostTensor, Parameters};

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian, and their bytes are used as they lie in memory");

/// What the safetensors crate reads at most.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Narrow element types are widened in blocks of this many bytes.
const BLOCK_BYTES: usize = 1 << 20;
/// The data begin at a multiple of this.
const ALIGNMENT: usize = 8;

/// Free-form text that the header holds.
pub(super) type Texts = HashMap<String, String>;

/// An open file whose header has been held against its length.
pub(super) struct SafetensorsFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_start: u64,
}

impl SafetensorsFile {
    /// Reads the header alone.
    ///
    /// # Errors
    /// [`HeadError::Weights`] if this is no whole safetensors file, [`HeadError::Store`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Self, HeadError> {
        let unreadable = |source| unreadable(path, source);
        let mut file = File::open(path).map_err(unreadable)?;
        let kind = file.metadata().map_err(unreadable)?;
        if !kind.is_file() {
            return Err(HeadError::Weights {
                reason: "it is no file".into(),
            });
        }
        let not_whole = |reason: String| HeadError::Weights {
            reason: format!(
                "the {} bytes are no whole safetensors file ({}); send it unchanged",
                kind.len(),
                shown(&reason)
            ),
        };
        let mut length = [0; 8];
        let data_max = kind.len().checked_sub(length.len() as u64);
        let data_max = data_max.ok_or_else(|| not_whole("header too small".into()))?;
        file.read_exact(&mut length).map_err(unreadable)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > HEADER_BYTES_MAX.min(data_max) {
            return Err(not_whole(format!("its header claims {header_bytes} bytes")));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(unreadable)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| not_whole(error.to_string()))?;
        let described = metadata.data_len() as u64;
        if described != data_max - header_bytes {
            return Err(not_whole(format!("its header describes {described} bytes of tensors")));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            metadata,
            data_start: length.len() as u64 + header_bytes,
        })
    }

    /// The header's free-form texts.
    pub fn texts(&self) -> Texts {
        self.metadata.metadata().clone().unwrap_or_default()
    }

    /// Every tensor's name and description, in the order of the data, so that a cold disk reads ahead.
    pub fn tensors(&self) -> Vec<(String, TensorInfo)> {
        let names = self.metadata.offset_keys().into_iter();
        let described = names.filter_map(|name| Some((self.metadata.info(&name)?.clone(), name)));
        described.map(|(info, name)| (name, info)).collect()
    }

    /// One tensor, widened to f32.
    ///
    /// # Errors
    /// [`HeadError::Weights`] if its element type is none of a weight's, [`HeadError::Store`] if it cannot be read.
    pub fn read(&mut self, name: &str, info: &TensorInfo) -> Result<HostTensor, HeadError> {
        let refused = |error| HeadError::Weights {
            reason: format!("`{}` {error}", shown(name)),
        };
        let unreadable = |source| unreadable(&self.path, source);
        HostTensor::from_le_bytes(info.dtype, Vec::new(), &[]).map_err(refused)?;
        let (start, end) = info.data_offsets;
        let start = SeekFrom::Start(self.data_start + start as u64);
        self.file.seek(start).map_err(unreadable)?;

        let mut left = end - info.data_offsets.0;
        let mut values = Vec::new();
        if info.dtype == Dtype::F32 {
            values.resize(left / size_of::<f32>(), 0f32);
            let bytes = bytemuck::cast_slice_mut(&mut values);
            self.file.read_exact(bytes).map_err(unreadable)?;
            left = 0;
        }
        values.reserve_exact(left / 2);
        let mut block = vec![0; left.min(BLOCK_BYTES)];
        while left > 0 {
            let block = &mut block[..left.min(BLOCK_BYTES)];
            self.file.read_exact(block).map_err(unreadable)?;
            let widened = HostTensor::from_le_bytes(info.dtype, Vec::new(), block).map_err(refused)?;
            values.extend_from_slice(&widened.values);
            left -= block.len();
        }
        Ok(HostTensor {
            shape: info.shape.clone(),
            values,
        })
    }
}

/// Writes a whole file and waits until it is on the disk. The tensors go from where they lie to the system.
pub(super) fn write_durably(path: &Path, texts: Texts, parameters: &Parameters) -> io::Result<()> {
    let mut end = 0;
    let infos = parameters.iter().map(|(name, tensor)| {
        let start = end;
        end += tensor.bytes();
        let info = TensorInfo {
            dtype: Dtype::F32,
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        (name.clone(), info)
    });
    let metadata = Metadata::new(Some(texts), infos.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');

    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for tensor in parameters.values() {
        file.write_all(bytemuck::cast_slice(&tensor.values))?;
    }
    file.sync_all()
}

fn unreadable(path: &Path, source: io::Error) -> HeadError {
    HeadError::Store(StoreError {
        action: "read",
        path: path.to_owned(),
        source,
    })
}
