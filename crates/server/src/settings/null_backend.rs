//! Settings of the null backend, for tests and benchmarks. `--help` does not show them.

use std::time::Duration;

use clap::Args;
use headswap_model::{NullFault, NullSettings};

/// The settings of `--backend null`.
#[derive(Args, Clone, Debug)]
pub struct NullArgs {
    /// Duration of each row, in microseconds
    #[arg(long, env = "HEADSWAP_NULL_ROW_US", default_value_t = 0, hide = true)]
    pub null_row_us: u64,
    /// The fault to simulate
    #[arg(long, env = "HEADSWAP_NULL_FAULT", value_name = "FAULT", hide = true)]
    pub null_fault: Option<NullFault>,
}

impl NullArgs {
    /// Returns the settings of the backend.
    pub(crate) fn settings(&self) -> NullSettings {
        NullSettings {
            row: Duration::from_micros(self.null_row_us),
            fault: self.null_fault,
        }
    }
}
