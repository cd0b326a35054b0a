//! Features of pictures seen before, which spare them decoding and the backbone.
//!
//! One picture asked of many heads, or again after a swap, costs the last Linear alone. Pictures that are under way at
//! the same time are computed once in each class: an interactive request does not wait for the turn of a bulk one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headswap_checkpoint::Digest;
use headswap_engine::Class;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::classify::Picture;

/// Beside the features, an entry keeps its key and its place in the cache.
const ENTRY_BYTES: usize = 128;

/// Larger pictures are hashed on the blocking pool: SHA-256 takes about half a millisecond for this many bytes.
const HASHED_INLINE_BYTES_MAX: usize = 1 << 20;

/// Which backbone's features of which bytes.
type Key = [u8; 32];
type Features = Arc<[f32]>;
/// Pictures that a request computes, and what tells the others of its class the result.
type UnderWay = HashMap<(Key, Class), watch::Receiver<Option<Features>>>;

/// What the cache counts.
#[derive(Clone, Debug, Default)]
pub struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    bytes: Gauge,
}

impl CacheMetrics {
    /// Registers everything under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Pictures whose features were known";
        registry.register("feature_cache_hits", help, metrics.hits.clone());
        let help = "Pictures whose features were computed for the cache";
        registry.register("feature_cache_misses", help, metrics.misses.clone());
        let help = "Features that are kept";
        registry.register_with_unit("feature_cache", help, Unit::Bytes, metrics.bytes.clone());
        metrics
    }
}

/// The cache; clones share it.
#[derive(Clone)]
pub struct FeatureCache(Arc<State>);

struct State {
    backbone: Digest,
    known: Cache<Key, Features, ByBytes>,
    under_way: Mutex<UnderWay>,
    metrics: CacheMetrics,
}

/// What is known of a picture.
pub(super) enum Found {
    /// Its features.
    Known(Features),
    /// Nothing: the caller computes it. Others wait until the place is filled or dropped.
    Unknown(Place),
}

/// The place of features that are being computed.
pub(super) struct Place {
    cache: Arc<State>,
    key: (Key, Class),
    filled: watch::Sender<Option<Features>>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Features> for ByBytes {
    fn weight(&self, _: &Key, features: &Features) -> u64 {
        (size_of_val(&features[..]) + ENTRY_BYTES) as u64
    }
}

impl FeatureCache {
    /// Keeps rows of `width` features of `backbone` in `bytes_max` bytes; none if that is too little for one.
    pub fn new(backbone: Digest, bytes_max: u64, width: usize, metrics: CacheMetrics) -> Option<Self> {
        let entries = bytes_max / (width * size_of::<f32>() + ENTRY_BYTES) as u64;
        (entries > 0).then(|| {
            Self(Arc::new(State {
                backbone,
                known: Cache::with_weighter(entries as usize, bytes_max, ByBytes),
                under_way: Mutex::default(),
                metrics,
            }))
        })
    }

    /// The picture's features, once a request of this class that computes them already has done so.
    pub(super) async fn find(&self, picture: &Picture, class: Class) -> Found {
        let (key, metrics) = (self.key(picture).await, &self.0.metrics);
        loop {
            let mut under_way = match self.look_up(key, class) {
                Ok(found) => {
                    match found {
                        Found::Known(_) => metrics.hits.inc(),
                        Found::Unknown(_) => metrics.misses.inc(),
                    };
                    return found;
                }
                Err(under_way) => under_way,
            };
            // Dropped without features, the other's place is free again.
            if let Ok(features) = under_way.wait_for(Option::is_some).await
                && let Some(features) = features.clone()
            {
                metrics.hits.inc();
                return Found::Known(features);
            }
        }
    }

    /// What is known now, or what to wait for.
    fn look_up(&self, key: Key, class: Class) -> Result<Found, watch::Receiver<Option<Features>>> {
        let mut under_way = self.0.under_way();
        if let Some(features) = self.0.known.get(&key) {
            return Ok(Found::Known(features));
        }
        if let Some(other) = under_way.get(&(key, class)) {
            return Err(other.clone());
        }
        let (filled, filling) = watch::channel(None);
        under_way.insert((key, class), filling);
        Ok(Found::Unknown(Place {
            cache: Arc::clone(&self.0),
            key: (key, class),
            filled,
        }))
    }

    async fn key(&self, picture: &Picture) -> Key {
        let (kind, bytes) = match picture {
            Picture::Encoded(bytes) => (b'i', bytes),
            Picture::Pixels(bytes) => (b'p', bytes),
        };
        let (backbone, bytes) = (self.0.backbone, bytes.clone());
        let large = bytes.len() > HASHED_INLINE_BYTES_MAX;
        let hash = move || {
            let hash = Sha256::new().chain_update(backbone.as_bytes()).chain_update([kind]);
            hash.chain_update(&bytes).finalize().into()
        };
        if large {
            let hashed = tokio::task::spawn_blocking(hash.clone()).await;
            hashed.unwrap_or_else(|_| hash())
        } else {
            hash()
        }
    }
}

impl State {
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Keeps the features and hands them to those that wait.
    pub fn fill(self, features: Features) {
        let cache = &self.cache;
        cache.known.insert(self.key.0, Arc::clone(&features));
        cache.metrics.bytes.set(cache.known.weight() as i64);
        self.filled.send_replace(Some(features));
    }
}

impl Drop for Place {
    /// Filled or not, the next request looks the picture up anew.
    fn drop(&mut self) {
        self.cache.under_way().remove(&self.key);
    }
}
