//! Memory for decoding, in bytes over all decoders. Pure: no clock, no tokio.

/// Of the budget, one part in this is for small pictures.
const SMALL_DIVISOR: u64 = 8;

/// The bytes that pictures which are being decoded may take in all.
///
/// Small pictures, so small that one in each decode slot takes no more than an eighth of the budget, start at any time.
/// Larger ones share the rest, in the order in which they asked: one that has to wait holds back larger ones behind it,
/// and no small one.
#[derive(Debug)]
pub(super) struct DecodeBudget {
    /// Pictures of up to this many bytes are small.
    small_max: u64,
    /// For the larger ones.
    large_max: u64,
    large_used: u64,
    /// Whether a larger one was turned away since bytes were last given back.
    has_refused: bool,
}

impl DecodeBudget {
    /// `bytes_max` bytes, for `slots` decoders.
    pub fn new(bytes_max: u64, slots: usize) -> Self {
        let small = bytes_max / SMALL_DIVISOR;
        Self {
            small_max: small / slots.max(1) as u64,
            large_max: bytes_max - small,
            large_used: 0,
            has_refused: false,
        }
    }

    /// The most that one picture may take.
    pub fn picture_max(&self) -> u64 {
        self.large_max.max(self.small_max)
    }

    /// Whether a picture may start that takes `bytes`, [`DecodeBudget::picture_max`] at most. If not, larger ones behind it have to wait, too, until bytes are
    /// given back.
    pub fn has_room(&mut self, bytes: u64) -> bool {
        if bytes <= self.small_max {
            return true;
        }
        let fits = !self.has_refused && bytes <= self.large_max - self.large_used;
        self.has_refused |= !fits;
        fits
    }

    /// Takes the bytes of a picture for which there is room.
    pub fn take(&mut self, bytes: u64) {
        if bytes > self.small_max {
            self.large_used += bytes;
        }
    }

    /// Gives the bytes of a picture back. Returns whether others may have waited for them.
    pub fn give(&mut self, bytes: u64) -> bool {
        if bytes <= self.small_max {
            return false;
        }
        self.large_used -= bytes;
        std::mem::take(&mut self.has_refused)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_picture_starts_beside_a_large_one_that_waits() {
        let mut budget = DecodeBudget::new(800, 10);
        assert_eq!((budget.small_max, budget.picture_max()), (10, 700));
        budget.take(600);
        assert!(!budget.has_room(200));
        // There would be room, but it is not its turn.
        assert!(!budget.has_room(50));
        assert!(budget.has_room(10));
        assert!(budget.give(600));
        assert!(budget.has_room(200));
    }

    #[test]
    fn the_largest_picture_fits_alone() {
        let mut budget = DecodeBudget::new(1000, 3);
        assert!(budget.has_room(budget.picture_max()));
        assert!(!budget.has_room(budget.picture_max() + 1));
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
                // What takes more is refused before.
                let bytes = bytes % (budget.picture_max() + 1);
                if ends && !running.is_empty() {
                    budget.give(running.remove(bytes as usize % running.len()));
                } else if running.len() < slots && budget.has_room(bytes) {
                    budget.take(bytes);
                    running.push(bytes);
                }
                prop_assert!(running.iter().sum::<u64>() <= bytes_max);
            }
            for bytes in running {
                budget.give(bytes);
            }
            prop_assert!(budget.has_room(budget.picture_max()));
        }
    }
}
