//! Whether a batch is still wanted right before it is computed.

use headswap_model::StillWanted;

use super::clock::Clock;
use super::request::Entry;

/// The network's check for expired and cancelled rows right before it launches a batch.
pub(super) struct LaunchCheck<'a> {
    batch: &'a [Entry],
    clock: &'a dyn Clock,
    /// The number of expired rows at the last check.
    pub expired: usize,
}

impl<'a> LaunchCheck<'a> {
    pub fn new(batch: &'a [Entry], clock: &'a dyn Clock) -> Self {
        Self {
            batch,
            clock,
            expired: 0,
        }
    }
}

impl StillWanted for LaunchCheck<'_> {
    fn still_wanted(&mut self) -> bool {
        let now = self.clock.now();
        self.expired = self.batch.iter().filter(|entry| entry.expired(now)).count();
        self.expired == 0 && !self.batch.iter().any(Entry::cancelled)
    }
}
