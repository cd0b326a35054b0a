//! The heads of one request: resolved when it is admitted, on the device from its turn until it is answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headswap_engine::{Class, HeadSource, Pinned, PinnedHeads};
use headswap_heads::{Acquired, HeadError, HeadName, HeadRegistry, Pending, PinnedHead, Tier, Urgency};
use headswap_model::PlacedHead;
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};

use super::Version;

/// What a request holds of one head.
pub(super) struct Held {
    pub version: Version,
    pub pinned: PinnedHead<PlacedHead>,
}

/// The heads that a request asks for; each fails by itself.
pub(super) struct AskedHeads {
    registry: Arc<HeadRegistry<PlacedHead>>,
    /// The version of every head; 0 is the live one.
    version: u64,
    /// Whose loads come first.
    urgency: Urgency,
    heads: Mutex<Vec<AskedHead>>,
}

enum AskedHead {
    Resolved(HeadName, Version),
    Held(Held),
    Failed(Arc<HeadError>),
}

/// A head that is being loaded, and its place among those asked for.
type Loading = (usize, HeadName, Version, Pending<PlacedHead>);

impl AskedHeads {
    /// Resolves each name to the version that the request will run on.
    pub fn resolve(
        registry: &Arc<HeadRegistry<PlacedHead>>,
        names: &[String],
        version: u64,
        class: Class,
    ) -> Arc<Self> {
        let mut heads = Vec::with_capacity(names.len());
        for name in names {
            heads.push(match resolve(registry, name, version) {
                Ok((name, version)) => AskedHead::Resolved(name, version),
                Err(error) => AskedHead::Failed(Arc::new(error)),
            });
        }
        Arc::new(Self {
            registry: Arc::clone(registry),
            version,
            urgency: match class {
                Class::Interactive => Urgency::Interactive,
                Class::Bulk => Urgency::Bulk,
            },
            heads: Mutex::new(heads),
        })
    }

    /// The first head's error, if every head has failed: it speaks for the call.
    pub fn error_of_all(&self) -> Option<Arc<HeadError>> {
        let mut first = None;
        for head in self.lock().iter() {
            let AskedHead::Failed(error) = head else { return None };
            first.get_or_insert(Arc::clone(error));
        }
        first
    }

    /// Whether all of them need nothing but the backbone's features.
    pub fn share_features(&self) -> bool {
        let shares = |head: &AskedHead| match head {
            AskedHead::Resolved(_, version) | AskedHead::Held(Held { version, .. }) => {
                let parameters = &version.info.parameters;
                parameters.iter().all(|name| name == LAST_WEIGHT || name == LAST_BIAS)
            }
            AskedHead::Failed(_) => true,
        };
        self.lock().iter().all(shares)
    }

    /// What became of each head, in the order of the request. To be called once, after the answer.
    pub fn take(&self) -> Vec<Result<Held, Arc<HeadError>>> {
        let heads = std::mem::take(&mut *self.lock());
        let outcome = |head| match head {
            AskedHead::Held(held) => Some(Ok(held)),
            AskedHead::Failed(error) => Some(Err(error)),
            AskedHead::Resolved(..) => None,
        };
        heads.into_iter().filter_map(outcome).collect()
    }

    /// Takes the pinned of a version that is on the device; else it is loaded.
    fn acquire(&self, version: &Version) -> Result<PinnedHead<PlacedHead>, Pending<PlacedHead>> {
        match self.registry.acquire(version, self.urgency) {
            Acquired::Hot(pinned) => Ok(pinned),
            Acquired::Wait(pending) => Err(pending),
            Acquired::Load(pending, task) => {
                // Detached: others may wait for it, too.
                drop(tokio::task::spawn_blocking(|| task.run()));
                Err(pending)
            }
        }
    }

    /// Waits until a head is loaded. If its version was pruned meanwhile, a request for the live one gets the version
    /// that is live now.
    async fn loaded(&self, mut name: HeadName, mut version: Version, mut pending: Pending<PlacedHead>) -> AskedHead {
        loop {
            match pending.await {
                Ok(pinned) => return AskedHead::Held(Held { version, pinned }),
                Err(error) if matches!(*error, HeadError::Retired { .. }) => {
                    match resolve(&self.registry, name.as_str(), self.version) {
                        Ok(resolved) => (name, version) = resolved,
                        Err(error) => return AskedHead::Failed(Arc::new(error)),
                    }
                }
                Err(error) => return AskedHead::Failed(error),
            }
            match self.acquire(&version) {
                Ok(pinned) => return AskedHead::Held(Held { version, pinned }),
                Err(next) => pending = next,
            }
        }
    }

    /// Acquires every resolved head; returns those that must be loaded first.
    fn acquire_all(&self) -> Vec<Loading> {
        let mut loading = Vec::new();
        for (index, head) in self.lock().iter_mut().enumerate() {
            let AskedHead::Resolved(name, version) = head else {
                continue;
            };
            match self.acquire(version) {
                Ok(pinned) => {
                    let version = Arc::clone(version);
                    *head = AskedHead::Held(Held { version, pinned });
                }
                Err(pending) => loading.push((index, name.clone(), Arc::clone(version), pending)),
            }
        }
        loading
    }

    /// The heads on the device, in the order of the request.
    fn pinned(&self) -> PinnedHeads {
        let pinned = |head: &AskedHead| match head {
            AskedHead::Held(held) => Some(Arc::clone(&held.pinned.resident)),
            _ => None,
        };
        self.lock().iter().filter_map(pinned).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<AskedHead>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeadSource for AskedHeads {
    fn resident(&self) -> bool {
        let resident = |head: &AskedHead| match head {
            AskedHead::Resolved(_, version) => version.tier() == Some(Tier::Hot),
            _ => true,
        };
        self.lock().iter().all(resident)
    }

    fn pin(self: Arc<Self>) -> Pinned {
        let loading = self.acquire_all();
        if loading.is_empty() {
            return Pinned::Now(self.pinned());
        }
        Pinned::Later(Box::pin(async move {
            // All loads are under way already; they are awaited one after the other.
            for (index, name, version, pending) in loading {
                let head = self.loaded(name, version, pending).await;
                if let Some(place) = self.lock().get_mut(index) {
                    *place = head;
                }
            }
            self.pinned()
        }))
    }
}

fn resolve(registry: &HeadRegistry<PlacedHead>, name: &str, version: u64) -> Result<(HeadName, Version), HeadError> {
    let name = HeadName::parse(name)?;
    let version = registry.table().resolve(&name, version)?;
    Ok((name, version))
}
