//! `headswap head`.

mod convert;
mod doctor;
mod get;
mod inspect;
mod list;
mod replace;
mod spec_args;
mod target;

use clap::Subcommand;
use headswap_checkpoint::{HeadReport, excerpt};
use headswap_model::{BackendSettings, TorchRuntime};
use headswap_proto::{HeadInfo, HeadTier};
use serde_json::{Value, json};

use self::convert::ConvertArgs;
use self::doctor::DoctorArgs;
use self::get::GetArgs;
use self::inspect::InspectArgs;
use self::list::ListArgs;
use self::replace::ReplaceArgs;
use crate::commands::date::rfc3339;
use crate::commands::error::CliError;
use crate::commands::output::note;

#[derive(Debug, Subcommand)]
pub(super) enum HeadCommand {
    /// Make a new version of a head live
    #[command(after_help = replace::EXAMPLES)]
    Replace(ReplaceArgs),
    /// List the live heads
    #[command(after_help = list::EXAMPLES)]
    List(ListArgs),
    /// Show one version of a head
    #[command(after_help = get::EXAMPLES)]
    Get(GetArgs),
    /// Show what a head's file holds, and what is missing to serve it
    #[command(after_help = inspect::EXAMPLES)]
    Inspect(InspectArgs),
    /// Find out how a head's pictures were prepared
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(Box<DoctorArgs>),
    /// Write a head and its spec to a file that needs no flags
    #[command(after_help = convert::EXAMPLES)]
    Convert(ConvertArgs),
}

impl HeadCommand {
    /// What this process itself will compute with, if it does.
    pub fn backend(&self) -> Option<BackendSettings> {
        match self {
            Self::Doctor(args) => Some(args.backend()),
            _ => None,
        }
    }
}

pub(super) async fn run(command: HeadCommand, torch: Option<&'static dyn TorchRuntime>) -> Result<(), CliError> {
    match command {
        HeadCommand::Replace(args) => replace::run(args).await,
        HeadCommand::List(args) => list::run(args).await,
        HeadCommand::Get(args) => get::run(args).await,
        HeadCommand::Inspect(args) => inspect::run(args).await,
        HeadCommand::Doctor(args) => doctor::run(*args, torch).await,
        HeadCommand::Convert(args) => convert::run(&args),
    }
}

fn tier(head: &HeadInfo) -> &'static str {
    match head.tier() {
        HeadTier::Hot => "hot",
        HeadTier::Warm => "warm",
        HeadTier::Cold => "cold",
        HeadTier::Unspecified => "",
    }
}

fn head_json(head: &HeadInfo) -> Value {
    json!({
        "head": head.head, "version": head.version, "live": head.live, "digest": head.digest,
        "classes": head.classes, "labels": head.labels, "annotations": head.annotations,
        "created_unix_us": head.created_unix_us, "created": rfc3339(head.created_unix_us),
        "resident_bytes": head.resident_bytes, "backbone": head.backbone, "parameters": head.parameters,
        "split_layer": head.split_layer, "tier": tier(head), "requests": head.requests,
        "spec": serde_json::from_str::<Value>(&head.spec_json).unwrap_or_default(), "assumed": head.assumed,
    })
}

/// How many labels there are, and the first few: `1000: tench, goldfish, …`.
fn labels_summary(labels: &[String]) -> String {
    const SHOWN: usize = 3;
    if labels.is_empty() {
        return "none".to_owned();
    }
    let mut shown = Vec::new();
    for label in labels.iter().take(SHOWN) {
        shown.push(excerpt(label));
    }
    let more = if labels.len() > SHOWN { ", …" } else { "" };
    format!("{}: {}{more}", labels.len(), shown.join(", "))
}

/// A head's notes as `--annotate` takes them, by key.
fn annotations(head: &HeadInfo) -> Vec<(String, String)> {
    let mut notes = Vec::new();
    for (key, value) in &head.annotations {
        notes.push((excerpt(key), excerpt(value)));
    }
    notes.sort();
    notes
}

/// Prints what was found and decided while a file was read.
fn print_report(read: &HeadReport) {
    for (what, names) in [
        ("prefixes removed from names", &read.prefixes),
        ("left out, as no part of the network", &read.left_out),
        ("labels left out", &read.labels_left_out),
        ("assumed", &read.assumed),
    ] {
        if !names.is_empty() {
            note(format_args!("{what}: {}", listed(names)));
        }
    }
}

/// The first of many names, safe for a terminal.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut shown: Vec<String> = names.iter().take(SHOWN).map(|name| excerpt(name)).collect();
    if names.len() > SHOWN {
        shown.push(format!("and {} more", names.len() - SHOWN));
    }
    shown.join(", ")
}
