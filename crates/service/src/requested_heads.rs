//! The heads of one request: resolved when it is admitted, pinned from its turn until it is answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headswap_engine::{Class, HeadSource, Pinned, PinnedHeads, Wanted};
use headswap_heads::{Acquired, HeadError, HeadInfo, HeadName, HeadRegistry, Pending, PinnedHead, Tier, Urgency};
use headswap_model::PlacedHead;
use headswap_spec::Preprocessing;

use super::Version;

/// A version that a request has pinned.
pub(super) struct PinnedVersion {
    pub version: Version,
    pub pinned: PinnedHead<PlacedHead>,
}

/// The heads that a request names; each can fail on its own.
pub(super) struct RequestedHeads {
    registry: Arc<HeadRegistry<PlacedHead>>,
    /// The requested version of every head; 0 is the live one.
    version: u64,
    urgency: Urgency,
    heads: Mutex<Vec<RequestedHead>>,
}

enum RequestedHead {
    Resolved(HeadName, Version),
    Pinned(PinnedVersion),
    Failed(Arc<HeadError>),
}

/// A head that is being loaded.
struct Loading {
    /// Its index in the request.
    index: usize,
    name: HeadName,
    version: Version,
    pending: Pending<PlacedHead>,
}

impl RequestedHead {
    /// Returns the metadata of its version; none if it failed.
    fn info(&self) -> Option<&HeadInfo> {
        match self {
            Self::Resolved(_, version) | Self::Pinned(PinnedVersion { version, .. }) => Some(&version.info),
            Self::Failed(_) => None,
        }
    }

    /// Returns true if it needs no load.
    fn is_resident(&self) -> bool {
        match self {
            Self::Resolved(_, version) => version.tier() == Some(Tier::Hot),
            Self::Pinned(_) | Self::Failed(_) => true,
        }
    }
}

impl RequestedHeads {
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
                Ok((name, version)) => RequestedHead::Resolved(name, version),
                Err(error) => RequestedHead::Failed(Arc::new(error)),
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

    /// Returns the first head's error if every head has failed; the call then fails with it.
    pub fn error_of_all(&self) -> Option<Arc<HeadError>> {
        let mut first = None;
        for head in self.lock().iter() {
            let RequestedHead::Failed(error) = head else {
                return None;
            };
            first.get_or_insert(Arc::clone(error));
        }
        first
    }

    /// Returns the inputs of all heads, each once; none if a head computes its input with parameters of its own.
    pub fn shared_inputs(&self) -> Option<Vec<Wanted>> {
        let mut inputs: Vec<Wanted> = Vec::new();
        for info in self.lock().iter().filter_map(RequestedHead::info) {
            if !info.shares_input() {
                return None;
            }
            let input = Wanted {
                backbone: info.backbone,
                preprocessing: info.spec.preprocessing,
                input: info.spec.input,
            };
            if !inputs.contains(&input) {
                inputs.push(input);
            }
        }
        Some(inputs)
    }

    /// Takes the result of each head, in the order of the request. The caller calls this once, after the answer.
    pub fn take(&self) -> Vec<Result<PinnedVersion, Arc<HeadError>>> {
        let heads = std::mem::take(&mut *self.lock());
        let mut results = Vec::with_capacity(heads.len());
        for head in heads {
            match head {
                RequestedHead::Pinned(pinned) => results.push(Ok(pinned)),
                RequestedHead::Failed(error) => results.push(Err(error)),
                RequestedHead::Resolved(..) => {}
            }
        }
        results
    }

    /// Pins a version that is on the device; otherwise returns its load.
    fn acquire(&self, version: &Version) -> Result<PinnedHead<PlacedHead>, Pending<PlacedHead>> {
        match self.registry.acquire(version, self.urgency) {
            Acquired::Hot(pinned) => Ok(pinned),
            Acquired::Wait(pending) => Err(pending),
            Acquired::Load(pending, task) => {
                // Detached, as other requests may wait for it, too.
                drop(tokio::task::spawn_blocking(|| task.run()));
                Err(pending)
            }
        }
    }

    /// Waits until a head is loaded. If its version is retired before, the name is resolved again: a request for the live
    /// version gets the one that is live now.
    async fn loaded(&self, loading: Loading) -> RequestedHead {
        let Loading {
            mut name,
            mut version,
            mut pending,
            ..
        } = loading;
        loop {
            match pending.await {
                Ok(pinned) => return RequestedHead::Pinned(PinnedVersion { version, pinned }),
                Err(error) if matches!(*error, HeadError::Retired { .. }) => {
                    match resolve(&self.registry, name.as_str(), self.version) {
                        Ok(resolved) => (name, version) = resolved,
                        Err(error) => return RequestedHead::Failed(Arc::new(error)),
                    }
                }
                Err(error) => return RequestedHead::Failed(error),
            }
            match self.acquire(&version) {
                Ok(pinned) => return RequestedHead::Pinned(PinnedVersion { version, pinned }),
                Err(next) => pending = next,
            }
        }
    }

    /// Pins every resolved head that is on the device. Returns the others, whose loads have started.
    fn acquire_all(&self) -> Vec<Loading> {
        let mut loading = Vec::new();
        for (index, head) in self.lock().iter_mut().enumerate() {
            let RequestedHead::Resolved(name, version) = head else {
                continue;
            };
            match self.acquire(version) {
                Ok(pinned) => {
                    let version = Arc::clone(version);
                    *head = RequestedHead::Pinned(PinnedVersion { version, pinned });
                }
                Err(pending) => loading.push(Loading {
                    index,
                    name: name.clone(),
                    version: Arc::clone(version),
                    pending,
                }),
            }
        }
        loading
    }

    /// Returns the pinned heads, in the order of the request.
    fn pinned(&self) -> PinnedHeads {
        let mut heads = Vec::new();
        for head in self.lock().iter() {
            if let RequestedHead::Pinned(head) = head {
                heads.push(Arc::clone(&head.pinned.resident));
            }
        }
        heads
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RequestedHead>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeadSource for RequestedHeads {
    fn preprocessings(&self) -> Vec<Preprocessing> {
        let mut all = Vec::new();
        for info in self.lock().iter().filter_map(RequestedHead::info) {
            if !all.contains(&info.spec.preprocessing) {
                all.push(info.spec.preprocessing);
            }
        }
        all
    }

    fn resident(&self) -> bool {
        self.lock().iter().all(RequestedHead::is_resident)
    }

    fn pin(self: Arc<Self>) -> Pinned {
        let loading = self.acquire_all();
        if loading.is_empty() {
            return Pinned::Now(self.pinned());
        }
        Pinned::Later(Box::pin(async move {
            // All loads have started, so awaiting them one after another costs no time.
            for loading in loading {
                let index = loading.index;
                let loaded = self.loaded(loading).await;
                if let Some(head) = self.lock().get_mut(index) {
                    *head = loaded;
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
