//! Decides when a batch is dispatched. Pure: no clock, no tokio.
//!
//! An idle device gets whatever is ready. A device that copies one batch while it computes another, as a GPU does, gets
//! the second only when it is full; until then more requests may join it. No further batch is queued for a device, so
//! that an urgent request waits only for the batches that are running.

use std::time::Duration;

/// Limits of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Maximum number of pictures in a batch.
    pub max_batch: usize,
    /// How long the first request of a batch may wait for others while the device is idle.
    pub wait_max: Duration,
}

/// The action to take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Dispatch this many entries, the oldest first.
    Dispatch(usize),
    /// Decide again after this time, or when something changes.
    WaitFor(Duration),
    /// Decide again when something changes.
    Wait,
}

/// Decides for `queued` entries, the oldest of which has waited for `oldest_wait`, while the least busy device has
/// `outstanding` batches of the `lanes` that it can run at a time.
pub fn decide(queued: usize, outstanding: usize, lanes: usize, oldest_wait: Duration, limits: BatchLimits) -> Decision {
    if queued == 0 || outstanding >= lanes {
        return Decision::Wait;
    }
    if queued >= limits.max_batch {
        return Decision::Dispatch(limits.max_batch);
    }
    match (outstanding, limits.wait_max.saturating_sub(oldest_wait)) {
        (0, Duration::ZERO) => Decision::Dispatch(queued),
        (0, rest) => Decision::WaitFor(rest),
        _ => Decision::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_idle_device_never_waits_without_a_configured_wait(queued in 1usize..100, max_batch in 1usize..64) {
            let limits = BatchLimits { max_batch, wait_max: Duration::ZERO };
            prop_assert_eq!(decide(queued, 0, 1, Duration::ZERO, limits), Decision::Dispatch(queued.min(max_batch)));
        }

        #[test]
        fn batches_and_their_number_on_a_device_are_bounded(
            queued in 0usize..100, outstanding in 0usize..4, lanes in 1usize..3, waited in 0u64..2000, wait in 0u64..1000, max in 1usize..64,
        ) {
            let limits = BatchLimits { max_batch: max, wait_max: Duration::from_micros(wait) };
            match decide(queued, outstanding, lanes, Duration::from_micros(waited), limits) {
                Decision::Dispatch(n) => {
                    prop_assert!(n >= 1 && n <= max && n <= queued && outstanding < lanes);
                    prop_assert!(outstanding == 0 || n == max);
                }
                Decision::WaitFor(rest) => {
                    prop_assert!(rest > Duration::ZERO && rest <= limits.wait_max);
                    prop_assert!(outstanding == 0 && queued >= 1);
                }
                // Without a timeout, an event must be coming: a batch is running, or nothing is queued.
                Decision::Wait => prop_assert!(queued == 0 || outstanding > 0),
            }
        }
    }
}
