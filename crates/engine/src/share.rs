//! The share of bulk requests while both classes wait. Pure: no clock, no tokio.

use super::class::Class;

/// Interactive requests come first, but bulk keeps a share: of N grants while both classes wait, bulk gets
/// N x `bulk_percent` / 100, to within one.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    bulk_percent: u32,
    /// Bulk's credit in hundredths of a grant, less than 100.
    credit: u32,
}

impl Share {
    /// `bulk_percent` is at most 100.
    pub fn new(bulk_percent: u32) -> Self {
        Self {
            bulk_percent: bulk_percent.min(100),
            credit: 0,
        }
    }

    /// Picks the class to serve next, of those that wait. Bulk earns credit only while both wait.
    pub fn pick(&mut self, interactive_waits: bool, bulk_waits: bool) -> Option<Class> {
        match (interactive_waits, bulk_waits) {
            (false, false) => None,
            (true, false) => Some(Class::Interactive),
            (false, true) => Some(Class::Bulk),
            (true, true) => {
                self.credit += self.bulk_percent;
                if self.credit < 100 {
                    return Some(Class::Interactive);
                }
                self.credit -= 100;
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
        fn bulk_gets_its_share_of_contended_grants_and_no_more(
            percent in 0u32..=100, waits in prop::collection::vec((any::<bool>(), any::<bool>()), 1..400),
        ) {
            let mut share = Share::new(percent);
            let (mut contended, mut bulk) = (0, 0);
            for (interactive_waits, bulk_waits) in waits {
                let picked = share.pick(interactive_waits, bulk_waits);
                match (interactive_waits, bulk_waits) {
                    (true, true) => {
                        contended += 1;
                        bulk += u32::from(picked == Some(Class::Bulk));
                    }
                    // A class that waits alone is always served.
                    (true, false) => prop_assert_eq!(picked, Some(Class::Interactive)),
                    (false, true) => prop_assert_eq!(picked, Some(Class::Bulk)),
                    (false, false) => prop_assert_eq!(picked, None),
                }
                prop_assert!((bulk * 100).abs_diff(contended * percent) <= 100);
            }
        }
    }
}
