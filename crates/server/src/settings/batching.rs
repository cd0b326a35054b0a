//! How requests become batches.

use clap::Args;

/// How requests become batches.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Batching")]
pub struct BatchingArgs {
    /// Pictures in a batch at most; 0 measures at start where larger batches stop paying
    #[arg(long, env = "HEADSWAP_MAX_BATCH", default_value_t = 0)]
    pub max_batch: usize,
    /// How long, in microseconds, an idle device may wait for a fuller batch
    #[arg(long, env = "HEADSWAP_BATCH_WAIT_US_MAX", default_value_t = 0)]
    pub batch_wait_us_max: u64,
    /// Unary calls come before the requests of streams, which keep this part, in percent, of what the device computes while
    /// both wait
    #[arg(
        long,
        env = "HEADSWAP_BULK_SHARE",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(0..=100),
        value_name = "PERCENT"
    )]
    pub bulk_share: u32,
}
