//! `headswap head get`.

use clap::Args;
use headswap_checkpoint::excerpt;
use headswap_proto::{GetHeadRequest, GetHeadResponse};
use serde_json::json;

use super::{annotations, head_json, labels_summary, tier};
use crate::commands::address::AdminAddress;
use crate::commands::date::rfc3339;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, print_json, print_line, print_table, table};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap head get cats
  headswap head get cats --version 3 --labels        with every label, by class
  headswap head get cats --json | jq -r .head.labels[]";

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// The head
    name: String,
    /// The version; 0 is the live one
    #[arg(long, default_value_t = 0)]
    version: u64,
    /// Show every label, not only how many and the first few; --json has them all
    #[arg(long)]
    labels: bool,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: AdminAddress,
}

pub(super) async fn run(args: GetArgs) -> Result<(), CliError> {
    let request = GetHeadRequest {
        head: args.name,
        version: args.version,
    };
    let response = args.address.connect().await?.get_head(request).await?.into_inner();
    if args.json {
        let head = response.head.unwrap_or_default();
        return print_json(&json!({ "head": head_json(&head), "available_versions": response.available_versions }));
    }
    show(&response)?;
    match response.head {
        Some(head) if args.labels && !head.labels.is_empty() => show_labels(&head.labels),
        _ => Ok(()),
    }
}

fn show(response: &GetHeadResponse) -> Result<(), CliError> {
    let head = response.head.clone().unwrap_or_default();
    let live = if head.live { " (live)" } else { "" };
    let mut rows = table(&["", ""]);
    for (name, value) in [
        ("head", head.head.clone()),
        ("version", format!("{}{live}", head.version)),
        ("available", format!("{:?}", response.available_versions)),
        ("created", rfc3339(head.created_unix_us)),
        ("classes", head.classes.to_string()),
        ("labels", labels_summary(&head.labels)),
        ("spec", excerpt_of_spec(&head.spec_json)),
        ("assumed", assumed(&head.assumed)),
        ("backbone", head.backbone.clone()),
        ("split layer", head.split_layer.clone()),
        ("overrides", head.parameters.join(" ")),
        ("bytes", bytes(head.resident_bytes)),
        ("tier", tier(&head).to_owned()),
        ("requests", head.requests.to_string()),
        ("digest", head.digest.clone()),
    ] {
        rows.add_row([name, &value]);
    }
    for (key, value) in annotations(&head) {
        rows.add_row([key, value]);
    }
    print_table(&rows)
}

/// The spec's JSON. It has no labels, so that it is short.
fn excerpt_of_spec(json: &str) -> String {
    json.chars().filter(|char| !char.is_control()).collect()
}

fn assumed(assumed: &[String]) -> String {
    match assumed.len() {
        0 => "nothing".to_owned(),
        _ => assumed.iter().map(|line| excerpt(line)).collect::<Vec<_>>().join("; "),
    }
}

fn show_labels(labels: &[String]) -> Result<(), CliError> {
    let mut rows = table(&["class", "label"]);
    for (class, label) in labels.iter().enumerate() {
        rows.add_row([class.to_string(), excerpt(label)]);
    }
    print_line("")?;
    print_table(&rows)
}
