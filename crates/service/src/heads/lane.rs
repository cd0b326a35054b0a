//! Lanes of swaps: large ones run apart from small ones, so that a small swap never waits for hundreds of megabytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::threads::Threads;
use crate::ServiceError;

/// The threads of a lane, and the limit of its trials on the device.
pub(super) struct Lane {
    pub threads: Threads,
    trials: Option<Trials>,
}

/// A FIFO limit on bytes on trial, in units that a semaphore can count.
struct Trials {
    unit_bytes: u64,
    units: u32,
    free: Arc<Semaphore>,
}

impl Lane {
    /// Creates a lane for swaps so small that the number of threads limits their bytes.
    pub fn small(threads: usize) -> Self {
        Self {
            threads: Threads::new("small-swap", threads),
            trials: None,
        }
    }

    /// Creates a lane for swaps of any size, whose trials may have `trial_bytes_max` bytes together.
    pub fn large(threads: usize, trial_bytes_max: u64) -> Self {
        Self {
            threads: Threads::new("large-swap", threads),
            trials: Some(Trials::new(trial_bytes_max)),
        }
    }

    /// Waits until a head of `bytes` bytes may be on trial.
    pub async fn trial(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, ServiceError> {
        let Some(trials) = &self.trials else { return Ok(None) };
        let permit = Arc::clone(&trials.free)
            .acquire_many_owned(trials.units_of(bytes))
            .await;
        permit
            .map(Some)
            .map_err(|_| ServiceError::Internal("the trials of heads ended".into()))
    }
}

impl Trials {
    /// Uses up to about a million units of at least one byte.
    fn new(bytes_max: u64) -> Self {
        const UNITS: u64 = 1 << 20;
        let unit_bytes = bytes_max.div_ceil(UNITS).max(1);
        let units = (bytes_max / unit_bytes).clamp(1, UNITS) as u32;
        Self {
            unit_bytes,
            units,
            free: Arc::new(Semaphore::new(units as usize)),
        }
    }

    /// Returns the units of a head, at most all: a head that is too large for the device is refused before its trial.
    fn units_of(&self, bytes: u64) -> u32 {
        bytes.div_ceil(self.unit_bytes).min(u64::from(self.units)) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// For any heads, their bytes together stay within the limit, and each that is within it can run alone.
        #[test]
        fn units_bound_bytes(bytes_max in 1..u64::MAX >> 1, heads in proptest::collection::vec(0.0..=1.0f64, 1..20)) {
            let trials = Trials::new(bytes_max);
            let (mut units, mut bytes) = (0, 0);
            for part in heads {
                let head = ((bytes_max as f64 * part) as u64).min(bytes_max);
                let more = trials.units_of(head);
                prop_assert!(more <= trials.units);
                if units + more <= trials.units {
                    units += more;
                    bytes += head;
                }
            }
            prop_assert!(bytes <= bytes_max);
        }
    }
}
