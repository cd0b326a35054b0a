//! `headswap head replace`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use headswap_client::{Admin, ClientError, Differing, HeadFile, read_labels, upload};
use headswap_proto::replace_head_request::Source;
use headswap_proto::{DescribeModelRequest, ReplaceHeadRequest, ReplaceHeadResponse, UploadHeadHeader};
use serde_json::json;

use super::head_json;
use crate::commands::address::AdminAddress;
use crate::commands::error::CliError;
use crate::commands::output::{WorkBar, bytes, ms, note, print_json, print_line, spinner};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap head replace cats cats.safetensors --labels cats.txt
  headswap head replace cats cats.safetensors --expected-version 3   only if 3 is live
  headswap head replace cats finetuned.pth                           a whole model: only what differs is sent
  headswap head replace cats cats.safetensors --dry-run              check it, change nothing
  headswap head replace cats file:///srv/heads/cats.safetensors      a file on the server

A local file is checked before anything is sent: its format and tensors (names, shapes, NaN and infinity) and its labels.";

/// A larger file is sent in pieces.
const ONE_MESSAGE_BYTES_MAX: u64 = 4 << 20;

#[derive(Args, Debug)]
pub(crate) struct ReplaceArgs {
    /// The head; it may be new
    name: String,
    /// A file of weights, safetensors or PyTorch's .pth: the last Linear, more layers, or a whole fine-tuned VGG16, of
    /// which only what differs from the backbone is sent; or a file:// URI on the server
    source: String,
    /// The class labels: UTF-8 text, a label on each line [default: those in the file's metadata]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Replace only if this version is live; 0 only if the head is new
    #[arg(long, value_name = "N")]
    expected_version: Option<u64>,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
    /// A note to keep with the version; may be given several times
    #[arg(long = "annotate", value_name = "KEY=VALUE", value_parser = annotation)]
    annotations: Vec<(String, String)>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: AdminAddress,
}

pub(super) async fn run(args: ReplaceArgs) -> Result<(), CliError> {
    let response = replace(&args).await?;
    let head = response.head.unwrap_or_default();
    if args.json {
        return print_json(&json!({
            "head": head_json(&head), "previous_version": response.previous_version, "dry_run": args.dry_run,
            "validate_us": response.validate_us, "place_us": response.place_us, "store_us": response.store_us,
            "sync_us": response.sync_us,
        }));
    }
    let (verb, previous) = (if args.dry_run { "would be" } else { "is" }, response.previous_version);
    print_line(format_args!(
        "{}@{} {verb} live (before: {previous}), {} classes",
        head.head, head.version, head.classes
    ))?;
    print_line(format_args!("digest   {}", head.digest))?;
    print_line(format_args!(
        "took     checking {}, placing {}, storing {} of which fsync {}",
        us(response.validate_us),
        us(response.place_us),
        us(response.store_us),
        us(response.sync_us)
    ))
}

async fn replace(args: &ReplaceArgs) -> Result<ReplaceHeadResponse, CliError> {
    let labels = match &args.labels {
        Some(path) => read_labels(path)?,
        None => Vec::new(),
    };
    let header = UploadHeadHeader {
        head: args.name.clone(),
        labels,
        expected_version: args.expected_version,
        dry_run: args.dry_run,
        annotations: HashMap::from_iter(args.annotations.clone()),
        ..UploadHeadHeader::default()
    };
    if args.source.contains("://") {
        let client = args.address.connect().await?;
        return in_one_message(client, header, Source::Uri(args.source.clone())).await;
    }
    // Everything that can be wrong with the file itself is known before there is a connection.
    let checking = WorkBar::units("checking the file");
    let mut whole = HeadFile::open(Path::new(&args.source), &header.labels, &checking)?;
    let mut client = args.address.connect().await?;
    let model = client.describe_model(DescribeModelRequest::default()).await?;
    let parameters = model.into_inner().parameters;
    whole.check_shapes(&parameters)?;
    let differing = whole.differing(&parameters)?;
    let path = match &differing {
        Some(differing) => {
            report(differing);
            differing.file.path()
        }
        None => whole.path(),
    };
    send(client, header, path).await
}

/// Sends a file that was checked, in one message or in pieces.
async fn send(mut client: Admin, header: UploadHeadHeader, path: &Path) -> Result<ReplaceHeadResponse, CliError> {
    let metadata = std::fs::metadata(path).map_err(|error| ClientError::unreadable(path, error))?;
    if metadata.len() > ONE_MESSAGE_BYTES_MAX {
        let progress = Arc::new(WorkBar::bytes("uploading"));
        return Ok(upload(&mut client, header, path, progress).await?);
    }
    let file = std::fs::read(path).map_err(|error| ClientError::unreadable(path, error))?;
    in_one_message(client, header, Source::Safetensors(file.into())).await
}

fn us(us: u64) -> String {
    ms(Duration::from_micros(us))
}

fn report(differing: &Differing) {
    note(format_args!(
        "{} of {} tensors differ from the backbone: {}; {} to send",
        differing.names.len(),
        differing.names.len() + differing.same,
        differing.names.join(" "),
        bytes(differing.bytes)
    ));
}

async fn in_one_message(
    mut client: Admin,
    header: UploadHeadHeader,
    source: Source,
) -> Result<ReplaceHeadResponse, CliError> {
    let request = ReplaceHeadRequest {
        head: header.head,
        source: Some(source),
        labels: header.labels,
        expected_version: header.expected_version,
        dry_run: header.dry_run,
        annotations: header.annotations,
    };
    let spinner = spinner("uploading and checking");
    let response = client.replace_head(request).await;
    spinner.finish_and_clear();
    Ok(response?.into_inner())
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
