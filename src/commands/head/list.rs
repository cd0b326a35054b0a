//! `headswap head list`.

use clap::{Args, ValueEnum};
use headswap_proto::{HeadInfo, HeadTier, ListHeadsRequest};

use super::{head_json, tier};
use crate::commands::address::AdminAddress;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, print_json, print_table, table};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap head list                          every head
  headswap head list --prefix shop- --json    those whose names begin like this
  headswap head list --tier hot --limit 20    the first 20 of those on the device";

/// As many as the server gives at once.
const PAGE_SIZE: u32 = 1000;

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only heads whose names begin like this
    #[arg(long, default_value = "", value_name = "TEXT")]
    prefix: String,
    /// Only heads whose live version is there: hot on the device, warm in host memory, cold in the store
    #[arg(long, value_enum)]
    tier: Option<TierArg>,
    /// Stop after so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: AdminAddress,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TierArg {
    Hot,
    Warm,
    Cold,
}

impl From<TierArg> for HeadTier {
    fn from(tier: TierArg) -> Self {
        match tier {
            TierArg::Hot => Self::Hot,
            TierArg::Warm => Self::Warm,
            TierArg::Cold => Self::Cold,
        }
    }
}

pub(super) async fn run(args: ListArgs) -> Result<(), CliError> {
    let heads = heads(&args).await?;
    if args.json {
        print_json(&heads.iter().map(head_json).collect());
        return Ok(());
    }
    let mut rows = table(&[
        "head",
        "version",
        "classes",
        "split layer",
        "bytes",
        "tier",
        "requests",
        "digest",
        "annotations",
    ]);
    for head in &heads {
        let notes = head.annotations.iter();
        let mut notes: Vec<String> = notes.map(|(key, value)| format!("{key}={value}")).collect();
        notes.sort();
        rows.add_row([
            &head.head,
            &head.version.to_string(),
            &head.classes.to_string(),
            &head.split_layer,
            &bytes(head.resident_bytes),
            tier(head),
            &head.requests.to_string(),
            &head.digest[..12.min(head.digest.len())],
            &notes.join(" "),
        ]);
    }
    print_table(&rows);
    Ok(())
}

/// All pages, or as many as the limit asks for.
async fn heads(args: &ListArgs) -> Result<Vec<HeadInfo>, CliError> {
    let mut client = args.address.connect().await?;
    let limit = args.limit.unwrap_or(usize::MAX);
    let (mut heads, mut page_token) = (Vec::new(), String::new());
    while heads.len() < limit {
        let left = u32::try_from(limit - heads.len()).unwrap_or(u32::MAX);
        let request = ListHeadsRequest {
            include_labels: args.json,
            page_size: PAGE_SIZE.min(left),
            page_token,
            name_prefix: args.prefix.clone(),
            tier: args.tier.map_or(HeadTier::Unspecified, HeadTier::from).into(),
        };
        let page = client.list_heads(request).await?.into_inner();
        heads.extend(page.heads);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(heads)
}
