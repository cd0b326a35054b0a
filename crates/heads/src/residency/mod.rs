//! How requests get at versions: what is on the device is had at once, what is not is loaded once for all who wait.
//!
//! To make room, the least recently used leaves first, and what somebody has a [`PinnedHead`] of never.

mod byte_budget;
mod load_queue;
mod loader;
mod lru;
mod slot;
mod tiers;

pub use self::byte_budget::Reservation;
pub use self::load_queue::Urgency;
pub use self::loader::{LoadTask, Pending};
pub(crate) use self::slot::ResidencySlot;
pub use self::slot::{PinnedHead, Tier};

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::channel::oneshot;

use self::load_queue::LoadQueue;
use self::slot::{Loaded, State, Waiters};
use self::tiers::Tiers;
use crate::error::{HeadError, PlaceError};
use crate::metrics::HeadMetrics;
use crate::store::HeadStore;
use crate::version::{HeadInfo, HeadVersion};
use crate::weights::HeadWeights;

/// Puts heads on the device.
pub trait HeadPlacer<R>: Send + Sync {
    /// Places `weights` and proves with a trial forward pass that they compute. What is returned keeps the reservation until
    /// it leaves the device.
    ///
    /// # Errors
    /// [`PlaceError`].
    fn place(&self, weights: &HeadWeights, reservation: Reservation) -> Result<R, PlaceError>;
}

impl<R, F> HeadPlacer<R> for F
where
    F: Fn(&HeadWeights, Reservation) -> Result<R, PlaceError> + Send + Sync,
{
    fn place(&self, weights: &HeadWeights, reservation: Reservation) -> Result<R, PlaceError> {
        self(weights, reservation)
    }
}

/// What bounds the memory of heads, and the work of bringing them there.
#[derive(Clone, Copy, Debug)]
pub struct ResidencyLimits {
    /// Bytes on the device at most (`--heads-resident-bytes-max`).
    pub resident_bytes_max: u64,
    /// Bytes kept in host memory at most, copies of what is on the device included (`--heads-warm-bytes-max`).
    pub warm_bytes_max: u64,
    /// Loads at the same time at most (`--head-loads-max`).
    pub loads_max: usize,
}

/// A version, now or soon.
pub enum Acquired<R> {
    /// It is on the device.
    Hot(PinnedHead<R>),
    /// Somebody brings it there.
    Wait(Pending<R>),
    /// Whoever gets this runs the task, which blocks: it brings this version there, and others that wait.
    Load(Pending<R>, LoadTask<R>),
}

/// Weights on the device that are not a version's yet. Dropping this takes them off.
pub(crate) struct Trial<R> {
    pinned: PinnedHead<R>,
    bytes: Reservation,
}

/// See the module's text.
pub(crate) struct Residency<R> {
    pub tiers: Tiers<R>,
    store: Arc<dyn HeadStore>,
    placer: Box<dyn HeadPlacer<R>>,
    metrics: HeadMetrics,
    loads_max: usize,
    loads: Mutex<Loads<R>>,
}

/// Versions that requests wait for. Each is here once, so there are no more than versions.
struct Loads<R> {
    running: usize,
    queue: LoadQueue<Arc<HeadVersion<R>>>,
}

impl<R> Residency<R> {
    pub fn new(
        limits: ResidencyLimits,
        store: Arc<dyn HeadStore>,
        placer: Box<dyn HeadPlacer<R>>,
        metrics: HeadMetrics,
    ) -> Self {
        Self {
            tiers: Tiers::new(limits.resident_bytes_max, limits.warm_bytes_max, metrics.clone()),
            store,
            placer,
            metrics,
            loads_max: limits.loads_max.max(1),
            loads: Mutex::new(Loads {
                running: 0,
                queue: LoadQueue::default(),
            }),
        }
    }

    /// Puts weights on the device.
    pub fn put(&self, weights: &HeadWeights, reservation: Reservation) -> Result<PinnedHead<R>, HeadError> {
        Ok(PinnedHead {
            resident: Arc::new(self.placer.place(weights, reservation)?),
            labels: Arc::clone(&weights.labels),
        })
    }

    /// A version that was just put on the device and written to the store.
    pub fn admit(&self, info: HeadInfo, pinned: PinnedHead<R>, weights: &HeadWeights) -> Arc<HeadVersion<R>> {
        let version = self.tiers.version(info, None);
        self.tiers.keep_hot(&version, Some(pinned), |_| ());
        self.tiers.keep_warm(&version, weights);
        version
    }

    /// The backbone's own: in no store, so always on the device, and no part of what heads may take there.
    pub fn pin(&self, info: HeadInfo, weights: &HeadWeights) -> Result<Arc<HeadVersion<R>>, HeadError> {
        let pinned = self.put(weights, Reservation::default())?;
        Ok(self.tiers.version(info, Some(pinned)))
    }

    /// Puts weights on the device for a trial, beside what is there: nothing leaves for them.
    pub fn try_out(&self, info: &HeadInfo, weights: &HeadWeights) -> Result<Trial<R>, HeadError> {
        let reservation = self.tiers.reserve_trial(info)?;
        let bytes = reservation.share();
        let pinned = self.put(weights, reservation)?;
        Ok(Trial { pinned, bytes })
    }

    /// Moves what passed its trial to where versions stay; the least recently used leave for it.
    pub fn settle(&self, info: &HeadInfo, trial: Trial<R>) -> Result<PinnedHead<R>, HeadError> {
        trial.bytes.move_into(self.tiers.reserve(info)?);
        Ok(trial.pinned)
    }

