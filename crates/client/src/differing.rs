//! Of a fine-tuned checkpoint, what the server's backbone does not have already.

use std::collections::HashMap;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use headswap_checkpoint::{
    Checkpoint, CheckpointError, ConvertError, StoredDtype, safetensors_bytes, write_safetensors,
};
use headswap_proto::DescribeModelRequest;
use tempfile::NamedTempFile;

use super::connect::Admin;
use super::error::ClientError;
use super::progress::Progress;

/// The tensors of a checkpoint that a server lacks.
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

/// Compares a checkpoint's tensors with the backbone's, and writes the last Linear and those that differ to a file of their
/// own. Returns None if the whole checkpoint is to be sent.
///
/// # Errors
/// [`ClientError::Read`] or [`ClientError::Checkpoint`] if the file cannot be used, before anything is sent;
/// [`ClientError::Refused`] if the server does not describe its backbone.
pub async fn differing(
    client: &mut Admin,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Option<Differing>, ClientError> {
    let mut checkpoint = Checkpoint::open(path).map_err(|error| unusable(path, error))?;
    if checkpoint.tensors().all(|entry| is_last(&entry.name)) {
        return Ok(None);
    }
    let model = client
        .describe_model(DescribeModelRequest::default())
        .await?
        .into_inner();
    let mut backbone = HashMap::new();
    for parameter in model.parameters {
        backbone.insert(parameter.name, parameter.digest);
    }

    progress.start(checkpoint.tensors().count() as u64);
    let mut same = Vec::new();
    for entry in checkpoint.tensors() {
        let digest = checkpoint.read(entry).map_err(|error| unusable(path, error))?.digest();
        if !is_last(&entry.name) && backbone.get(&entry.name) == Some(&digest.to_string()) {
            same.push(entry.name.clone());
        }
        progress.advance(1);
    }
    progress.finish();
    if same.is_empty() {
        return Ok(None);
    }
    checkpoint.leave_out(&same);
    Ok(Some(Differing {
        file: write(&checkpoint, path)?,
        names: checkpoint.tensors().map(|entry| entry.name.clone()).collect(),
        bytes: safetensors_bytes(&checkpoint, StoredDtype::F32),
        same: same.len(),
    }))
}

/// The last Linear, under its full or its short names, is always sent.
fn is_last(name: &str) -> bool {
    name.starts_with("classifier.6.") || !name.contains('.')
}

fn write(checkpoint: &Checkpoint, path: &Path) -> Result<NamedTempFile, ClientError> {
    let mut file = NamedTempFile::new()?;
    let mut out = BufWriter::new(file.as_file_mut());
    match write_safetensors(checkpoint, StoredDtype::F32, &mut out, |_| {}) {
        Ok(()) => {}
        Err(ConvertError::Write(error)) => return Err(ClientError::Io(error)),
        Err(ConvertError::Checkpoint(error)) => return Err(unusable(path, error)),
        Err(error) => return Err(ClientError::Failed(format!("{}: {error}", path.display()))),
    }
    out.flush()?;
    drop(out);
    Ok(file)
}

fn unusable(path: &Path, error: CheckpointError) -> ClientError {
    match error {
        CheckpointError::Read(source) => ClientError::unreadable(path, source),
        source => ClientError::Checkpoint {
            path: path.to_owned(),
            source,
        },
    }
}
