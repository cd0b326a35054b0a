//! A cache of what backbones computed of pictures, which saves decoding and the backbone.
//!
//! A picture that was seen before, perhaps for other heads with the same preprocessing and input, costs only the heads' own
//! layers. Concurrent requests of one class
//! with the same picture compute it once; an interactive request does not wait for a bulk one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headswap_checkpoint::Digest;
use headswap_engine::{Class, Wanted};
use headswap_heads::Backbones;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::picture::Picture;

/// Bytes of an entry beside its features: the key and the cache's own data.
const ENTRY_BYTES: usize = 128;

/// Larger pictures are hashed on the blocking pool: SHA-256 takes about half a millisecond for this many bytes.
const HASHED_INLINE_BYTES_MAX: usize = 1 << 20;

/// SHA-256 of a [`PictureKey`], the backbone's digest, the preprocessing and the input of heads.
type Key = [u8; 32];
type Features = Arc<[f32]>;

/// SHA-256 of the kind of picture and its bytes.
#[derive(Clone, Copy)]
pub(super) struct PictureKey([u8; 32]);
/// Pictures that are being computed, and the channels that receive their features.
type PendingMap = HashMap<(Key, Class), watch::Receiver<Option<Features>>>;

/// The cache's metrics.
#[derive(Clone, Debug, Default)]
pub struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    bytes: Gauge,
}

impl CacheMetrics {
    /// Registers every metric under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Pictures whose features were in the cache";
        registry.register("feature_cache_hits", help, metrics.hits.clone());
        let help = "Pictures whose features were computed for the cache";
        registry.register("feature_cache_misses", help, metrics.misses.clone());
        let help = "Features in the cache";
        registry.register_with_unit("feature_cache", help, Unit::Bytes, metrics.bytes.clone());
        metrics
    }
}

/// The cache; clones share it.
#[derive(Clone)]
pub struct FeatureCache(Arc<State>);

struct State {
    /// The digest of each backbone.
    backbones: Vec<Digest>,
    features: Cache<Key, Features, ByBytes>,
    pending: Mutex<PendingMap>,
    metrics: CacheMetrics,
}

/// The result of a lookup.
pub(super) enum Lookup {
    /// The picture's features.
    Hit(Features),
    /// The caller must compute the features. Other requests wait until they are inserted or this is dropped.
    Miss(PendingFeatures),
}

/// Features that a request is computing.
pub(super) struct PendingFeatures {
    cache: Arc<State>,
    key: (Key, Class),
    sender: watch::Sender<Option<Features>>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Features> for ByBytes {
    fn weight(&self, _: &Key, features: &Features) -> u64 {
        (size_of_val(&features[..]) + ENTRY_BYTES) as u64
    }
}

impl FeatureCache {
    /// Creates a cache of `bytes_max` bytes for rows of `width` features of `backbones`; none if not one row fits.
    pub fn new(backbones: &Backbones, bytes_max: u64, width: usize, metrics: CacheMetrics) -> Option<Self> {
        let entries = bytes_max / (width * size_of::<f32>() + ENTRY_BYTES) as u64;
        (entries > 0).then(|| {
            Self(Arc::new(State {
                backbones: backbones.all().iter().map(|backbone| backbone.digest).collect(),
                features: Cache::with_weighter(entries as usize, bytes_max, ByBytes),
                pending: Mutex::default(),
                metrics,
            }))
        })
    }

    /// Returns an input for the caller to compute, unless the cache has it or another request of this class computes it.
    pub(super) fn claim(&self, picture: PictureKey, input: &Wanted, class: Class) -> Option<PendingFeatures> {
        match self.look_up_now(self.0.key(picture, input), class) {
            Ok(Lookup::Miss(pending)) => {
                self.0.metrics.misses.inc();
                Some(pending)
            }
            Ok(Lookup::Hit(_)) | Err(_) => None,
        }
    }

    /// Looks up an input of heads. If another request of this class is computing it, waits for its result.
    pub(super) async fn look_up(&self, picture: PictureKey, input: &Wanted, class: Class) -> Lookup {
        let (key, metrics) = (self.0.key(picture, input), &self.0.metrics);
        loop {
            let mut pending = match self.look_up_now(key, class) {
                Ok(lookup) => {
                    match lookup {
                        Lookup::Hit(_) => metrics.hits.inc(),
                        Lookup::Miss(_) => metrics.misses.inc(),
                    };
                    return lookup;
                }
                Err(pending) => pending,
            };
            // If the other request fails, the picture is looked up again.
            if let Ok(features) = pending.wait_for(Option::is_some).await
                && let Some(features) = features.clone()
            {
                metrics.hits.inc();
                return Lookup::Hit(features);
            }
        }
    }

    /// Looks up a key without waiting. The error is the channel of the request that is computing the features.
    fn look_up_now(&self, key: Key, class: Class) -> Result<Lookup, watch::Receiver<Option<Features>>> {
        let mut pending = self.0.pending();
        if let Some(features) = self.0.features.get(&key) {
            return Ok(Lookup::Hit(features));
        }
        if let Some(other) = pending.get(&(key, class)) {
            return Err(other.clone());
        }
        let (sender, receiver) = watch::channel(None);
        pending.insert((key, class), receiver);
        Ok(Lookup::Miss(PendingFeatures {
            cache: Arc::clone(&self.0),
            key: (key, class),
            sender,
        }))
    }

