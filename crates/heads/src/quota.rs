//! How much the store may hold, with the swaps under way.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::HeadError;
use super::table::RoutingTable;

/// What `--heads-max` and `--heads-bytes-max` leave. Its lock is that of the table's writers, so that what was promised
/// to a swap becomes an entry of the table in one step.
#[derive(Debug)]
pub(super) struct Quota {
    heads_max: usize,
    bytes_max: u64,
    promised: Mutex<Promised>,
}

/// What swaps under way will add to the table.
#[derive(Debug, Default)]
struct Promised {
    heads: usize,
    bytes: u64,
}

/// A swap's share, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Promise<'a> {
    quota: &'a Quota,
    heads: usize,
    bytes: u64,
}

impl Quota {
    pub fn new(heads_max: usize, bytes_max: u64) -> Self {
        Self {
            heads_max,
            bytes_max,
            promised: Mutex::default(),
        }
    }

    /// Whether there is a share for a version of so many bytes, of a head that may be new.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`].
    pub fn check<R>(&self, table: &RoutingTable<R>, is_new: bool, bytes: u64) -> Result<(), HeadError> {
        self.fits(&self.promised(), table, is_new, bytes)
    }

    /// Takes such a share.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`].
    pub fn promise<R>(&self, table: &RoutingTable<R>, is_new: bool, bytes: u64) -> Result<Promise<'_>, HeadError> {
        let mut promised = self.promised();
        self.fits(&promised, table, is_new, bytes)?;
        let heads = usize::from(is_new);
        promised.heads += heads;
        promised.bytes += bytes;
        Ok(Promise {
            quota: self,
            heads,
            bytes,
        })
    }

    fn fits<R>(&self, promised: &Promised, table: &RoutingTable<R>, is_new: bool, bytes: u64) -> Result<(), HeadError> {
        let heads = table.count() + promised.heads;
        if is_new && heads >= self.heads_max {
            return Err(HeadError::LimitReached {
                setting: "--heads-max",
                reason: format!("there are {heads} heads already, which is the limit"),
            });
        }
        let (stored, limit) = (table.bytes() + promised.bytes, self.bytes_max);
        if stored.saturating_add(bytes) > limit {
            return Err(HeadError::LimitReached {
                setting: "--heads-bytes-max",
                reason: format!("all heads have {stored} bytes and this one {bytes}; the limit is {limit}"),
            });
        }
        Ok(())
    }

    fn promised(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Promise<'_> {
    /// Does what makes the share an entry of the table; no other writer runs meanwhile.
    pub fn redeem<T>(mut self, publish: impl FnOnce() -> T) -> T {
        let mut promised = self.quota.promised();
        let published = publish();
        promised.heads -= self.heads;
        promised.bytes -= self.bytes;
        (self.heads, self.bytes) = (0, 0);
        published
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        let mut promised = self.quota.promised();
        promised.heads -= self.heads;
        promised.bytes -= self.bytes;
    }
}
