//! The limits on heads and bytes in the store, with what swaps in progress will add.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::HeadError;
use super::table::RoutingTable;

/// Enforces `--heads-max` and `--heads-bytes-max`. Its lock is the lock of the table's writers, so that a swap's share
/// turns into an entry of the table in one step.
#[derive(Debug)]
pub(super) struct Quota {
    heads_max: usize,
    bytes_max: u64,
    reserved: Mutex<Reserved>,
}

/// What swaps in progress will add to the table.
#[derive(Debug, Default)]
struct Reserved {
    heads: usize,
    bytes: u64,
}

/// One swap's share of the quota; dropping it releases the share.
#[derive(Debug)]
pub(super) struct QuotaShare<'a> {
    quota: &'a Quota,
    heads: usize,
    bytes: u64,
}

impl Quota {
    pub fn new(heads_max: usize, bytes_max: u64) -> Self {
        Self {
            heads_max,
            bytes_max,
            reserved: Mutex::default(),
        }
    }

    /// Checks that a version of `bytes` bytes fits; `is_new` means that it is its head's first.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`].
    pub fn check<R>(&self, table: &RoutingTable<R>, is_new: bool, bytes: u64) -> Result<(), HeadError> {
        self.check_with(&self.lock(), table, is_new, bytes)
    }

    /// Reserves a share for such a version.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`].
    pub fn reserve<R>(&self, table: &RoutingTable<R>, is_new: bool, bytes: u64) -> Result<QuotaShare<'_>, HeadError> {
        let mut reserved = self.lock();
        self.check_with(&reserved, table, is_new, bytes)?;
        let heads = usize::from(is_new);
        reserved.heads += heads;
        reserved.bytes += bytes;
        Ok(QuotaShare {
            quota: self,
            heads,
            bytes,
        })
    }

    fn check_with<R>(
        &self,
        reserved: &Reserved,
        table: &RoutingTable<R>,
        is_new: bool,
        bytes: u64,
    ) -> Result<(), HeadError> {
        let heads = table.count() + reserved.heads;
        if is_new && heads >= self.heads_max {
            return Err(HeadError::LimitReached {
                setting: "--heads-max",
                reason: format!("there are {heads} heads already, which is the limit"),
            });
        }
        let (stored, limit) = (table.bytes() + reserved.bytes, self.bytes_max);
        if stored.saturating_add(bytes) > limit {
            return Err(HeadError::LimitReached {
                setting: "--heads-bytes-max",
                reason: format!("all heads have {stored} bytes and this one {bytes}; the limit is {limit}"),
            });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Reserved> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QuotaShare<'_> {
    /// Calls `publish`, which adds the version to the table, and releases the share, both under the writers' lock.
    pub fn publish<T>(mut self, publish: impl FnOnce() -> T) -> T {
        let mut reserved = self.quota.lock();
        let published = publish();
        reserved.heads -= self.heads;
        reserved.bytes -= self.bytes;
        (self.heads, self.bytes) = (0, 0);
        published
    }
}

impl Drop for QuotaShare<'_> {
    fn drop(&mut self) {
        let mut reserved = self.quota.lock();
        reserved.heads -= self.heads;
        reserved.bytes -= self.bytes;
    }
}
