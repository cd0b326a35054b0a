//! How the server stops and logs.

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

/// How logs are written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// How the server stops and logs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operations")]
pub struct OperationArgs {
    /// After SIGTERM, how long in milliseconds new requests are still taken while health says NOT_SERVING, so that load
    /// balancers turn away first
    #[arg(long, env = "HEADSWAP_DRAIN_DELAY_MS", default_value_t = 0)]
    pub drain_delay_ms: u64,
    /// After that, how long in milliseconds accepted requests may take to finish
    #[arg(long, env = "HEADSWAP_DRAIN_MS_MAX", default_value_t = 30_000)]
    pub drain_ms_max: u64,
    /// Print where each port listens, as lines of JSON on standard output, for a program that starts the server with port 0
    #[arg(long, env = "HEADSWAP_ANNOUNCE", value_parser = BoolishValueParser::new())]
    pub announce: bool,
    /// How logs are written
    #[arg(long, env = "HEADSWAP_LOG_FORMAT", value_enum, default_value = "human")]
    pub log_format: LogFormat,
    /// What is logged, as `info` or `headswap=debug`
    #[arg(long, env = "HEADSWAP_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}
