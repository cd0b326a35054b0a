//! Writes a version's file tensor by tensor, without a second copy of the head in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use headswap_checkpoint::{Parameters, StoredDtype, Throttle, safetensors_header};

use super::synced_file::SyncedFile;

/// Writes a file and waits until it is on the disk. Returns the time spent in fsync.
pub(super) fn write_durably(
    path: &Path,
    metadata: &HashMap<String, String>,
    parameters: &Parameters,
    throttle: &Throttle,
) -> io::Result<Duration> {
    let tensors = parameters
        .iter()
        .map(|(name, tensor)| (name.as_str(), &tensor.shape[..]));
    let header = safetensors_header(tensors, StoredDtype::F32, metadata);
    let mut file = SyncedFile::new(File::create(path)?);
    file.write(&header, throttle)?;
    for tensor in parameters.values() {
        file.write(bytemuck::cast_slice(&tensor.values), throttle)?;
    }
    file.finish()
}
