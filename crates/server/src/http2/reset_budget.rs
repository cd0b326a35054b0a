//! How many requests a connection may cancel: a bucket of tokens. A flood of requests that are reset at once ("rapid
//! reset", CVE-2023-44487) empties it; clients whose deadlines pass do not.

use std::time::Duration;

use tokio::time::Instant;

/// Cancelled requests that a connection may have in a burst.
pub(crate) const BURST: u32 = 5_000;
/// Cancelled requests a second that it may have for ever: as many as 100 streams whose deadlines are 200 ms.
pub(crate) const PER_SECOND: u32 = 500;

/// The tokens of one connection.
#[derive(Debug)]
pub(crate) struct ResetBudget {
    tokens: u32,
    /// Up to when tokens have been given back.
    given_back: Instant,
}

impl ResetBudget {
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            given_back: now,
        }
    }

    /// Takes a token for a request that was cancelled at `now`; returns false if none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        let token = Duration::from_secs(1) / PER_SECOND;
        let elapsed = now.saturating_duration_since(self.given_back);
        let back = u32::try_from(elapsed.as_nanos() / token.as_nanos()).unwrap_or(u32::MAX);
        if back >= BURST - self.tokens {
            self.tokens = BURST;
            self.given_back = now;
        } else {
            self.tokens += back;
            self.given_back += token * back;
        }
        let left = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        left
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
        // Tokens come back with time, up to the burst.
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
        /// No more tokens than the burst and what the time gives back, however takes are spread over it.
        #[test]
        fn tokens_never_exceed_what_the_time_gives(pauses_us in prop::collection::vec(0_u64..3_000, 0..20_000)) {
            let start = Instant::now();
            let (mut budget, mut now, mut taken) = (ResetBudget::new(start), start, 0_u64);
            for pause in pauses_us {
                now += Duration::from_micros(pause);
                taken += u64::from(budget.take(now));
            }
            let elapsed = now.duration_since(start);
            let most = u64::from(BURST) + (elapsed.as_secs_f64() * f64::from(PER_SECOND)) as u64 + 1;
            prop_assert!(taken <= most, "{taken} of {most}");
        }
    }
}
