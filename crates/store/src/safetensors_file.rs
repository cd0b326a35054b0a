//! A version's file on the disk, written tensor by tensor: nothing holds a second copy of a head.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use headswap_checkpoint::{Parameters, StoredDtype, Throttle, safetensors_header};

use super::synced_file::SyncedFile;

/// Writes a whole file and waits until it is on the disk. The tensors are written from where they are in memory. Returns how
/// much of the time was spent in fsync.
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
