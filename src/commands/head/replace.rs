//! `headswap head replace`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use headswap_client::{Admin, ClientError, Differing, differing, upload};
use headswap_proto::replace_head_request::Source;
use headswap_proto::{ReplaceHeadRequest, ReplaceHeadResponse, UploadHeadHeader};
use serde_json::json;

use super::head_json;
use crate::commands::address::AdminAddress;
use crate::commands::error::CliError;
use crate::commands::output::{WorkBar, bytes, ms, print_json, spinner};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap head replace cats cats.safetensors --labels cats.txt
  headswap head replace cats cats.safetensors --expected-version 3   only if 3 is live
  headswap head replace cats finetuned.pth                           a whole model: only what differs is sent
  headswap head replace cats cats.safetensors --dry-run              check it, change nothing
  headswap head replace cats file:///srv/heads/cats.safetensors      a file on the server";

/// A larger file is sent in pieces.
const ONE_MESSAGE_BYTES_MAX: u64 = 4 << 20;

#[derive(Args, Debug)]
pub(crate) struct ReplaceArgs {
    /// The head; it may be new
    name: String,
    /// A file of weights, safetensors or PyTorch's .pth: the last Linear, more layers, or a whole fine-tuned VGG16, of
    /// which only what differs from the backbone is sent; or a file:// URI on the server
    source: String,
    /// The class labels, one on a line
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
        print_json(&json!({
            "head": head_json(&head), "previous_version": response.previous_version, "dry_run": args.dry_run,
            "validate_us": response.validate_us, "place_us": response.place_us, "store_us": response.store_us,
            "sync_us": response.sync_us,
        }));
        return Ok(());
    }
    let us = |us| ms(Duration::from_micros(us));
    let (verb, previous) = (if args.dry_run { "would be" } else { "is" }, response.previous_version);
    println!(
        "{}@{} {verb} live (before: {previous}), {} classes",
        head.head, head.version, head.classes
    );
    println!("digest   {}", head.digest);
    println!(
        "took     checking {}, placing {}, storing {} of which fsync {}",
        us(response.validate_us),
        us(response.place_us),
        us(response.store_us),
        us(response.sync_us)
    );
    Ok(())
}

async fn replace(args: &ReplaceArgs) -> Result<ReplaceHeadResponse, CliError> {
    let labels = match &args.labels {
        Some(path) => std::fs::read_to_string(path).map_err(|error| ClientError::unreadable(path, error))?,
        None => String::new(),
    };
    let header = UploadHeadHeader {
        head: args.name.clone(),
        labels: labels.lines().map(str::to_owned).collect(),
        expected_version: args.expected_version,
        dry_run: args.dry_run,
        annotations: HashMap::from_iter(args.annotations.clone()),
        ..UploadHeadHeader::default()
    };
    if args.source.contains("://") {
        let client = args.address.connect().await?;
        return in_one_message(client, header, Source::Uri(args.source.clone())).await;
    }
    let whole = Path::new(&args.source);
    // Whether the file can be used at all is known before there is a connection.
    std::fs::metadata(whole).map_err(|error| ClientError::unreadable(whole, error))?;
    let mut client = args.address.connect().await?;
    let comparing = WorkBar::units("comparing with the backbone");
    let differing = differing(&mut client, whole, &comparing).await?;
    let path = match &differing {
        Some(differing) => {
            report(differing);
            differing.file.path()
        }
        None => whole,
    };
    let length = std::fs::metadata(path)
        .map_err(|error| ClientError::unreadable(path, error))?
        .len();
    if length > ONE_MESSAGE_BYTES_MAX {
        let progress = Arc::new(WorkBar::bytes("uploading"));
        return Ok(upload(&mut client, header, path, progress).await?);
    }
    let file = std::fs::read(path).map_err(|error| ClientError::unreadable(path, error))?;
    in_one_message(client, header, Source::Safetensors(file.into())).await
}

fn report(differing: &Differing) {
    eprintln!(
        "{} of {} tensors differ from the backbone: {}; {} to send",
        differing.names.len(),
        differing.names.len() + differing.same,
        differing.names.join(" "),
        bytes(differing.bytes)
    );
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
