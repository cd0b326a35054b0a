//! `headswap head`.

mod list;
mod replace;

use clap::{Args, Subcommand};
use headswap_proto::{GetHeadRequest, HeadInfo, HeadTier};
use serde_json::{Value, json};

use self::list::ListArgs;
use self::replace::ReplaceArgs;
use crate::commands::address::AdminAddress;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, print_json, print_table, table};

#[derive(Debug, Subcommand)]
pub(super) enum HeadCommand {
    /// Make a new version of a head live
    #[command(after_help = replace::EXAMPLES)]
    Replace(ReplaceArgs),
    /// List the live heads
    #[command(after_help = list::EXAMPLES)]
    List(ListArgs),
    /// Show one version of a head
    Get(GetArgs),
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
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
        HeadCommand::Replace(args) => replace::run(args).await,
        HeadCommand::List(args) => list::run(args).await,
        HeadCommand::Get(args) => get(args).await,
    }
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
    rows.add_row(["split layer", &head.split_layer]);
    rows.add_row(["overrides", &head.parameters.join(" ")]);
    rows.add_row(["bytes", &bytes(head.resident_bytes)]);
    rows.add_row(["tier", tier(&head)]);
    rows.add_row(["requests", &head.requests.to_string()]);
    rows.add_row(["digest", &head.digest]);
    for (key, value) in &head.annotations {
        rows.add_row([key, value]);
    }
    print_table(&rows);
    Ok(())
}

pub(super) fn tier(head: &HeadInfo) -> &'static str {
    match head.tier() {
        HeadTier::Hot => "hot",
        HeadTier::Warm => "warm",
        HeadTier::Cold => "cold",
        HeadTier::Unspecified => "",
    }
}

pub(super) fn head_json(head: &HeadInfo) -> Value {
    json!({
        "head": head.head, "version": head.version, "live": head.live, "digest": head.digest,
        "classes": head.classes, "labels": head.labels, "annotations": head.annotations,
        "created_unix_us": head.created_unix_us, "resident_bytes": head.resident_bytes, "parameters": head.parameters,
        "split_layer": head.split_layer, "tier": tier(head), "requests": head.requests,
    })
}
