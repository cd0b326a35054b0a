//! When a batch leaves, as a pure function: no clock, no tokio.
//!
//! An idle device takes whatever is ready. A device that computes one batch while it copies another, as a GPU does, is
//! given the second only when that is full: until then the batch stays open for those who come. No batch is prepared
//! behind those that a device computes, so that an urgent request waits for those alone.

use std::time::Duration;

/// How large batches grow and how long an idle device waits for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Pictures in a batch at most.
    pub max_batch: usize,
    /// How long the first of a batch may wait for others while the device is idle.
    pub wait_max: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send this many entries, the oldest first.
    Dispatch(usize),
    /// Ask again after this time, or when something changes.
    WaitFor(Duration),
    /// Ask again when something changes.
    Wait,
}

/// Decides for `queued` entries, the oldest of which has waited for `oldest_wait`, while the least busy device holds
/// `outstanding` of the `lanes` batches that it computes at the same time.
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
        fn batches_are_bounded_and_the_device_is_not_flooded(
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
                // Nobody waits for an event that cannot come: something must be running, or nothing be queued.
                Decision::Wait => prop_assert!(queued == 0 || outstanding > 0),
            }
        }
    }
}
