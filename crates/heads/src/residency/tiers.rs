//! Which versions are on the device, which in host memory, and which leave for others.
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

/// Bytes of trials beside as many as heads may take on the device: small swaps find room beside a large one.
pub(crate) const TRIAL_BYTES_BESIDE: u64 = 64 << 20;

/// The versions of one device, by where they are.
pub(crate) struct Tiers<R> {
    metrics: HeadMetrics,
    /// Numbers uses and versions.
    clock: AtomicU64,
    budget: ByteBudget,
    /// For what is tried before it may take the place of others.
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

    /// A new version, on the device or in the store alone. One that is on the device without being
    /// [kept](Tiers::keep_hot) there as others are never leaves.
    pub fn version(&self, info: HeadInfo, hot: Option<PinnedHead<R>>) -> Arc<HeadVersion<R>> {
        let slot = ResidencySlot::new(self.tick(), hot);
        self.metrics.moved(None, slot.lock().tier(), info.resident_bytes);
        Arc::new(HeadVersion { info, slot })
    }

    /// The number of a use.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes room on the device if it is there.
    pub fn take(&self, bytes: u64) -> Option<Reservation> {
        self.budget.take(bytes)
    }

    /// Takes room for a trial, for which nothing leaves.
    pub fn reserve_trial(&self, info: &HeadInfo) -> Result<Reservation, HeadError> {
        self.check_size(info)?;
        self.trial_budget
            .take(info.resident_bytes)
            .ok_or_else(|| self.no_room(info))
    }

    /// Whether [`Tiers::reserve`] would succeed; nothing leaves.
    pub fn check_room(&self, info: &HeadInfo) -> Result<(), HeadError> {
        self.check_size(info)?;
        let mut hot = lock(&self.hot);
        let victims = hot.victims(self.budget.lacking(info.resident_bytes), usage);
        victims.map(drop).ok_or_else(|| self.no_room(info))
    }

    /// Makes room on the device for a version, and takes it.
    pub fn reserve(&self, info: &HeadInfo) -> Result<Reservation, HeadError> {
        self.check_size(info)?;
        let bytes = info.resident_bytes;
        let mut hot = lock(&self.hot);
        loop {
            if let Some(reservation) = self.budget.take(bytes) {
                return Ok(reservation);
            }
            let victims = hot.victims(self.budget.lacking(bytes), usage);
            let victims = victims.ok_or_else(|| self.no_room(info))?;
            for (id, victim) in victims {
                // Somebody may have come to use it meanwhile; then others are looked for.
                let unused = |state: &mut State<R>| state.hot.take_if(|pinned| !pinned.is_shared());
                if self.change(&victim, unused).is_some() {
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

    /// Keeps a version on the device for as long as there is room, unless it was let go meanwhile. Returns what `change`
    /// made of its slot at the same moment.
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

    /// Keeps a version's weights in host memory for as long as there is room, unless it was let go meanwhile.
    pub fn keep_warm(&self, version: &Arc<HeadVersion<R>>, weights: &HeadWeights) {
        let bytes = version.info.resident_bytes;
        if bytes > self.warm_bytes_max {
            return;
        }
        let mut warm = lock(&self.warm);
        warm.remove(version.slot.id);
        let lacking = (warm.bytes() + bytes).saturating_sub(self.warm_bytes_max);
        let usage = |version: &Arc<HeadVersion<R>>| Usage {
            last_use: version.slot.last_use(),
            in_use: false,
        };
        for (id, victim) in warm.victims(lacking, usage).unwrap_or_default() {
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

    /// Forgets a version that no request may name any more. Those who have it keep it.
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

    /// Every change of a slot that moves its version from one tier to another.
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
