//! The share of bulk requests while both classes wait. Pure: no clock, no tokio.

use super::class::Class;
use super::cost::{Cost, PICTURE_COST};

/// Interactive requests come first, but bulk keeps a share: of the cost N that is granted while both classes wait, bulk gets
/// N x `bulk_percent` / 100, to within one request.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    bulk_percent: i64,
    /// What bulk has earned and not used, in hundredths of [`Cost`]; negative after a request that cost more.
    credit: i64,
}

impl Share {
    /// `bulk_percent` is at most 100.
    pub fn new(bulk_percent: u32) -> Self {
        Self {
            bulk_percent: bulk_percent.min(100).into(),
            credit: 0,
        }
    }

    /// Picks the class to serve next, given the cost of the next request of each that waits. Bulk earns credit only while
    /// both wait.
    pub fn pick(&mut self, interactive: Option<Cost>, bulk: Option<Cost>) -> Option<Class> {
        match (interactive, bulk) {
            (None, None) => None,
            (Some(_), None) => Some(Class::Interactive),
            (None, Some(_)) => Some(Class::Bulk),
            (Some(interactive), Some(bulk)) => {
                // A costly request need not earn all its cost before it: bulk pays it off afterwards.
                let first = bulk.min(PICTURE_COST) as i64;
                if self.credit + self.bulk_percent * first < 100 * first {
                    self.credit += self.bulk_percent * interactive as i64;
                    return Some(Class::Interactive);
                }
                self.credit -= (100 - self.bulk_percent) * bulk as i64;
                Some(Class::Bulk)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bulk_gets_its_share_of_contended_cost_and_no_more(
            percent in 0u32..=100,
            waits in prop::collection::vec((prop::option::of(1usize..900), prop::option::of(1usize..900)), 1..400),
        ) {
            let mut share = Share::new(percent);
            let (mut contended, mut bulk) = (0, 0);
            for (interactive_waits, bulk_waits) in waits {
                let picked = share.pick(interactive_waits, bulk_waits);
                match (interactive_waits, bulk_waits) {
                    (Some(interactive_cost), Some(bulk_cost)) => {
                        let is_bulk = picked == Some(Class::Bulk);
                        contended += if is_bulk { bulk_cost } else { interactive_cost };
                        bulk += if is_bulk { bulk_cost } else { 0 };
                    }
                    // A class that waits alone is always served.
                    (Some(_), None) => prop_assert_eq!(picked, Some(Class::Interactive)),
                    (None, Some(_)) => prop_assert_eq!(picked, Some(Class::Bulk)),
                    (None, None) => prop_assert_eq!(picked, None),
                }
                // To within one request, the largest of which costs 899.
                prop_assert!((bulk * 100).abs_diff(contended * percent as usize) <= 100 * 899);
            }
        }
    }
}
