//! The time of a batch by its size, as measured at start. Pure: no clock, no tokio.

use std::time::Duration;

use headswap_spec::{PICTURE_SIDE, Preprocessing};

/// A predicted cost, in hundredths of that of one picture of 224x224 pixels.
pub type Cost = usize;

/// The cost of one picture of 224x224 pixels.
pub const PICTURE_COST: Cost = 100;

/// The part of [`PICTURE_COST`] that does not depend on the size: the Linears, and what surrounds the layers.
const FIXED_COST: Cost = 5;

const PICTURE_PIXELS: usize = PICTURE_SIDE * PICTURE_SIDE;

/// Returns the predicted cost of a picture of this height and width: convolutions take time in proportion to the pixels.
pub fn picture_cost([height, width]: [u32; 2]) -> Cost {
    let pixels = height as usize * width as usize;
    FIXED_COST + ((PICTURE_COST - FIXED_COST) * pixels).div_ceil(PICTURE_PIXELS)
}

/// The highest cost of one request. It bounds how long one large request delays others.
pub const REQUEST_COST_MAX: Cost = 32 * PICTURE_COST;

/// Returns the predicted cost of a picture that is prepared in each of these ways.
pub fn pictures_cost(preprocessings: &[Preprocessing]) -> Cost {
    let costs = preprocessings.iter();
    costs
        .map(|preprocessing| preprocessing.size().map_or(PICTURE_COST, picture_cost))
        .sum()
}

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

    /// Estimates the time of a batch of this cost; zero if nothing was measured.
    pub fn batch(&self, cost: Cost) -> Duration {
        let above = self.batches.partition_point(|&(size, _)| size * PICTURE_COST < cost);
        let below = above.checked_sub(1).map(|below| self.batches[below]);
        match (below, self.batches.get(above)) {
            (None, None) => Duration::ZERO,
            (None, Some(&(size, time))) | (Some((size, time)), None) => scaled(time, cost, size * PICTURE_COST),
            (Some((low, low_time)), Some(&(high, high_time))) => {
                let (low, high) = (low * PICTURE_COST, high * PICTURE_COST);
                low_time + scaled(high_time.saturating_sub(low_time), cost - low, high - low)
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
            assert_eq!(table.batch(size * PICTURE_COST), ms(expected), "{size}");
        }
        assert_eq!(CostTable::default().batch(7 * PICTURE_COST), Duration::ZERO);
    }
}
