//! The memory budget of all decoders, in bytes. Pure: no clock, no tokio.

/// The budget divided by this is reserved for small pictures.
const SMALL_DIVISOR: u64 = 8;

/// The bytes that all pictures being decoded may take.
///
/// A picture is small if one of its size per decode slot takes at most an eighth of the budget in total; small pictures
/// start at any time. Large ones share the rest in order of arrival: one that waits delays the large ones behind it,
/// but no small one.
#[derive(Debug)]
pub(super) struct DecodeBudget {
    /// Pictures of up to this many bytes are small.
    small_max: u64,
    /// The limit of all large pictures together.
    large_max: u64,
    large_used: u64,
    /// True if a large picture has been held back since bytes were last released.
    large_waits: bool,
}

impl DecodeBudget {
    /// Creates a budget of `bytes_max` bytes for `slots` decoders.
    pub fn new(bytes_max: u64, slots: usize) -> Self {
        let small = bytes_max / SMALL_DIVISOR;
        Self {
            small_max: small / slots.max(1) as u64,
            large_max: bytes_max - small,
            large_used: 0,
            large_waits: false,
        }
    }

    /// The limit of one picture.
    pub fn picture_max(&self) -> u64 {
        self.large_max.max(self.small_max)
    }

    /// Returns true if a picture of `bytes`, at most [`DecodeBudget::picture_max`], may start. If not, the large pictures
    /// behind it must wait, too, until bytes are released.
    pub fn fits(&mut self, bytes: u64) -> bool {
        if bytes <= self.small_max {
            return true;
        }
        let fits = !self.large_waits && bytes <= self.large_max - self.large_used;
        self.large_waits |= !fits;
        fits
    }

    /// Reserves the bytes of a picture that fits.
    pub fn reserve(&mut self, bytes: u64) {
        if bytes > self.small_max {
            self.large_used += bytes;
        }
    }

    /// Releases the bytes of a picture. Returns true if other pictures may be waiting for them.
    pub fn release(&mut self, bytes: u64) -> bool {
        if bytes <= self.small_max {
            return false;
        }
        self.large_used -= bytes;
        std::mem::take(&mut self.large_waits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_picture_starts_while_a_large_one_waits() {
        let mut budget = DecodeBudget::new(800, 10);
        assert_eq!((budget.small_max, budget.picture_max()), (10, 700));
        budget.reserve(600);
        assert!(!budget.fits(200));
        // There is memory for it, but it is behind one that waits.
        assert!(!budget.fits(50));
        assert!(budget.fits(10));
        assert!(budget.release(600));
        assert!(budget.fits(200));
    }

    #[test]
    fn the_largest_picture_fits_alone() {
        let mut budget = DecodeBudget::new(1000, 3);
        assert!(budget.fits(budget.picture_max()));
        assert!(!budget.fits(budget.picture_max() + 1));
    }

    proptest! {
        #[test]
        fn no_order_of_pictures_takes_more_than_the_budget(
            bytes_max in 0u64..10_000,
            slots in 1usize..20,
            steps in prop::collection::vec((0u64..12_000, any::<bool>()), 0..200),
        ) {
            let mut budget = DecodeBudget::new(bytes_max, slots);
            let mut running: Vec<u64> = Vec::new();
            for (bytes, ends) in steps {
                // Pictures that take more are refused earlier.
                let bytes = bytes % (budget.picture_max() + 1);
                if ends && !running.is_empty() {
                    budget.release(running.remove(bytes as usize % running.len()));
                } else if running.len() < slots && budget.fits(bytes) {
                    budget.reserve(bytes);
                    running.push(bytes);
                }
                prop_assert!(running.iter().sum::<u64>() <= bytes_max);
            }
            for bytes in running {
                budget.release(bytes);
            }
            prop_assert!(budget.fits(budget.picture_max()));
        }
    }
}
