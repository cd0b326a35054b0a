//! `headswap head`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::AdminAddress;
use super::error::CliError;
use super::output::{bytes, ms, print_json, print_table, spinner, table};
use crate::rpc::pb::replace_head_request::Source;
use crate::rpc::pb::{GetHeadRequest, HeadInfo, ListHeadsRequest, ReplaceHeadRequest};

const REPLACE_EXAMPLES: &str = "\
Examples:
  headswap head replace cats cats.safetensors --labels cats.txt
  headswap head replace cats cats.safetensors --expected-version 3   only if 3 is live
  headswap head replace cats cats.safetensors --dry-run              check it, change nothing
  headswap head replace cats file:///srv/heads/cats.safetensors      a file on the server";

#[derive(Debug, Subcommand)]
pub(super) enum HeadCommand {
    /// Make a new version of a head live
    #[command(after_help = REPLACE_EXAMPLES)]
    Replace(ReplaceArgs),
    /// List the live heads
    List(ListArgs),
    /// Show one version of a head
    Get(GetArgs),
}

#[derive(Args, Debug)]
pub(super) struct ReplaceArgs {
    /// The head; it may be new
    name: String,
    /// A safetensors file with classifier.6.weight and .bias, or a file:// URI on the server
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

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: AdminAddress,
}

#[derive(Args, Debug)]
pub(super) struct GetArgs {
    /// The head
    name: String,
    /// The version; 0 is the live one
    #[arg(long, default_value_t = 0)]
    version: u64,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: AdminAddress,
}

pub(super) async fn run(command: HeadCommand) -> Result<(), CliError> {
    match command {
        HeadCommand::Replace(args) => replace(args).await,
        HeadCommand::List(args) => list(args).await,
        HeadCommand::Get(args) => get(args).await,
    }
}

async fn replace(args: ReplaceArgs) -> Result<(), CliError> {
    let read = |path: &str, source| CliError::Read {
        path: path.to_owned(),
        source,
    };
    let source = if args.source.contains("://") {
        Source::Uri(args.source.clone())
    } else {
        Source::Safetensors(
            std::fs::read(&args.source)
                .map_err(|error| read(&args.source, error))?
                .into(),
        )
    };
    let labels = match &args.labels {
        Some(path) => std::fs::read_to_string(path).map_err(|error| read(&path.display().to_string(), error))?,
        None => String::new(),
    };
    let request = ReplaceHeadRequest {
        head: args.name,
        source: Some(source),
        labels: labels.lines().map(str::to_owned).collect(),
        expected_version: args.expected_version,
        dry_run: args.dry_run,
        annotations: HashMap::from_iter(args.annotations),
    };
    let mut client = args.address.connect().await?;
    let spinner = spinner("uploading and checking");
    let response = client.replace_head(request).await;
    spinner.finish_and_clear();
    let response = response?.into_inner();

    let head = response.head.unwrap_or_default();
    if args.json {
        print_json(&json!({
            "head": head_json(&head), "previous_version": response.previous_version, "dry_run": args.dry_run,
            "validate_us": response.validate_us, "place_us": response.place_us, "store_us": response.store_us,
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
        "took     checking {}, placing {}, storing {}",
        us(response.validate_us),
        us(response.place_us),
        us(response.store_us)
    );
    Ok(())
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let request = ListHeadsRequest {
        include_labels: args.json,
    };
    let heads = args
        .address
        .connect()
        .await?
        .list_heads(request)
        .await?
        .into_inner()
        .heads;
    if args.json {
        print_json(&heads.iter().map(head_json).collect());
        return Ok(());
    }
    let mut rows = table(&["head", "version", "classes", "bytes", "digest", "annotations"]);
    for head in &heads {
        let mut notes: Vec<String> = head
            .annotations
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        notes.sort();
        let (version, classes) = (head.version.to_string(), head.classes.to_string());
        rows.add_row([
            &head.head,
            &version,
            &classes,
            &bytes(head.resident_bytes),
            &head.digest[..12],
            &notes.join(" "),
        ]);
    }
    print_table(&rows);
    Ok(())
}

async fn get(args: GetArgs) -> Result<(), CliError> {
    let request = GetHeadRequest {
        head: args.name,
        version: args.version,
    };
    let response = args.address.connect().await?.get_head(request).await?.into_inner();
    let head = response.head.unwrap_or_default();
    if args.json {
        print_json(&json!({ "head": head_json(&head), "available_versions": response.available_versions }));
        return Ok(());
    }
    let mut rows = table(&["", ""]);
    rows.add_row(["head", &head.head]);
    rows.add_row([
        "version",
        &format!("{}{}", head.version, if head.live { " (live)" } else { "" }),
    ]);
    rows.add_row(["available", &format!("{:?}", response.available_versions)]);
    rows.add_row(["classes", &head.classes.to_string()]);
    rows.add_row(["bytes", &bytes(head.resident_bytes)]);
    rows.add_row(["overrides", &head.parameters.join(" ")]);
    rows.add_row(["digest", &head.digest]);
    for (key, value) in &head.annotations {
        rows.add_row([key, value]);
    }
    print_table(&rows);
    Ok(())
}

fn head_json(head: &HeadInfo) -> Value {
    json!({
        "head": head.head, "version": head.version, "live": head.live, "digest": head.digest,
        "classes": head.classes, "labels": head.labels, "annotations": head.annotations,
        "created_unix_us": head.created_unix_us, "resident_bytes": head.resident_bytes, "parameters": head.parameters,
    })
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
