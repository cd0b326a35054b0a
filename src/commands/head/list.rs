//! `headswap head list`.

use clap::{Args, ValueEnum};
use headswap_proto::{HeadInfo, HeadTier, ListHeadsRequest};
use serde_json::{Value, json};

use super::{annotations, head_json, labels_summary, tier};
use crate::commands::address::AdminAddress;
use crate::commands::date::rfc3339;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, print_json, print_line, print_table, table};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap head list                          every head
  headswap head list --prefix shop- --json    those whose names begin with shop-
  headswap head list --tier hot --limit 20    the first 20 of those on the device
  headswap head list --labels                 with how many labels each has, and the first few

Bytes are those of the tensors on the device, in f32. The last line has the totals of the heads that
are listed.";

/// As many as the server gives at once.
const PAGE_SIZE: u32 = 1000;

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only heads whose names begin with this text
    #[arg(long, default_value = "", value_name = "TEXT")]
    prefix: String,
    /// Only heads whose live version is in this tier: hot (device), warm (host memory) or cold (store)
    #[arg(long, value_enum)]
    tier: Option<TierArg>,
    /// List at most this many heads
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// A column of labels: how many, and the first few; --json has them all
    #[arg(long)]
    labels: bool,
    /// One JSON object instead of a table: the heads and their totals
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
    let listed = Listed::fetch(&args).await?;
    if args.json {
        print_json(&listed.json())
    } else {
        listed.print(args.labels)
    }
}

/// Some of the heads that match, and how many match.
#[derive(Default)]
struct Listed {
    heads: Vec<HeadInfo>,
    total: u64,
}

impl Listed {
    /// Fetches all pages, or as many as the limit asks for.
    async fn fetch(args: &ListArgs) -> Result<Self, CliError> {
        let mut client = args.address.connect().await?;
        let limit = args.limit.unwrap_or(usize::MAX);
        let (mut listed, mut page_token) = (Self::default(), String::new());
        loop {
            let left = u32::try_from(limit - listed.heads.len()).unwrap_or(u32::MAX);
            let request = ListHeadsRequest {
                include_labels: args.json || args.labels,
                // A page of 0 would be one of the default size; the total comes with any page.
                page_size: PAGE_SIZE.min(left).max(1),
                page_token,
                name_prefix: args.prefix.clone(),
                tier: args.tier.map_or(HeadTier::Unspecified, HeadTier::from).into(),
            };
            let page = client.list_heads(request).await?.into_inner();
            listed.total = page.total_size;
            listed.heads.extend(page.heads.into_iter().take(left as usize));
            page_token = page.next_page_token;
            if page_token.is_empty() || listed.heads.len() >= limit {
                return Ok(listed);
            }
        }
    }

    /// Of the heads that are listed.
    fn bytes(&self) -> u64 {
        self.heads.iter().map(|head| head.resident_bytes).sum()
    }

    fn json(&self) -> Value {
        json!({
            "heads": self.heads.iter().map(head_json).collect::<Vec<_>>(),
            "listed": { "heads": self.heads.len(), "resident_bytes": self.bytes() },
            "total_heads": self.total,
        })
    }

    fn print(&self, labels: bool) -> Result<(), CliError> {
        let mut headings = vec!["head", "version", "classes"];
        if labels {
            headings.push("labels");
        }
        let many_backbones = self.heads.windows(2).any(|pair| pair[0].backbone != pair[1].backbone);
        if many_backbones {
            headings.push("backbone");
        }
        headings.extend([
            "split layer",
            "bytes",
            "tier",
            "requests",
            "created",
            "digest",
            "annotations",
        ]);
        let mut rows = table(&headings);
        for head in &self.heads {
            let mut row = vec![head.head.clone(), head.version.to_string(), head.classes.to_string()];
            if labels {
                row.push(labels_summary(&head.labels));
            }
            if many_backbones {
                row.push(head.backbone.clone());
            }
            let mut notes = Vec::new();
            for (key, value) in annotations(head) {
                notes.push(format!("{key}={value}"));
            }
            row.extend([
                head.split_layer.clone(),
                bytes(head.resident_bytes),
                tier(head).to_owned(),
                head.requests.to_string(),
                rfc3339(head.created_unix_us),
                head.digest.chars().take(12).collect(),
                notes.join(" "),
            ]);
            rows.add_row(row);
        }
        print_table(&rows)?;
        let (listed, total) = (self.heads.len() as u64, self.total);
        let of_all = if listed < total {
            format!(" of {total}")
        } else {
            String::new()
        };
        print_line(format_args!(
            "\n{listed}{of_all} {}, {}",
            if total == 1 { "head" } else { "heads" },
            bytes(self.bytes())
        ))
    }
}
