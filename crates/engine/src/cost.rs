//! The time of a batch by its size, as measured at start. Pure: no clock, no tokio.

use std::time::Duration;

/// The time of a forward pass by the number of pictures, interpolated linearly between the measured sizes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CostTable {
    /// Sizes, ascending, and the time of one batch of that size.
    batches: Vec<(usize, Duration)>,
}

impl CostTable {
    /// Builds a table from sizes in ascending order and the time per picture in a batch of that size.
    pub fn from_per_picture(per_picture: &[(usize, Duration)]) -> Self {
        let batches = per_picture.iter().map(|&(size, time)| (size, time * size as u32));
        Self {
            batches: batches.collect(),
        }
    }

    /// Estimates the time of a batch of `size` pictures; zero if nothing was measured.
    pub fn batch(&self, size: usize) -> Duration {
        let above = self.batches.partition_point(|&(measured, _)| measured < size);
        let below = above.checked_sub(1).map(|below| self.batches[below]);
        match (below, self.batches.get(above)) {
            (None, None) => Duration::ZERO,
            (None, Some(&(measured, time))) | (Some((measured, time)), None) => scaled(time, size, measured),
            (Some((low, low_time)), Some(&(high, high_time))) => {
                low_time + scaled(high_time.saturating_sub(low_time), size - low, high - low)
            }
        }
    }
}

/// `time` x `numerator` / `denominator`.
fn scaled(time: Duration, numerator: usize, denominator: usize) -> Duration {
    time.mul_f64(numerator as f64 / denominator.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_between_and_beyond_the_measured_ones_are_estimated() {
        let ms = Duration::from_millis;
        let table = CostTable::from_per_picture(&[(1, ms(40)), (2, ms(35)), (8, ms(20))]);
        for (size, expected) in [(1, 40), (2, 70), (5, 115), (8, 160), (16, 320)] {
            assert_eq!(table.batch(size), ms(expected), "{size}");
        }
        assert_eq!(CostTable::default().batch(7), Duration::ZERO);
    }
}
