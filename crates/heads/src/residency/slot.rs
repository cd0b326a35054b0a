//! What one version keeps in memory, and the requests that wait for its load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;

use super::load_queue::Urgency;
use super::lru::Usage;
use crate::error::HeadError;
use crate::weights::HeadWeights;

/// Where a version's weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// On the device.
    Hot,
    /// In host memory.
    Warm,
    /// In the store only.
    Cold,
}

/// A version on the device. It stays there until this and all clones are dropped.
#[derive(Debug)]
pub struct PinnedHead<R> {
    /// What is on the device.
    pub resident: Arc<R>,
    /// K labels, or none.
    pub labels: Arc<[String]>,
}

impl<R> Clone for PinnedHead<R> {
    fn clone(&self) -> Self {
        Self {
            resident: Arc::clone(&self.resident),
            labels: Arc::clone(&self.labels),
        }
    }
}

/// The result of a load; all requests that waited for it share the error.
pub type Loaded<R> = Result<PinnedHead<R>, Arc<HeadError>>;

/// The memory of one version.
#[derive(Debug)]
pub(crate) struct ResidencySlot<R> {
    /// Unique among all versions in this process.
    pub id: u64,
    last_use: AtomicU64,
    answers: AtomicU64,
    state: Mutex<State<R>>,
}

/// Guarded by the slot's lock, which is held only to read and move pointers.
#[derive(Debug)]
pub(crate) struct State<R> {
    pub hot: Option<PinnedHead<R>>,
    pub warm: Option<HeadWeights>,
    /// The requests that wait for the load that is queued or running, if one is.
    pub waiters: Option<Waiters<R>>,
    /// True once no request may name the version.
    pub retired: bool,
}

/// Requests that wait for one load.
#[derive(Debug)]
pub(crate) struct Waiters<R> {
    senders: Vec<oneshot::Sender<Loaded<R>>>,
    /// The highest urgency of any request added.
    pub urgency: Urgency,
}

impl<R> Waiters<R> {
    pub fn new(first: oneshot::Sender<Loaded<R>>, urgency: Urgency) -> Self {
        Self {
            senders: vec![first],
            urgency,
        }
    }

    /// Adds a request and removes those that gave up, which bounds the list. Returns true if the load became more urgent.
    pub fn add(&mut self, sender: oneshot::Sender<Loaded<R>>, urgency: Urgency) -> bool {
        self.senders.retain(|waiter| !waiter.is_canceled());
        self.senders.push(sender);
        let before = self.urgency;
        self.urgency = before.max(urgency);
        self.urgency > before
    }

    pub fn all_gave_up(&self) -> bool {
        self.senders.iter().all(oneshot::Sender::is_canceled)
    }

    pub fn wake(self, loaded: &Loaded<R>) {
        for waiter in self.senders {
            let _ = waiter.send(loaded.clone());
        }
    }
}

impl<R> ResidencySlot<R> {
    pub fn new(id: u64, hot: Option<PinnedHead<R>>) -> Self {
        Self {
            id,
            last_use: AtomicU64::new(id),
            answers: AtomicU64::new(0),
            state: Mutex::new(State {
                hot,
                warm: None,
                waiters: None,
                retired: false,
            }),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn used(&self, now: u64) {
        self.last_use.fetch_max(now, Ordering::Relaxed);
    }

    pub fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }

    /// The usage of its device memory: in use if the pinned head has another owner than the slot.
    pub fn usage(&self) -> Usage {
        let state = self.lock();
        let in_use = state.hot.as_ref().is_some_and(PinnedHead::is_shared);
        Usage {
            last_use: self.last_use(),
            in_use,
        }
    }

    /// Returns its labels, if they are in memory.
    pub fn labels(&self) -> Option<Arc<[String]>> {
        let state = self.lock();
        let hot = state.hot.as_ref().map(|pinned| &pinned.labels);
        hot.or(state.warm.as_ref().map(|weights| &weights.labels)).cloned()
    }

    pub fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }
}

impl<R> PinnedHead<R> {
    /// Returns true if it has other owners. All are cloned under the slot's lock, so that the result cannot change while
    /// the caller holds that lock.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.resident) > 1
    }
}

impl<R> State<R> {
    /// Returns none once the version is retired.
    pub fn tier(&self) -> Option<Tier> {
        match self {
            Self { retired: true, .. } => None,
            Self { hot: Some(_), .. } => Some(Tier::Hot),
            Self { warm: Some(_), .. } => Some(Tier::Warm),
            _ => Some(Tier::Cold),
        }
    }
}
