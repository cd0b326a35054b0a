//! A safetensors file on the disk, written tensor by tensor: nothing holds a second copy of a head.
//!
//! The format: <https://github.com/huggingface/safetensors#format>.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::model::{Parameters, breathe};

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian, and their bytes are used as they lie in memory");

/// The data begin at a multiple of this.
const ALIGNMENT: usize = 8;

/// Numbers that are written at a time.
const WRITE_BLOCK: usize = 64 << 10;

/// Free-form text that the header holds.
pub(super) type Texts = HashMap<String, String>;

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
        for block in tensor.values.chunks(WRITE_BLOCK) {
            file.write_all(bytemuck::cast_slice(block))?;
            breathe();
        }
    }
    file.sync_all()
}
