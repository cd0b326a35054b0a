//! Which versions are on the device and which in host memory, and which are evicted to make space.
//!
//! Locks are taken in this order: `hot`, `warm`, a version's slot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::byte_budget::{ByteBudget, Reservation};
use super::lru::{Lru, Usage};
use super::slot::{PinnedHead, ResidencySlot, State};
use crate::error::{HeadError, RESIDENT_BYTES_MAX};
use crate::metrics::HeadMetrics;
use crate::version::{HeadInfo, HeadVersion};
use crate::weights::HeadWeights;

/// The budget of trials is that of heads plus these bytes, so that small swaps fit beside a large one.
pub(crate) const TRIAL_BYTES_BESIDE: u64 = 64 << 20;

/// The versions of one device, by tier.
pub(crate) struct Tiers<R> {
    metrics: HeadMetrics,
    /// A logical clock that numbers uses and versions.
    clock: AtomicU64,
    budget: ByteBudget,
    /// For new versions that are tried before any other is evicted for them.
    trial_budget: ByteBudget,
    hot: Mutex<Lru<Arc<HeadVersion<R>>>>,
    warm_bytes_max: u64,
    warm: Mutex<Lru<Arc<HeadVersion<R>>>>,
}

impl<R> Tiers<R> {
    pub fn new(resident_bytes_max: u64, warm_bytes_max: u64, metrics: HeadMetrics) -> Self {
        Self {
            metrics,
            clock: AtomicU64::new(1),
            budget: ByteBudget::new(resident_bytes_max),
            trial_budget: ByteBudget::new(resident_bytes_max.saturating_add(TRIAL_BYTES_BESIDE)),
            hot: Mutex::default(),
            warm_bytes_max,
            warm: Mutex::default(),
        }
    }

    /// Creates a version. One with `hot` is never evicted, unlike those of [`Tiers::keep_hot`].
    pub fn version(&self, info: HeadInfo, hot: Option<PinnedHead<R>>) -> Arc<HeadVersion<R>> {
        let slot = ResidencySlot::new(self.tick(), hot);
        self.metrics.moved(None, slot.lock().tier(), info.resident_bytes);
        Arc::new(HeadVersion { info, slot })
    }

    /// Returns the number of a new use.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Reserves bytes on the device without evicting anything.
    pub fn try_reserve(&self, info: &HeadInfo) -> Option<Reservation> {
        self.budget.reserve(&info.demand())
    }

    /// Reserves bytes for a trial; nothing is evicted.
    pub fn reserve_trial(&self, info: &HeadInfo) -> Result<Reservation, HeadError> {
        self.check_size(info)?;
        self.trial_budget
            .reserve(&info.demand())
            .ok_or_else(|| self.no_room(info))
    }

    /// Fails if [`Tiers::reserve`] would fail; nothing is evicted.
    pub fn check_space(&self, info: &HeadInfo) -> Result<(), HeadError> {
        self.check_size(info)?;
        let mut hot = lock(&self.hot);
        let victims = hot.victims(self.budget.lacking(&info.demand()), usage);
        victims.map(drop).ok_or_else(|| self.no_room(info))
    }

    /// Reserves bytes on the device for a version, for which others are evicted. A victim may free fewer bytes than it has, as
    /// tensors that it shares stay; then the loop evicts more.
    pub fn reserve(&self, info: &HeadInfo) -> Result<Reservation, HeadError> {
        self.check_size(info)?;
        let demand = info.demand();
        let mut hot = lock(&self.hot);
        loop {
            if let Some(reservation) = self.budget.reserve(&demand) {
                return Ok(reservation);
            }
            let victims = hot.victims(self.budget.lacking(&demand), usage);
            let victims = victims.ok_or_else(|| self.no_room(info))?;
            for (id, victim) in victims {
                // A request may have pinned it since; then the loop looks for other victims.
                let evicted = self.change(&victim, |state| state.hot.take_if(|pinned| !pinned.is_shared()));
                if evicted.is_some() {
                    hot.remove(id);
                    self.metrics.evicted();
                }
            }
        }
    }

    fn check_size(&self, info: &HeadInfo) -> Result<(), HeadError> {
        let (bytes, limit) = (info.resident_bytes, self.budget.bytes_max());
        if bytes <= limit {
            return Ok(());
        }
        let name = &info.name;
        Err(HeadError::LimitReached {
            setting: RESIDENT_BYTES_MAX,
            reason: format!("head `{name}` needs {bytes} bytes on the device; the limit is {limit}"),
        })
    }

    fn no_room(&self, info: &HeadInfo) -> HeadError {
        HeadError::NoRoom {
            name: info.name.clone(),
            version: info.version,
            bytes: info.resident_bytes,
            most: self.budget.bytes_max(),
        }
    }

    /// Keeps a version on the device until it is evicted, unless it is retired. Calls `change` under the same lock of its
    /// slot and returns the result.
    pub fn keep_hot<T>(
        &self,
        version: &Arc<HeadVersion<R>>,
        pinned: Option<PinnedHead<R>>,
        change: impl FnOnce(&mut State<R>) -> T,
    ) -> T {
        let mut hot = lock(&self.hot);
        self.change(version, |state| {
            if let Some(pinned) = pinned.filter(|_| !state.retired) {
                state.hot = Some(pinned);
                let slot = &version.slot;
                hot.insert(
                    slot.id,
                    slot.last_use(),
                    version.info.resident_bytes,
                    Arc::clone(version),
                );
            }
            change(state)
        })
    }

    /// Keeps a version's weights in host memory until they are evicted, unless it is retired.
    pub fn keep_warm(&self, version: &Arc<HeadVersion<R>>, weights: &HeadWeights) {
        let bytes = version.info.resident_bytes;
        if bytes > self.warm_bytes_max {
            return;
        }
        let mut warm = lock(&self.warm);
        warm.remove(version.slot.id);
        let lacking = (warm.bytes() + bytes).saturating_sub(self.warm_bytes_max);
        let victims = warm.victims(lacking, |version| Usage {
            last_use: version.slot.last_use(),
            in_use: false,
        });
        for (id, victim) in victims.unwrap_or_default() {
            warm.remove(id);
            self.change(&victim, |state| state.warm = None);
        }
        self.change(version, |state| {
            if !state.retired {
                state.warm = Some(weights.clone());
                let slot = &version.slot;
                warm.insert(slot.id, slot.last_use(), bytes, Arc::clone(version));
            }
        });
    }

    /// Retires a version: no request may name it any more. Pinned heads stay valid.
    pub fn retire(&self, version: &HeadVersion<R>) {
        let (mut hot, mut warm) = (lock(&self.hot), lock(&self.warm));
        hot.remove(version.slot.id);
        warm.remove(version.slot.id);
        self.change(version, |state| {
            state.retired = true;
            state.hot = None;
            state.warm = None;
        });
    }

    /// Changes a slot and counts the change of its tier; all changes of tiers go through here.
    fn change<T>(&self, version: &HeadVersion<R>, change: impl FnOnce(&mut State<R>) -> T) -> T {
        let mut state = version.slot.lock();
        let before = state.tier();
        let result = change(&mut state);
        self.metrics.moved(before, state.tier(), version.info.resident_bytes);
        result
    }
}

fn usage<R>(version: &Arc<HeadVersion<R>>) -> Usage {
    version.slot.usage()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
