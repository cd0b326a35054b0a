//! A safetensors file on the disk, written tensor by tensor: nothing holds a second copy of a head.
//!
//! The format: <https://github.com/huggingface/safetensors#format>.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::synced_file::SyncedFile;
use crate::model::Parameters;

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian, and their bytes are used as they lie in memory");

/// The data begin at a multiple of this.
const ALIGNMENT: usize = 8;

/// Free-form text that the header holds.
pub(super) type Texts = HashMap<String, String>;

/// Writes a whole file and waits until it is on the disk. The tensors go from where they lie to the system. Returns the
/// part of the time that was spent in fsync.
pub(super) fn write_durably(path: &Path, texts: Texts, parameters: &Parameters) -> io::Result<Duration> {
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

    let mut file = SyncedFile::new(File::create(path)?);
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(&header)?;
    for tensor in parameters.values() {
        file.write(bytemuck::cast_slice(&tensor.values))?;
    }
    file.finish()
}
