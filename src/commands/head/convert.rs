//! `headswap head convert`.

use std::io;
use std::path::PathBuf;

use clap::Args;
use headswap_client::HeadFile;

use super::print_report;
use super::spec_args::SpecArgs;
use crate::commands::error::CliError;
use crate::commands::new_file::NewFile;
use crate::commands::output::{bytes, print_line, spinner};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap head convert finetuned.pth cats.safetensors --preprocessing torchvision \\
      --output softmax --labels cats.txt
  headswap head replace cats cats.safetensors       needs no flags: the spec is in the file

The file has the head's layers with batch norms folded in, the other parameters of VGG16 that the
input has, and the spec under the key headswap.spec of its metadata. It appears whole or not at all.";

#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// The file to read: safetensors, or what PyTorch saved
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// The safetensors file to write
    #[arg(value_name = "OUT.safetensors")]
    to: PathBuf,
    #[command(flatten)]
    spec: SpecArgs,
}

pub(super) fn run(args: &ConvertArgs) -> Result<(), CliError> {
    let given = args.spec.given()?;
    let reading = spinner("reading the file");
    let read = HeadFile::open(&args.from, &given);
    reading.finish_and_clear();
    let head = read?;
    print_report(head.report());
    let cannot_write = |error: io::Error| CliError::Failed(format!("cannot write {}: {error}", args.to.display()));
    let mut file = NewFile::create(&args.to).map_err(cannot_write)?;
    let writing = spinner("writing the file");
    let written = head.write_to(&mut file).and_then(|()| file.finish());
    writing.finish_and_clear();
    written.map_err(cannot_write)?;
    let length = args.to.metadata()?.len();
    print_line(format_args!("{}: {}", args.to.display(), bytes(length)))
}
