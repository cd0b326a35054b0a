//! When the requests of an open loop are to start. Fixed before the first is sent, so that a slow server cannot slow down
//! what it is asked.

use std::time::Duration;

use super::random::SplitMix64;

/// How requests are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances.
    Uniform,
    /// As those of many independent callers: gaps are exponentially distributed.
    Poisson {
        /// Of the generator; the same gives the same times.
        seed: u64,
    },
}

impl Arrivals {
    /// Returns the times of all arrivals within `length`, ascending, at a mean of `rate` a second, which must be positive.
    /// About `rate` times `length` times take 16 bytes each.
    pub fn schedule(self, rate: f64, length: Duration) -> Vec<Duration> {
        let mut times = Vec::new();
        match self {
            Self::Uniform => {
                let mut time = Duration::ZERO;
                while time < length {
                    times.push(time);
                    // Not a sum of gaps, whose rounding would add up.
                    time = Duration::from_secs_f64(times.len() as f64 / rate);
                }
            }
            Self::Poisson { seed } => {
                let mut random = SplitMix64::new(seed);
                let mut seconds = gap(&mut random, rate);
                while seconds < length.as_secs_f64() {
                    times.push(Duration::from_secs_f64(seconds));
                    seconds += gap(&mut random, rate);
                }
            }
        }
        times
    }
}

/// An exponentially distributed gap in seconds, by inversion of its distribution.
fn gap(random: &mut SplitMix64, rate: f64) -> f64 {
    -(1.0 - random.next_share()).ln() / rate
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_arrivals() -> impl Strategy<Value = Arrivals> {
        prop_oneof![
            Just(Arrivals::Uniform),
            any::<u64>().prop_map(|seed| Arrivals::Poisson { seed }),
        ]
    }

    proptest! {
        #[test]
        fn times_ascend_within_the_length(arrivals in any_arrivals(), rate in 0.1..5000.0f64, ms in 1..3000u64) {
            let length = Duration::from_millis(ms);
            let times = arrivals.schedule(rate, length);
            prop_assert!(times.is_sorted());
            prop_assert!(times.iter().all(|time| *time < length + Duration::from_nanos(1)));
            prop_assert_eq!(times, arrivals.schedule(rate, length));
        }

        #[test]
        fn a_longer_schedule_begins_like_a_shorter_one(arrivals in any_arrivals(), rate in 1.0..2000.0f64) {
            let short = arrivals.schedule(rate, Duration::from_secs(1));
            let long = arrivals.schedule(rate, Duration::from_secs(2));
            prop_assert_eq!(&long[..short.len()], &short[..]);
        }

        #[test]
        fn uniform_gaps_are_equal(rate in 1.0..5000.0f64) {
            let times = Arrivals::Uniform.schedule(rate, Duration::from_secs(1));
            prop_assert!(times.len().abs_diff(rate.ceil() as usize) <= 1);
            for two in times.windows(2) {
                prop_assert!(((two[1] - two[0]).as_secs_f64() * rate - 1.0).abs() < 1e-4);
            }
        }

        /// Of an exponential distribution the mean and the standard deviation are the mean gap, and the share of gaps that
        /// are longer than it is 1/e; all within 6 standard deviations of their estimates.
        #[test]
        fn poisson_gaps_are_exponential(seed in any::<u64>(), rate in 10.0..5000.0f64) {
            const COUNT: f64 = 10_000.0;
            let times = Arrivals::Poisson { seed }.schedule(rate, Duration::from_secs_f64(COUNT / rate));
            prop_assert!((times.len() as f64 - COUNT).abs() < 6.0 * COUNT.sqrt());
            let mut gaps = Vec::new();
            for two in times.windows(2) {
                gaps.push((two[1] - two[0]).as_secs_f64() * rate);
            }
            let count = gaps.len() as f64;
            // The square of an exponential gap has mean 2 and variance 20.
            let square = gaps.iter().map(|gap| gap * gap).sum::<f64>() / count;
            prop_assert!((square - 2.0).abs() < 6.0 * (20.0 / count).sqrt(), "{}", square);
            let longer = gaps.iter().filter(|gap| **gap > 1.0).count() as f64 / count;
            let expected = (-1.0f64).exp();
            let deviation = (expected * (1.0 - expected) / count).sqrt();
            prop_assert!((longer - expected).abs() < 6.0 * deviation, "{}", longer);
        }
    }

    #[test]
    fn another_seed_gives_other_times() {
        let length = Duration::from_secs(1);
        let first = Arrivals::Poisson { seed: 1 }.schedule(100.0, length);
        assert_ne!(first, Arrivals::Poisson { seed: 2 }.schedule(100.0, length));
    }
}
