//! How requests get at versions: what is on the device is had at once, what is not is loaded once for all who wait.
//!
//! To make room, the least recently used leaves first, and what somebody has a [`Lease`] of never.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::channel::oneshot;

use super::error::{HeadError, PlaceError};
use super::load::{LoadTask, Pending};
use super::metrics::HeadMetrics;
use super::room::Reservation;
use super::slot::{Lease, State};
use super::store::HeadStore;
use super::tiers::Tiers;
use super::version::{HeadInfo, HeadVersion};
use super::weights::HeadWeights;

/// Puts weights on the device, trial forward pass included. What comes out keeps the reservation for as long as it is
/// there.
pub type Place<R> = dyn Fn(&HeadWeights, Reservation) -> Result<R, PlaceError> + Send + Sync;

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
    Hot(Lease<R>),
    /// Somebody brings it there.
    Wait(Pending<R>),
    /// Whoever gets this runs the task, which blocks: it brings this version there, and others that wait.
    Load(Pending<R>, LoadTask<R>),
}

/// See the module's text.
pub(super) struct Residency<R> {
    pub tiers: Tiers<R>,
    store: Arc<dyn HeadStore>,
    place: Box<Place<R>>,
    metrics: HeadMetrics,
    loads_max: usize,
    loads: Mutex<Loads<R>>,
}

/// Versions that somebody waits for. Each is here once, so there are no more than versions.
struct Loads<R> {
    running: usize,
    queue: VecDeque<Arc<HeadVersion<R>>>,
}

impl<R> Residency<R> {
    pub fn new(limits: ResidencyLimits, store: Arc<dyn HeadStore>, place: Box<Place<R>>, metrics: HeadMetrics) -> Self {
        Self {
            tiers: Tiers::new(limits.resident_bytes_max, limits.warm_bytes_max, metrics.clone()),
            store,
            place,
            metrics,
            loads_max: limits.loads_max.max(1),
            loads: Mutex::new(Loads {
                running: 0,
                queue: VecDeque::new(),
            }),
        }
    }

    /// Puts weights on the device.
    pub fn put(&self, weights: &HeadWeights, reservation: Reservation) -> Result<Lease<R>, HeadError> {
        Ok(Lease {
            resident: Arc::new((self.place)(weights, reservation)?),
            labels: Arc::clone(&weights.labels),
        })
    }

    /// A version that was just put on the device and written to the store.
    pub fn admit(&self, info: HeadInfo, lease: Lease<R>, weights: &HeadWeights) -> Arc<HeadVersion<R>> {
        let version = self.tiers.version(info, None);
        self.tiers.keep_hot(&version, Some(lease), |_| ());
        self.tiers.keep_warm(&version, weights);
        version
    }

    /// The backbone's own: in no store, so always on the device, and no part of what heads may take there.
    pub fn pin(&self, info: HeadInfo, weights: &HeadWeights) -> Result<Arc<HeadVersion<R>>, HeadError> {
        let lease = self.put(weights, Reservation::default())?;
        Ok(self.tiers.version(info, Some(lease)))
    }

    /// The version, at once or as soon as it is loaded. What fails to load is tried again for the next who asks.
    pub fn acquire(self: &Arc<Self>, version: &Arc<HeadVersion<R>>) -> Acquired<R> {
        version.slot.used(self.tiers.tick());
        if let Some(lease) = &version.slot.lock().hot {
            return Acquired::Hot(lease.clone());
        }
        let (sender, receiver) = oneshot::channel();
        let pending = Pending(receiver);
        match &mut *version.slot.lock() {
            State { hot: Some(lease), .. } => return Acquired::Hot(lease.clone()),
            State { let_go: true, .. } => {
                let _ = sender.send(Err(Arc::new(let_go(&version.info))));
                return Acquired::Wait(pending);
            }
            State {
                waiters: Some(waiters), ..
            } => {
                // Whoever has gone leaves, so that there are never more than requests.
                waiters.retain(|waiter| !waiter.is_canceled());
                waiters.push(sender);
                return Acquired::Wait(pending);
            }
            State { waiters, .. } => *waiters = Some(vec![sender]),
        }
        let mut loads = self.loads();
        loads.queue.push_back(Arc::clone(version));
        if loads.running == self.loads_max {
            return Acquired::Wait(pending);
        }
        loads.running += 1;
        Acquired::Load(pending, LoadTask(Some(Arc::clone(self))))
    }

    /// The next version that somebody still waits for. None ends one of the running loads.
    pub fn next_load(&self) -> Option<Arc<HeadVersion<R>>> {
        let mut loads = self.loads();
        while let Some(version) = loads.queue.pop_front() {
            let mut state = version.slot.lock();
            if state.waiters.iter().flatten().any(|waiter| !waiter.is_canceled()) {
                drop(state);
                return Some(version);
            }
            state.waiters = None;
        }
        loads.running -= 1;
        None
    }

    /// Ends one of the running loads before it has found the queue empty.
    pub fn abandon_loads(&self) {
        self.loads().running -= 1;
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
            loaded = Err(let_go(info));
        }
        if let Err(error) = &loaded {
            tracing::warn!(head = %info.name, version = info.version, %error, "a head was not loaded");
        }
        let loaded = loaded.map_err(Arc::new);
        let lease = loaded.as_ref().ok().cloned();
        let waiters = self.tiers.keep_hot(version, lease, |state| state.waiters.take());
        for waiter in waiters.into_iter().flatten() {
            let _ = waiter.send(loaded.clone());
        }
    }

    /// Brings a version to the device before anybody asks, if there is room for it; false if not.
    pub fn load_early(&self, version: &Arc<HeadVersion<R>>) -> Result<bool, HeadError> {
        let Some(reservation) = self.tiers.take(version.info.resident_bytes) else {
            return Ok(false);
        };
        let lease = self.timed(|| self.bring(version, reservation))?;
        self.tiers.keep_hot(version, Some(lease), |_| ());
        Ok(true)
    }

    fn bring(&self, version: &Arc<HeadVersion<R>>, reservation: Reservation) -> Result<Lease<R>, HeadError> {
        let warm = version.slot.lock().warm.clone();
        let weights = warm.map_or_else(|| self.store.load(&version.info), Ok)?;
        let lease = self.put(&weights, reservation)?;
        self.tiers.keep_warm(version, &weights);
        Ok(lease)
    }

    fn timed(&self, load: impl FnOnce() -> Result<Lease<R>, HeadError>) -> Result<Lease<R>, HeadError> {
        let started = Instant::now();
        let loaded = load();
        self.metrics.loaded(&loaded, started.elapsed());
        loaded
    }

    fn loads(&self) -> MutexGuard<'_, Loads<R>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn let_go(info: &HeadInfo) -> HeadError {
    let (name, version) = (info.name.clone(), info.version);
    HeadError::LetGo { name, version }
}
