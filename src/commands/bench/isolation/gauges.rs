//! What the server says of requests under way.

use std::time::{Duration, Instant};

use headswap_loadtest::ServerProcess;

use crate::commands::error::CliError;

/// How long the server may take to let go of requests whose callers are gone.
const LET_GO_MAX: Duration = Duration::from_secs(10);
/// How often it is asked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Two gauges.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gauges {
    pub in_flight: f64,
    pub queue_length: f64,
}

impl Gauges {
    /// Asks until nothing is under way, but not for ever.
    pub async fn once_idle(server: &ServerProcess) -> Result<Self, CliError> {
        let since = Instant::now();
        loop {
            let gauges = Self {
                in_flight: server.metric("headswap_in_flight").await?,
                queue_length: server.metric("headswap_queue_length").await?,
            };
            if gauges.is_idle() || since.elapsed() >= LET_GO_MAX {
                return Ok(gauges);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight + self.queue_length == 0.0
    }
}
