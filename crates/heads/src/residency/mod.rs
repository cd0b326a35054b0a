//! Pins versions on the device for requests. A version that is not there is loaded once for all requests that wait.
//!
//! To make space, the least recently used versions are evicted; one that has a [`PinnedHead`] never is.

mod byte_budget;
mod load_queue;
mod loader;
mod lru;
mod slot;
mod tiers;

pub(crate) use self::byte_budget::Demand;
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
use crate::shared_tensor::TensorPool;
use crate::store::HeadStore;
use crate::version::{HeadInfo, HeadVersion};
use crate::weights::HeadWeights;

/// Puts heads on the device.
pub trait HeadPlacer<R>: Send + Sync {
    /// Places `weights` and runs a trial forward pass. The result must keep `reservation` until it leaves the device.
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

/// Limits of the memory of heads and of concurrent loads.
#[derive(Clone, Copy, Debug)]
pub struct ResidencyLimits {
    /// Maximum bytes on the device (`--heads-resident-bytes-max`).
    pub resident_bytes_max: u64,
    /// Maximum bytes in host memory, copies of what is on the device included (`--heads-warm-bytes-max`).
    pub warm_bytes_max: u64,
    /// Maximum number of concurrent loads (`--head-loads-max`).
    pub loads_max: usize,
}

/// A version, now or once it is loaded.
pub enum Acquired<R> {
    /// It is on the device.
    Hot(PinnedHead<R>),
    /// A task loads it, or will.
    Wait(Pending<R>),
    /// The caller must run the task, which blocks: it loads this version and others in the queue.
    Load(Pending<R>, LoadTask<R>),
}

/// Weights on the device that are not published yet. Dropping this removes them.
pub(crate) struct Trial<R> {
    pinned: PinnedHead<R>,
    bytes: Reservation,
}

/// The versions in memory, and the loads that bring them there.
pub(crate) struct Residency<R> {
    pub tiers: Tiers<R>,
    pool: TensorPool,
    store: Arc<dyn HeadStore>,
    placer: Box<dyn HeadPlacer<R>>,
    metrics: HeadMetrics,
    loads_max: usize,
    loads: Mutex<Loads<R>>,
}

/// Loads in progress and queued. A version is queued at most once, which bounds the queue.
struct Loads<R> {
    /// The number of [`LoadTask`]s.
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
            pool: TensorPool::default(),
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

    /// Returns weights with the tensors of other versions in the place of equal ones.
    pub fn pooled(&self, weights: HeadWeights) -> HeadWeights {
        HeadWeights {
            parameters: self.pool.share(&weights.parameters),
            ..weights
        }
    }

    /// Places weights on the device.
    fn place(&self, weights: &HeadWeights, reservation: Reservation) -> Result<PinnedHead<R>, HeadError> {
        Ok(PinnedHead {
            resident: Arc::new(self.placer.place(weights, reservation)?),
            labels: Arc::clone(&weights.labels),
        })
    }

    /// Creates the version of weights that are on the device and in the store.
    pub fn insert(&self, info: HeadInfo, pinned: PinnedHead<R>, weights: &HeadWeights) -> Arc<HeadVersion<R>> {
        let version = self.tiers.version(info, None);
        self.tiers.keep_hot(&version, Some(pinned), |_| ());
        self.tiers.keep_warm(&version, weights);
        version
    }

    /// Creates the backbone's own version. It is not in the store, so it stays on the device; it does not count toward the
    /// limit of heads.
    pub fn pin(&self, info: HeadInfo, weights: &HeadWeights) -> Result<Arc<HeadVersion<R>>, HeadError> {
        let pinned = self.place(weights, Reservation::default())?;
        Ok(self.tiers.version(info, Some(pinned)))
    }

    /// Places weights on the device for a trial, in the budget of trials: nothing is evicted for them.
    pub fn try_out(&self, info: &HeadInfo, weights: &HeadWeights) -> Result<Trial<R>, HeadError> {
        let reservation = self.tiers.reserve_trial(info)?;
        let bytes = reservation.share();
        let pinned = self.place(weights, reservation)?;
        Ok(Trial { pinned, bytes })
    }

    /// Moves a trial to the budget of versions, for which the least recently used are evicted.
    pub fn keep_trial(&self, info: &HeadInfo, trial: Trial<R>) -> Result<PinnedHead<R>, HeadError> {
        trial.bytes.move_into(self.tiers.reserve(info)?);
        Ok(trial.pinned)
    }

    /// Pins a version: at once if it is on the device, otherwise once it is loaded. After a failed load, the next request
    /// starts another.
    pub fn acquire(self: &Arc<Self>, version: &Arc<HeadVersion<R>>, urgency: Urgency) -> Acquired<R> {
        version.slot.used(self.tiers.tick());
        if let Some(pinned) = &version.slot.lock().hot {
            return Acquired::Hot(pinned.clone());
        }
        let (sender, receiver) = oneshot::channel();
        let (pending, mut is_first) = (Pending(receiver), false);
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
                is_first = true;
            }
        }
        let mut loads = self.loads();
        if !is_first {
            loads.queue.promote(|queued| queued.slot.id == version.slot.id);
            return Acquired::Wait(pending);
        }
        // A more urgent request may have started to wait before the version enters the queue.
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

    /// Returns the next queued version for which a request still waits. If there is none, the calling task has ended.
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

    /// Ends a task that has not emptied the queue. If no other task is left to do so, the queued requests get
    /// [`HeadError::LoadsStopped`], and the next request starts a task.
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

    /// Loads a version onto the device and sends the result to the requests that wait for it.
    pub fn load(&self, version: &Arc<HeadVersion<R>>) {
        let info = &version.info;
        let mut loaded = self.timed(|| {
            catch_unwind(AssertUnwindSafe(|| self.load_into(version, self.tiers.reserve(info)?))).unwrap_or_else(|_| {
                let (name, version) = (info.name.clone(), info.version);
                Err(HeadError::LoadPanicked { name, version })
            })
        });
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

    /// Loads a version before any request names it, if the device has space. Returns true if it was loaded.
    pub fn load_early(&self, version: &Arc<HeadVersion<R>>) -> Result<bool, HeadError> {
        let Some(reservation) = self.tiers.try_reserve(&version.info) else {
            return Ok(false);
        };
        let pinned = self.timed(|| self.load_into(version, reservation))?;
        self.tiers.keep_hot(version, Some(pinned), |_| ());
        Ok(true)
    }

    /// Loads a version, from host memory or the store, into reserved bytes of the device.
    fn load_into(&self, version: &Arc<HeadVersion<R>>, reservation: Reservation) -> Result<PinnedHead<R>, HeadError> {
        let warm = version.slot.lock().warm.clone();
        let weights = match warm {
            Some(weights) => weights,
            None => self.pooled(self.store.load(&version.info)?),
        };
        let pinned = self.place(&weights, reservation)?;
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

/// Returns the error for a version that no request may name any more.
pub(crate) fn retired(info: &HeadInfo) -> HeadError {
    let (name, version) = (info.name.clone(), info.version);
    HeadError::Retired { name, version }
}
