//! How requests become batches.

use clap::Args;

/// How requests become batches.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Batching")]
pub struct BatchingArgs {
    /// Limit on pictures in a batch. 0 selects it by a measurement at start: the size above which throughput no longer grows
    #[arg(long, env = "HEADSWAP_MAX_BATCH", default_value_t = 0)]
    pub max_batch: usize,
    /// How long an idle device may wait for a fuller batch, in microseconds
    #[arg(long, env = "HEADSWAP_BATCH_WAIT_US_MAX", default_value_t = 0)]
    pub batch_wait_us_max: u64,
    /// Share of the device that requests of streams keep while unary calls wait, in percent. For the rest, unary calls take
    /// precedence
    #[arg(
        long,
        env = "HEADSWAP_BULK_SHARE",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(0..=100),
        value_name = "PERCENT"
    )]
    pub bulk_share: u32,
}
