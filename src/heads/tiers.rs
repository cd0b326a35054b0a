//! Which versions are on the device, which in host memory, and which leave for others.
//!
//! Locks are taken in this order: `hot`, `warm`, a version's slot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{HeadError, RESIDENT_BYTES_MAX};
use super::lru::{Lru, Usage};
use super::metrics::HeadMetrics;
use super::room::{Reservation, Room};
use super::slot::{Lease, Slot, State};
use super::version::{HeadInfo, HeadVersion};
use super::weights::HeadWeights;

/// The versions of one device, by where they are.
pub(super) struct Tiers<R> {
    metrics: HeadMetrics,
    /// Numbers uses and versions.
    clock: AtomicU64,
    room: Room,
    hot: Mutex<Lru<Arc<HeadVersion<R>>>>,
    warm_bytes_max: u64,
    warm: Mutex<Lru<Arc<HeadVersion<R>>>>,
}

impl<R> Tiers<R> {
    pub fn new(resident_bytes_max: u64, warm_bytes_max: u64, metrics: HeadMetrics) -> Self {
        Self {
            metrics,
            clock: AtomicU64::new(1),
            room: Room::new(resident_bytes_max),
            hot: Mutex::default(),
            warm_bytes_max,
            warm: Mutex::default(),
        }
    }

    /// A new version, on the device or in the store alone. One that is on the device without being
    /// [kept](Tiers::keep_hot) there as others are never leaves.
    pub fn version(&self, info: HeadInfo, hot: Option<Lease<R>>) -> Arc<HeadVersion<R>> {
        let slot = Slot::new(self.tick(), hot);
        self.metrics.moved(None, slot.lock().tier(), info.resident_bytes);
        Arc::new(HeadVersion { info, slot })
    }

    /// The number of a use.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes room on the device if it is there.
    pub fn take(&self, bytes: u64) -> Option<Reservation> {
        self.room.take(bytes)
    }

    /// Makes room on the device for a version, and takes it.
    pub fn reserve(&self, info: &HeadInfo) -> Result<Reservation, HeadError> {
        let (bytes, most) = (info.resident_bytes, self.room.most());
        if bytes > most {
            let setting = RESIDENT_BYTES_MAX;
            let reason = format!(
                "head `{}` needs {bytes} bytes on the device, where {most} are the most",
                info.name
            );
            return Err(HeadError::LimitReached { setting, reason });
        }
        let mut hot = lock(&self.hot);
        loop {
            if let Some(reservation) = self.room.take(bytes) {
                return Ok(reservation);
            }
            let usage = |version: &Arc<HeadVersion<R>>| version.slot.usage();
            let Some(victims) = hot.victims(self.room.lacking(bytes), usage) else {
                let (name, version) = (info.name.clone(), info.version);
                return Err(HeadError::NoRoom {
                    name,
                    version,
                    bytes,
                    most,
                });
            };
            for (id, victim) in victims {
                // Somebody may have come to use it meanwhile; then others are looked for.
                let unused = |state: &mut State<R>| state.hot.take_if(|lease| !lease.is_shared());
                if self.change(&victim, unused).is_some() {
                    hot.remove(id);
                    self.metrics.evicted();
                }
            }
        }
    }

    /// Keeps a version on the device for as long as there is room, unless it was let go meanwhile. Returns what `change`
    /// made of its slot at the same moment.
    pub fn keep_hot<T>(
        &self,
        version: &Arc<HeadVersion<R>>,
        lease: Option<Lease<R>>,
        change: impl FnOnce(&mut State<R>) -> T,
    ) -> T {
        let mut hot = lock(&self.hot);
        self.change(version, |state| {
            if let Some(lease) = lease.filter(|_| !state.let_go) {
                state.hot = Some(lease);
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
            if !state.let_go {
                state.warm = Some(weights.clone());
                let slot = &version.slot;
                warm.insert(slot.id, slot.last_use(), bytes, Arc::clone(version));
            }
        });
    }

    /// Forgets a version that no request may name any more. Those who have it keep it.
    pub fn let_go(&self, version: &HeadVersion<R>) {
        let (mut hot, mut warm) = (lock(&self.hot), lock(&self.warm));
        hot.remove(version.slot.id);
        warm.remove(version.slot.id);
        self.change(version, |state| {
            state.let_go = true;
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
