//! `headswap head replace`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::client::{Admin, AdminAddress};
use super::differing::differing;
use super::error::CliError;
use super::head::head_json;
use super::output::{ms, print_json, spinner};
use super::upload::upload;
use crate::rpc::pb::replace_head_request::Source;
use crate::rpc::pb::{ReplaceHeadRequest, ReplaceHeadResponse, UploadHeadHeader};

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
pub(super) struct ReplaceArgs {
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
        Some(path) => std::fs::read_to_string(path).map_err(|error| unreadable(&path.display().to_string(), error))?,
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
    let unreadable = |error| unreadable(&args.source, error);
    std::fs::metadata(&args.source).map_err(unreadable)?;
    let mut client = args.address.connect().await?;
    let differing = differing(&mut client, &args.source).await?;
    let path = differing.as_ref().map_or(Path::new(&args.source), |file| file.path());
    if std::fs::metadata(path).map_err(unreadable)?.len() > ONE_MESSAGE_BYTES_MAX {
        return upload(client, header, path.display().to_string()).await;
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    in_one_message(client, header, Source::Safetensors(bytes.into())).await
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

pub(super) fn unreadable(path: &str, source: std::io::Error) -> CliError {
    CliError::Read {
        path: path.to_owned(),
        source,
    }
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
