//! A token bucket for the requests that a connection's client cancels. A flood of requests that are reset at once ("rapid
//! reset", CVE-2023-44487) empties it; a client whose deadlines pass does not.

use std::time::Duration;

use tokio::time::Instant;

/// Capacity: cancelled requests in a burst.
pub(crate) const BURST: u32 = 5_000;
/// Refill: cancelled requests a second, as many as 100 streams with deadlines of 200 ms cause.
pub(crate) const PER_SECOND: u32 = 500;

/// The token bucket of one connection.
#[derive(Debug)]
pub(crate) struct ResetBudget {
    tokens: u32,
    /// Until when tokens have been refilled.
    refilled_until: Instant,
}

impl ResetBudget {
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            refilled_until: now,
        }
    }

    /// Takes a token for a request that was cancelled at `now`; returns false if the bucket is empty.
    pub fn take(&mut self, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / PER_SECOND;
        let elapsed = now.saturating_duration_since(self.refilled_until);
        let refill = u32::try_from(elapsed.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
        if refill >= BURST - self.tokens {
            self.tokens = BURST;
            self.refilled_until = now;
        } else {
            self.tokens += refill;
            self.refilled_until += interval * refill;
        }
        let available = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        available
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_allowed_and_a_flood_is_not() {
        let now = Instant::now();
        let mut budget = ResetBudget::new(now);
        for taken in 0..BURST {
            assert!(budget.take(now), "{taken}");
        }
        assert!(!budget.take(now));
        // Tokens are refilled over time, up to the burst.
        let later = now + Duration::from_secs(2);
        for taken in 0..2 * PER_SECOND {
            assert!(budget.take(later), "{taken}");
        }
        assert!(!budget.take(later));
        let much_later = now + Duration::from_secs(3600);
        for taken in 0..BURST {
            assert!(budget.take(much_later), "{taken}");
        }
        assert!(!budget.take(much_later));
    }

    proptest! {
        /// The tokens taken never exceed the burst plus the refill, for any pauses between them.
        #[test]
        fn tokens_never_exceed_burst_and_refill(pauses_us in prop::collection::vec(0_u64..3_000, 0..20_000)) {
            let start = Instant::now();
            let (mut budget, mut now, mut taken) = (ResetBudget::new(start), start, 0_u64);
            for pause in pauses_us {
                now += Duration::from_micros(pause);
                taken += u64::from(budget.take(now));
            }
            let elapsed = now.duration_since(start);
            let limit = u64::from(BURST) + (elapsed.as_secs_f64() * f64::from(PER_SECOND)) as u64 + 1;
            prop_assert!(taken <= limit, "{taken} of {limit}");
        }
    }
}
