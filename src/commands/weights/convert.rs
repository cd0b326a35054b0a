//! `headswap weights convert`.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;

use clap::Args;
use headswap_checkpoint::{Checkpoint, ConvertError, StoredDtype, safetensors_bytes, write_safetensors};

use crate::commands::error::CliError;
use crate::commands::new_file::NewFile;
use crate::commands::output::{byte_progress, bytes, print_line};

/// Writes a file of weights as safetensors with torchvision's names and shapes, one tensor at a time.
#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// The file to read: safetensors, PyTorch's, Keras's or ONNX
    input: PathBuf,
    /// The safetensors file to write; it appears whole or not at all
    output: PathBuf,
    /// Element type to write
    #[arg(long, value_enum, default_value = "f32")]
    dtype: StoredDtype,
}

pub(super) fn run(args: &ConvertArgs) -> Result<(), CliError> {
    let checkpoint = Checkpoint::open(&args.input).map_err(|error| args.reading(&error))?;
    let length = safetensors_bytes(&checkpoint, args.dtype);
    let bar = byte_progress(length, "converting");
    let mut file = NewFile::create(&args.output).map_err(|error| args.writing(&error))?;
    let converted = write_safetensors(&checkpoint, args.dtype, &mut file, |written| bar.inc(written));
    bar.finish_and_clear();
    converted.map_err(|error| match error {
        ConvertError::Write(error) => args.writing(&error),
        error => args.reading(&error),
    })?;
    file.finish().map_err(|error| args.writing(&error))?;
    let tensors = checkpoint.tensors().count();
    let output = args.output.display();
    print_line(format_args!("{output}: {tensors} tensors, {}", bytes(length)))
}

impl ConvertArgs {
    fn reading(&self, error: &dyn Display) -> CliError {
        CliError::Failed(format!("{}: {error}", self.input.display()))
    }

    fn writing(&self, error: &io::Error) -> CliError {
        CliError::Failed(format!("cannot write {}: {error}", self.output.display()))
    }
}
