//! Features of pictures seen before: a layer that spares them decoding and the backbone.
//!
//! One picture asked of many heads, or again after a swap, costs the last Linear alone. Pictures that are under way at
//! the same time are computed once. Heads that override more than the last Linear pass by.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use tower::{Layer, Service, ServiceExt as _};

use crate::engine::{Answer, Engine, Request, Row};
use crate::model::{Digest, PlacedHead};
use crate::rpc::{Input, PipelineError};

/// Beside the features, an entry keeps its key and its place in the cache.
const ENTRY_BYTES: usize = 128;

/// Larger pictures are hashed on the blocking pool: SHA-256 takes about half a millisecond for this many bytes.
const HASHED_INLINE_BYTES_MAX: usize = 1 << 20;

/// Which backbone's features of which bytes.
type Key = [u8; 32];
type Features = Arc<[f32]>;

/// What the cache counts.
#[derive(Clone, Debug, Default)]
pub(super) struct CacheMetrics {
    hits: Counter,
    misses: Counter,
    bytes: Gauge,
}

impl CacheMetrics {
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

/// The layer. Without a cache it lets everything pass.
#[derive(Clone)]
pub(super) struct FeatureCache {
    backbone: Digest,
    known: Option<Arc<Cache<Key, Features, ByBytes>>>,
    engine: Engine,
    metrics: CacheMetrics,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Features> for ByBytes {
    fn weight(&self, _: &Key, features: &Features) -> u64 {
        (size_of_val(&features[..]) + ENTRY_BYTES) as u64
    }
}

impl FeatureCache {
    /// Keeps features of `backbone` in `bytes_max` bytes, 0 for none; what is known goes straight to `engine`.
    pub fn new(backbone: Digest, bytes_max: u64, width: usize, engine: Engine, metrics: CacheMetrics) -> Self {
        let entries = bytes_max / (width * size_of::<f32>() + ENTRY_BYTES) as u64;
        let known = (entries > 0).then(|| Arc::new(Cache::with_weighter(entries as usize, bytes_max, ByBytes)));
        Self {
            backbone,
            known,
            engine,
            metrics,
        }
    }

    async fn key(&self, input: &Input) -> Key {
        let (kind, bytes) = match input {
            Input::Image(bytes) => (b'i', bytes),
            Input::Pixels(bytes) => (b'p', bytes),
        };
        let (backbone, bytes) = (self.backbone, bytes.clone());
        let large = bytes.len() > HASHED_INLINE_BYTES_MAX;
        let hash = move || {
            let hash = Sha256::new().chain_update(backbone.as_bytes()).chain_update([kind]);
            hash.chain_update(&bytes).finalize().into()
        };
        if large {
            tokio::task::spawn_blocking(hash.clone())
                .await
                .unwrap_or_else(|_| hash())
        } else {
            hash()
        }
    }

    /// From known features if there are any, else by `inner`, once for all who wait for the same picture.
    async fn answer<S>(
        &self,
        known: &Cache<Key, Features, ByBytes>,
        request: Request<Input>,
        inner: S,
    ) -> Result<Answer, PipelineError>
    where
        S: Service<Request<Input>, Response = Answer, Error = PipelineError>,
    {
        let key = self.key(&request.input).await;
        let wanted = request.features;
        match known.get_value_or_guard_async(&key).await {
            Ok(features) => {
                self.metrics.hits.inc();
                let row = Row::Features(Arc::clone(&features));
                let mut answer = self.engine.clone().oneshot(request.with_input(row)).await?;
                answer.features = wanted.then(|| features.to_vec());
                Ok(answer)
            }
            Err(guard) => {
                self.metrics.misses.inc();
                let request = Request {
                    features: true,
                    ..request
                };
                let mut answer = inner.oneshot(request).await?;
                if let Some(features) = &answer.features {
                    // An entry that has been removed meanwhile is as good as one that leaves soon.
                    let _ = guard.insert(features.as_slice().into());
                    self.metrics.bytes.set(known.weight() as i64);
                }
                answer.features = answer.features.filter(|_| wanted);
                Ok(answer)
            }
        }
    }
}

impl<S> Layer<S> for FeatureCache {
    type Service = Cached<S>;

    fn layer(&self, inner: S) -> Cached<S> {
        Cached {
            inner,
            cache: self.clone(),
        }
    }
}

#[derive(Clone)]
pub(super) struct Cached<S> {
    inner: S,
    cache: FeatureCache,
}

impl<S> Service<Request<Input>> for Cached<S>
where
    S: Service<Request<Input>, Response = Answer, Error = PipelineError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = PipelineError;
    type Future = BoxFuture<'static, Result<Answer, PipelineError>>;

    /// The inner service's readiness is waited for in the future, if it is needed.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PipelineError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Input>) -> Self::Future {
        let (inner, cache) = (self.inner.clone(), self.cache.clone());
        let shared = |head: &Arc<PlacedHead>| head.shares_features();
        Box::pin(async move {
            match &cache.known {
                Some(known) if request.heads.iter().all(shared) => cache.answer(known, request, inner).await,
                _ => inner.oneshot(request).await,
            }
        })
    }
}
