//! What the null backend does: settings of tests and benchmarks, which `--help` does not show.

use std::time::Duration;

use clap::Args;
use headswap_model::{NullFault, NullSettings};

/// The settings of `--backend null`.
#[derive(Args, Clone, Debug)]
pub struct NullArgs {
    /// How long a row takes, in microseconds
    #[arg(long, env = "HEADSWAP_NULL_ROW_US", default_value_t = 0, hide = true)]
    pub null_row_us: u64,
    /// How it fails
    #[arg(long, env = "HEADSWAP_NULL_FAULT", value_name = "FAULT", hide = true)]
    pub null_fault: Option<NullFault>,
}

impl NullArgs {
    /// The same for the network.
    pub(crate) fn settings(&self) -> NullSettings {
        NullSettings {
            row: Duration::from_micros(self.null_row_us),
            fault: self.null_fault,
        }
    }
}
