//! How the server stops and logs.

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

/// How logs are written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable.
    Human,
    /// One JSON object on each line.
    Json,
}

/// How the server stops and logs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operations")]
pub struct OperationArgs {
    /// How long new requests are still accepted after SIGTERM, in milliseconds. Health is NOT_SERVING from the start, so load
    /// balancers can stop sending requests first
    #[arg(long, env = "HEADSWAP_DRAIN_DELAY_MS", default_value_t = 0)]
    pub drain_delay_ms: u64,
    /// How long accepted requests may take after --drain-delay-ms, in milliseconds
    #[arg(long, env = "HEADSWAP_DRAIN_MS_MAX", default_value_t = 30_000)]
    pub drain_ms_max: u64,
    /// Print each port's address as a line of JSON on standard output, for programs that start the server with port 0
    #[arg(long, env = "HEADSWAP_ANNOUNCE", value_parser = BoolishValueParser::new())]
    pub announce: bool,
    /// Format of the log
    #[arg(long, env = "HEADSWAP_LOG_FORMAT", value_enum, default_value = "human")]
    pub log_format: LogFormat,
    /// Log filter, such as `info` or `headswap=debug`
    #[arg(long, env = "HEADSWAP_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}
