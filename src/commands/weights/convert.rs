//! `headswap weights convert`.

use std::path::PathBuf;

use clap::Args;
use headswap_checkpoint::{Checkpoint, ConvertError, StoredDtype, safetensors_bytes, write_safetensors};

use super::new_file::NewFile;
use crate::commands::error::CliError;
use crate::commands::output::{byte_progress, bytes};

/// Writes a file of weights as safetensors with torchvision's names and shapes, one tensor at a time.
#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// The file to read: safetensors or PyTorch's .pth
    input: PathBuf,
    /// The safetensors file to write; it appears whole or not at all
    output: PathBuf,
    /// Element type to write
    #[arg(long, value_enum, default_value = "f32")]
    dtype: StoredDtype,
}

pub(super) fn run(args: &ConvertArgs) -> Result<(), CliError> {
    let reading = |error: &dyn std::fmt::Display| CliError::Failed(format!("{}: {error}", args.input.display()));
    let writing = |error: std::io::Error| CliError::Failed(format!("cannot write {}: {error}", args.output.display()));
    let checkpoint = Checkpoint::open(&args.input).map_err(|error| reading(&error))?;
    let length = safetensors_bytes(&checkpoint, args.dtype);
    let bar = byte_progress(length, "converting");
    let mut file = NewFile::create(&args.output).map_err(writing)?;
    let converted = write_safetensors(&checkpoint, args.dtype, &mut file, |written| bar.inc(written));
    bar.finish_and_clear();
    converted.map_err(|error| match error {
        ConvertError::Write(error) => writing(error),
        error => reading(&error),
    })?;
    file.finish().map_err(writing)?;
    let tensors = checkpoint.tensors().count();
    println!("{}: {tensors} tensors, {}", args.output.display(), bytes(length));
    Ok(())
}