    /// The version, at once or as soon as it is loaded. What fails to load is tried again for the next who asks.
    pub fn acquire(self: &Arc<Self>, version: &Arc<HeadVersion<R>>, urgency: Urgency) -> Acquired<R> {
        version.slot.used(self.tiers.tick());
        if let Some(pinned) = &version.slot.lock().hot {
            return Acquired::Hot(pinned.clone());
        }
        let (sender, receiver) = oneshot::channel();
        let (pending, mut first) = (Pending(receiver), false);
        match &mut *version.slot.lock() {
            State { hot: Some(pinned), .. } => return Acquired::Hot(pinned.clone()),
            State { retired: true, .. } => {
                let _ = sender.send(Err(Arc::new(retired(&version.info))));
                return Acquired::Wait(pending);
            }
            State {
                waiters: Some(waiters), ..
            } => {
                if !waiters.add(sender, urgency) {
                    return Acquired::Wait(pending);
                }
            }
            State { waiters, .. } => {
                *waiters = Some(Waiters::new(sender, urgency));
                first = true;
            }
        }
        let mut loads = self.loads();
        if !first {
            loads.queue.promote(|queued| queued.slot.id == version.slot.id);
            return Acquired::Wait(pending);
        }
        // A more urgent request may have come to wait before the version was in the queue.
        let urgency = version
            .slot
            .lock()
            .waiters
            .as_ref()
            .map_or(urgency, |waiters| waiters.urgency);
        loads.queue.push(Arc::clone(version), urgency);
        if loads.running == self.loads_max {
            return Acquired::Wait(pending);
        }
        loads.running += 1;
        Acquired::Load(pending, LoadTask(Some(Arc::clone(self))))
    }

    /// The next version that somebody still waits for. None ends one of the running loads.
    pub fn next_load(&self) -> Option<Arc<HeadVersion<R>>> {
        let mut loads = self.loads();
        while let Some(version) = loads.queue.pop() {
            let mut state = version.slot.lock();
            if state.waiters.as_ref().is_some_and(|waiters| !waiters.all_gave_up()) {
                drop(state);
                return Some(version);
            }
            state.waiters = None;
        }
        loads.running -= 1;
        None
    }

    /// Ends one of the running loads before it has found the queue empty. If no other is left to take what is queued,
    /// those who wait for it get an error, and the next request tries again.
    pub fn abandon_loads(&self) {
        let mut loads = self.loads();
        loads.running -= 1;
        if loads.running > 0 {
            return;
        }
        let abandoned: Vec<_> = std::iter::from_fn(|| loads.queue.pop()).collect();
        drop(loads);
        let stopped: Loaded<R> = Err(Arc::new(HeadError::LoadsStopped));
        for version in abandoned {
            let waiters = version.slot.lock().waiters.take();
            if let Some(waiters) = waiters {
                waiters.wake(&stopped);
            }
        }
    }

    /// Brings a version to the device and tells those who wait for it. However it ends, the next try is a new one.
    pub fn load(&self, version: &Arc<HeadVersion<R>>) {
        let info = &version.info;
        let bring = || self.bring(version, self.tiers.reserve(info)?);
        let panicked = |_| {
            let (name, version) = (info.name.clone(), info.version);
            Err(HeadError::LoadPanicked { name, version })
        };
        let mut loaded = self.timed(|| catch_unwind(AssertUnwindSafe(bring)).unwrap_or_else(panicked));
        if loaded.is_err() && version.tier().is_none() {
            loaded = Err(retired(info));
        }
        if let Err(error) = &loaded {
            tracing::warn!(head = %info.name, version = info.version, %error, "a head was not loaded");
        }
        let loaded = loaded.map_err(Arc::new);
        let pinned = loaded.as_ref().ok().cloned();
        let waiters = self.tiers.keep_hot(version, pinned, |state| state.waiters.take());
        if let Some(waiters) = waiters {
            waiters.wake(&loaded);
        }
    }

    /// Brings a version to the device before anybody asks, if there is room for it; false if not.
    pub fn load_early(&self, version: &Arc<HeadVersion<R>>) -> Result<bool, HeadError> {
        let Some(reservation) = self.tiers.take(version.info.resident_bytes) else {
            return Ok(false);
        };
        let pinned = self.timed(|| self.bring(version, reservation))?;
        self.tiers.keep_hot(version, Some(pinned), |_| ());
        Ok(true)
    }

    fn bring(&self, version: &Arc<HeadVersion<R>>, reservation: Reservation) -> Result<PinnedHead<R>, HeadError> {
        let warm = version.slot.lock().warm.clone();
        let weights = warm.map_or_else(|| self.store.load(&version.info), Ok)?;
        let pinned = self.put(&weights, reservation)?;
        self.tiers.keep_warm(version, &weights);
        Ok(pinned)
    }

    fn timed(&self, load: impl FnOnce() -> Result<PinnedHead<R>, HeadError>) -> Result<PinnedHead<R>, HeadError> {
        let started = Instant::now();
        let loaded = load();
        self.metrics.loaded(&loaded, started.elapsed());
        loaded
    }

    fn loads(&self) -> MutexGuard<'_, Loads<R>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No request may name the version any more.
pub(crate) fn retired(info: &HeadInfo) -> HeadError {
    let (name, version) = (info.name.clone(), info.version);
    HeadError::Retired { name, version }
}