    /// Returns the key of a picture.
    pub(super) async fn key(&self, picture: &Picture) -> PictureKey {
        let (kind, bytes) = match picture {
            Picture::Encoded(bytes) => (b'i', bytes),
            Picture::Pixels(bytes) => (b'p', bytes),
        };
        if bytes.len() <= HASHED_INLINE_BYTES_MAX {
            return hash(kind, bytes);
        }
        let large = bytes.clone();
        let hashed = tokio::task::spawn_blocking(move || hash(kind, &large)).await;
        hashed.unwrap_or_else(|_| hash(kind, bytes))
    }
}

fn hash(kind: u8, bytes: &[u8]) -> PictureKey {
    PictureKey(Sha256::new().chain_update([kind]).chain_update(bytes).finalize().into())
}

impl State {
    /// Returns the key of an input of heads. Preprocessings with equal numbers have one key.
    fn key(&self, picture: PictureKey, input: &Wanted) -> Key {
        let hash = Sha256::new().chain_update(picture.0).chain_update([input.input as u8]);
        let hash = hash.chain_update(self.backbones[input.backbone].as_bytes());
        hash.chain_update(input.preprocessing.to_json()).finalize().into()
    }

    fn pending(&self) -> MutexGuard<'_, PendingMap> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingFeatures {
    /// Inserts the features into the cache and sends them to the requests that wait.
    pub fn insert(self, features: Features) {
        let cache = &self.cache;
        cache.features.insert(self.key.0, Arc::clone(&features));
        cache.metrics.bytes.set(cache.features.weight() as i64);
        self.sender.send_replace(Some(features));
    }
}

impl Drop for PendingFeatures {
    fn drop(&mut self) {
        self.cache.pending().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use headswap_checkpoint::Parameters;
    use headswap_heads::KnownBackbone;
    use headswap_spec::{ChannelOrder, HeadInput, Preprocessing, Preset};

    use super::*;

    fn known(name: &str) -> KnownBackbone {
        let digest = Digest::of_parameters(&Parameters::new(), &[name.to_owned()]);
        KnownBackbone::of_any_heads(name, digest, Preset::Torchvision.preprocessing())
    }

    /// A cache of the backbones `a` and `b`.
    fn cache() -> FeatureCache {
        let backbones = Backbones::new(known("a"), [known("b")]);
        FeatureCache::new(&backbones, 1 << 20, 16, CacheMetrics::default()).unwrap()
    }

    fn wanted(preprocessing: Preprocessing, input: HeadInput) -> Wanted {
        Wanted {
            backbone: 0,
            preprocessing,
            input,
        }
    }

    /// Looks up without another request at work.
    async fn is_hit(cache: &FeatureCache, picture: &Picture, input: &Wanted) -> bool {
        let key = cache.key(picture).await;
        matches!(cache.look_up(key, input, Class::Interactive).await, Lookup::Hit(_))
    }

    #[tokio::test]
    async fn equal_numbers_hit_and_all_else_misses() {
        let torchvision = Preset::Torchvision.preprocessing();
        let (cache, picture) = (cache(), Picture::Encoded("a picture".into()));
        let inserted = wanted(torchvision, HeadInput::GlobalAverage);
        match cache.look_up(cache.key(&picture).await, &inserted, Class::Bulk).await {
            Lookup::Miss(pending) => pending.insert([0.5; 16].as_slice().into()),
            Lookup::Hit(_) => panic!("the cache is empty"),
        }
        assert!(is_hit(&cache, &picture, &inserted).await);
        let by_numbers = Preprocessing::from_json(&torchvision.to_json()).unwrap();
        assert!(is_hit(&cache, &picture, &wanted(by_numbers, HeadInput::GlobalAverage)).await);
        for missed in [
            wanted(torchvision, HeadInput::GlobalMax),
            wanted(torchvision, HeadInput::Features),
            wanted(Preset::Half.preprocessing(), HeadInput::GlobalAverage),
            Wanted {
                backbone: 1,
                ..inserted
            },
            wanted(
                Preprocessing {
                    channels: ChannelOrder::Bgr,
                    ..torchvision
                },
                HeadInput::GlobalAverage,
            ),
        ] {
            assert!(!is_hit(&cache, &picture, &missed).await, "{missed:?}");
        }
        for other in [
            Picture::Encoded("a Picture".into()),
            Picture::Pixels("a picture".into()),
        ] {
            assert!(!is_hit(&cache, &other, &inserted).await, "{other:?}");
        }
        // The bytes in the cache are those of the one row that was inserted.
        assert_eq!(cache.0.metrics.bytes.get(), 16 * 4 + ENTRY_BYTES as i64);
        assert_eq!((cache.0.metrics.hits.get(), cache.0.metrics.misses.get()), (2, 8));
    }
}
