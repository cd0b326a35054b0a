//! The sources of a new head's weights: bytes, a local file, or an upload.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use headswap_checkpoint::Throttle;
use headswap_heads::{HeadError, HeadLimits, HeadRequest, HeadWeights};
use headswap_store::{UPLOAD_BYTES_MAX, Upload};

use crate::ServiceError;

/// The source of weights in a ReplaceHead call.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file in memory.
    Bytes(Bytes),
    /// A file of this machine, such as `file:///srv/heads/cats.safetensors`.
    Uri(String),
}

/// Which local files ReplaceHead may read.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// The directory (`--head-source-dir`); none refuses every URI.
    pub dir: Option<PathBuf>,
    /// Maximum bytes of a file.
    pub bytes_max: u64,
}

/// A file whose length is known.
pub(super) enum WeightsFile {
    Memory(Bytes),
    Disk {
        path: PathBuf,
        bytes: u64,
    },
    /// A file that is removed once it is read.
    Upload(Upload),
}

impl WeightsFile {
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk { bytes, .. } => *bytes,
            Self::Upload(upload) => upload.bytes(),
        }
    }

    /// Reads and checks the weights; blocking.
    pub fn read(
        self,
        request: &HeadRequest,
        limits: &HeadLimits,
        throttle: &Throttle,
    ) -> Result<HeadWeights, HeadError> {
        match self {
            Self::Memory(bytes) => HeadWeights::from_bytes(bytes, request, limits),
            Self::Disk { path, .. } => HeadWeights::from_file(&path, request, limits, throttle),
            Self::Upload(mut upload) => HeadWeights::from_file(upload.whole()?, request, limits, throttle),
        }
    }
}

impl SourceSettings {
    /// Returns the file that a `file://` URI names, if it is below the source directory after links are resolved; blocking.
    pub(super) fn find(&self, uri: &str) -> Result<WeightsFile, ServiceError> {
        let Some(dir) = &self.dir else {
            return refused("this server reads no files; start it with --head-source-dir or send `file`".into());
        };
        let Some(path) = uri.strip_prefix("file://").filter(|path| path.starts_with('/')) else {
            return refused(format!(
                "`{uri}` is not a file URI; use file:///absolute/path.safetensors"
            ));
        };
        // A file outside and a missing file get the same answer, so that clients cannot probe the disk.
        let Some((real, bytes)) = below(dir, path) else {
            return refused(format!("there is no file {path} below the server's --head-source-dir"));
        };
        if bytes > self.bytes_max {
            let limit = self.bytes_max;
            return refused(format!(
                "{path} has {bytes} bytes; the limit is {limit} ({UPLOAD_BYTES_MAX})"
            ));
        }
        Ok(WeightsFile::Disk { path: real, bytes })
    }
}

fn refused(message: String) -> Result<WeightsFile, ServiceError> {
    Err(ServiceError::invalid("uri", message))
}

/// Returns the canonical path and the length of a file below a directory.
fn below(dir: &Path, path: &str) -> Option<(PathBuf, u64)> {
    let real = Path::new(path).canonicalize().ok()?;
    let metadata = real.metadata().ok()?;
    let inside = real.starts_with(dir.canonicalize().ok()?) && metadata.is_file();
    inside.then_some((real, metadata.len()))
}
