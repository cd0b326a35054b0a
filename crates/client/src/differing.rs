//! Of a head's file, what the server's backbone does not have already.

use std::io::{BufWriter, Write as _};

use headswap_checkpoint::{ConvertError, StoredDtype, safetensors_bytes, write_safetensors};
use headswap_proto::Parameter;
use tempfile::NamedTempFile;

use super::error::ClientError;
use super::head_file::{HeadFile, unusable};

/// The tensors of a head's file that a server lacks.
#[derive(Debug)]
pub struct Differing {
    /// A safetensors file of them, removed when this is dropped.
    pub file: NamedTempFile,
    /// Their names.
    pub names: Vec<String>,
    /// Their bytes in the file.
    pub bytes: u64,
    /// How many tensors the backbone has already.
    pub same: usize,
}

impl HeadFile {
    /// Writes the last Linear and the tensors that differ from the server's, `parameters`, to a file of their own. Returns
    /// None if the whole file is to be sent.
    ///
    /// # Errors
    /// [`ClientError::Read`] or [`ClientError::Checkpoint`] if the file has changed since it was opened, and
    /// [`ClientError::Io`] if there is no place for another.
    pub fn differing(&mut self, parameters: &[Parameter]) -> Result<Option<Differing>, ClientError> {
        let same = self.leave_out_same(parameters);
        if same == 0 {
            return Ok(None);
        }
        let checkpoint = self.checkpoint();
        Ok(Some(Differing {
            file: self.write()?,
            names: checkpoint.tensors().map(|entry| entry.name.clone()).collect(),
            bytes: safetensors_bytes(checkpoint, StoredDtype::F32),
            same,
        }))
    }

    fn write(&self) -> Result<NamedTempFile, ClientError> {
        let mut file = NamedTempFile::new()?;
        let mut out = BufWriter::new(file.as_file_mut());
        match write_safetensors(self.checkpoint(), StoredDtype::F32, &mut out, |_| {}) {
            Ok(()) => {}
            Err(ConvertError::Write(error)) => return Err(ClientError::Io(error)),
            Err(ConvertError::Checkpoint(error)) => return Err(unusable(self.path(), error)),
            Err(error) => return Err(ClientError::Failed(format!("{}: {error}", self.path().display()))),
        }
        out.flush()?;
        drop(out);
        Ok(file)
    }
}
