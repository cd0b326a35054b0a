//! Of a fine-tuned checkpoint, what the server's backbone does not have already.

use std::collections::HashMap;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use tempfile::NamedTempFile;

use super::client::Admin;
use super::error::CliError;
use super::output::{bytes, progress};
use crate::model::{Checkpoint, CheckpointError, ConvertError, StoredDtype, safetensors_bytes, write_safetensors};
use crate::rpc::pb::DescribeModelRequest;

/// A file with the last Linear and the tensors that differ from the backbone's; none if all of `path` is
/// to be sent.
pub(super) async fn differing(client: &mut Admin, path: &str) -> Result<Option<NamedTempFile>, CliError> {
    let opened = Checkpoint::open(Path::new(path));
    let mut checkpoint = match opened {
        Ok(checkpoint) => checkpoint,
        Err(CheckpointError::Read(source)) => return Err(super::head_replace::unreadable(path, source)),
        // The server's refusal says what is wrong, in the same words for every client.
        Err(_) => return Ok(None),
    };
    let is_last = |name: &str| name.starts_with("classifier.6.") || !name.contains('.');
    if checkpoint.tensors().all(|entry| is_last(&entry.name)) {
        return Ok(None);
    }
    let model = client
        .describe_model(DescribeModelRequest::default())
        .await?
        .into_inner();
    let backbone: HashMap<String, String> = model
        .parameters
        .into_iter()
        .map(|parameter| (parameter.name, parameter.digest))
        .collect();

    let failed = |error: &dyn std::fmt::Display| CliError::Failed(format!("{path}: {error}"));
    let bar = progress(checkpoint.tensors().count() as u64, "comparing with the backbone");
    let mut same = Vec::new();
    for entry in checkpoint.tensors() {
        let digest = checkpoint.read(entry).map_err(|error| failed(&error))?.digest();
        if !is_last(&entry.name) && backbone.get(&entry.name) == Some(&digest.to_string()) {
            same.push(entry.name.clone());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if same.is_empty() {
        return Ok(None);
    }
    checkpoint.leave_out(&same);

    let mut file = NamedTempFile::new()?;
    let mut out = BufWriter::new(file.as_file_mut());
    write_safetensors(&checkpoint, StoredDtype::F32, &mut out, |_| {}).map_err(|error| match error {
        ConvertError::Write(error) => CliError::Io(error),
        error => failed(&error),
    })?;
    out.flush()?;
    drop(out);
    let kept: Vec<&str> = checkpoint.tensors().map(|entry| entry.name.as_str()).collect();
    eprintln!(
        "{} of {} tensors differ from the backbone: {}; {} to send",
        kept.len(),
        kept.len() + same.len(),
        kept.join(" "),
        bytes(safetensors_bytes(&checkpoint, StoredDtype::F32))
    );
    Ok(Some(file))
}
