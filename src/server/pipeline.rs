//! The tower stack: shed or wait, deadline, known features, decode, engine.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::error::Overloaded;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt as _};

use super::feature_cache::FeatureCache;
use crate::engine::{Answer, Counted, Engine, EngineError, Request, Row};
use crate::image::{self, ImageSettings, Pixels};
use crate::rpc::{Input, Pipeline, PipelineError};

/// What the pipeline is bounded by.
#[derive(Clone, Copy, Debug)]
pub(super) struct PipelineLimits {
    pub in_flight_max: usize,
    pub decode_threads: usize,
    pub image: ImageSettings,
}

/// What the pipeline measures.
#[derive(Clone, Debug)]
pub(super) struct PipelineMetrics {
    /// Requests admitted and not yet answered.
    pub in_flight: Gauge,
    decode: Histogram,
}

impl PipelineMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            in_flight: Gauge::default(),
            decode: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
        };
        registry.register(
            "in_flight",
            "Requests admitted and not yet answered",
            metrics.in_flight.clone(),
        );
        let help = "Decoding, resizing and cropping one picture";
        registry.register_with_unit("decode", help, Unit::Seconds, metrics.decode.clone());
        metrics
    }
}

/// The pipeline twice over one set of permits: first one that refuses when none is left, then one that waits.
pub(super) fn build(
    engine: Engine,
    cache: FeatureCache,
    limits: PipelineLimits,
    metrics: PipelineMetrics,
) -> (Pipeline, Pipeline) {
    let permits = GlobalConcurrencyLimitLayer::new(limits.in_flight_max);
    let decoders = Decoders {
        permits: Arc::new(Semaphore::new(limits.decode_threads)),
        settings: limits.image,
        metrics: metrics.clone(),
    };
    let admitted = ServiceBuilder::new()
        .layer(permits)
        .layer_fn(move |inner| Deadline {
            inner,
            in_flight: metrics.in_flight.clone(),
        })
        .layer(cache)
        .layer(decoders)
        .service(engine);
    let shedding = ServiceBuilder::new()
        .map_err(from_load_shed)
        .load_shed()
        .service(admitted.clone());
    (BoxCloneSyncService::new(shedding), BoxCloneSyncService::new(admitted))
}

fn from_load_shed(error: tower::BoxError) -> PipelineError {
    if error.is::<Overloaded>() {
        return PipelineError::Overloaded;
    }
    error
        .downcast()
        .map_or(PipelineError::Engine(EngineError::Stopped), |error| *error)
}

/// Gives up at the deadline; dropping the inner future takes the request out of the queue.
#[derive(Clone)]
struct Deadline<S> {
    inner: S,
    in_flight: Gauge,
}

impl<S> Service<Request<Input>> for Deadline<S>
where
    S: Service<Request<Input>, Response = Answer, Error = PipelineError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = PipelineError;
    type Future = BoxFuture<'static, Result<Answer, PipelineError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipelineError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Input>) -> Self::Future {
        let deadline = request.deadline;
        let admitted = Counted::new(&self.in_flight);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let _admitted = admitted;
            match deadline {
                Some(deadline) => match tokio::time::timeout_at(deadline, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Err(EngineError::Expired.into()),
                },
                None => answer.await,
            }
        })
    }
}

/// Decodes on the blocking pool, a bounded number at a time.
#[derive(Clone)]
struct Decoders {
    permits: Arc<Semaphore>,
    settings: ImageSettings,
    metrics: PipelineMetrics,
}

impl<S> Layer<S> for Decoders {
    type Service = Decode<S>;

    fn layer(&self, inner: S) -> Decode<S> {
        Decode {
            inner,
            decoders: self.clone(),
        }
    }
}

#[derive(Clone)]
struct Decode<S> {
    inner: S,
    decoders: Decoders,
}

impl<S> Service<Request<Input>> for Decode<S>
where
    S: Service<Request<Row>, Response = Answer, Error = EngineError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Answer;
    type Error = PipelineError;
    type Future = BoxFuture<'static, Result<Answer, PipelineError>>;

    /// The engine's readiness is waited for after decoding, in the future.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PipelineError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Input>) -> Self::Future {
        let (engine, decoders) = (self.inner.clone(), self.decoders.clone());
        Box::pin(async move {
            let started = Instant::now();
            let (input, encoded) = match request.input.clone() {
                Input::Pixels(bytes) => (Pixels::from_bytes(bytes)?, false),
                Input::Image(bytes) => (decoders.decode(bytes).await?, true),
            };
            let mut answer = engine.oneshot(request.with_input(Row::Pixels(input))).await?;
            if encoded {
                answer.timing.decode = started
                    .elapsed()
                    .saturating_sub(answer.timing.queue + answer.timing.compute);
            }
            Ok(answer)
        })
    }
}

impl Decoders {
    async fn decode(&self, bytes: bytes::Bytes) -> Result<Pixels, PipelineError> {
        let stopped = || PipelineError::Engine(EngineError::Stopped);
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped())?;
        let (settings, metrics) = (self.settings, self.metrics.clone());
        let decode = move || {
            let started = Instant::now();
            let pixels = image::decode(&bytes, settings);
            metrics.decode.observe(started.elapsed().as_secs_f64());
            drop(permit);
            pixels
        };
        Ok(tokio::task::spawn_blocking(decode).await.map_err(|_| stopped())??)
    }
}
