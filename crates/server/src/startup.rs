//! From settings to a ready server: weights, device, warm-up, heads, engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headswap_checkpoint::{Digest, HostTensor, Parameters};
use headswap_engine::{
    self as engine, BatchLimits, CostTable, Decode, EngineMetrics, EngineSettings, EngineThreads, StartError,
    SystemClock, calibrate, measure,
};
use headswap_heads::{
    HeadError, HeadLimits, HeadMetrics, HeadRegistry, HeadWeights, Overridable, PlaceError, RegistryLimits,
    RegistryParts, Reservation,
};
use headswap_image::{self as image, ImageError, ImageSettings, Pixels};
use headswap_model::{
    Backbone, Backend, BackendChoice, BackendError, Device, PlacedHead, Placer, TorchRuntime, WeightsSource,
    null_backend, open_backend,
};
use headswap_service::{CacheMetrics, FeatureCache, HeadAdmin, HeadAdminParts, ModelInfo, Serving};
use headswap_store::{DirStore, UploadDir};
use prometheus_client::registry::Registry;

use super::ServerError;
use super::config::{HeadsLoad, ServeArgs};
use crate::rpc::RpcMetrics;

/// The largest batch that the warm-up tries.
const MAX_BATCH_CEILING: usize = 256;
/// How long the warm-up may look for the best batch.
const WARM_UP_BUDGET: Duration = Duration::from_millis(2500);
/// The most classes a head may have.
const CLASSES_MAX: usize = 65_536;

/// What every part of the server counts.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub rpc: RpcMetrics,
    engine: EngineMetrics,
    heads: HeadMetrics,
    cache: CacheMetrics,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            rpc: RpcMetrics::register(registry),
            engine: EngineMetrics::register(registry),
            heads: HeadMetrics::register(registry),
            cache: CacheMetrics::register(registry),
        }
    }
}

/// Loads everything, on the blocking pool, and starts the engine.
pub(super) async fn start(
    args: &ServeArgs,
    torch: Option<&'static dyn TorchRuntime>,
    metrics: &Metrics,
) -> Result<(Arc<Serving>, EngineThreads), ServerError> {
    let (settings, counted) = (args.clone(), metrics.clone());
    let loaded = tokio::task::spawn_blocking(move || Loaded::load(&settings, torch, counted));
    let loaded = loaded.await.map_err(std::io::Error::other)??;

    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let settings = EngineSettings {
        batches: BatchLimits {
            max_batch: loaded.model.max_batch,
            wait_max: Duration::from_micros(args.batch_wait_us_max),
        },
        in_flight_max: args.in_flight_max,
        bulk_percent: args.bulk_share,
        decode_slots: args.decoders(cores, loaded.on_cpu),
        decode_bytes_max: args.decode_memory(),
        decode: Arc::new(PictureDecoder(args.image())),
        cost: loaded.cost,
        clock: Arc::new(SystemClock),
    };
    let (engine, threads) = engine::start(loaded.backend, settings, metrics.engine.clone()).await?;
    let cache = FeatureCache::new(
        loaded.backbone,
        args.feature_cache_bytes_max,
        args.arch.features(),
        metrics.cache.clone(),
    );
    let heads = HeadAdmin::new(HeadAdminParts {
        registry: Arc::clone(&loaded.registry),
        limits: loaded.head_limits,
        uploads: loaded.uploads,
        uploads_max: args.uploads_max,
        trial_bytes_max: args.heads_resident_bytes_max,
        sources: args.head_sources(),
        model: loaded.model.clone(),
        in_flight: engine.in_flight().clone(),
        metrics: metrics.heads.clone(),
    });
    let serving = Serving {
        engine,
        cache,
        registry: loaded.registry,
        heads: Arc::new(heads),
        model: loaded.model,
    };
    Ok((Arc::new(serving), threads))
}

/// Decodes pictures for the engine.
struct PictureDecoder(ImageSettings);

impl Decode for PictureDecoder {
    fn memory(&self, bytes: &Bytes) -> Result<u64, ImageError> {
        image::open(bytes, self.0).map(|picture| picture.memory())
    }

    fn decode(&self, bytes: &Bytes) -> Result<Pixels, ImageError> {
        image::decode(bytes, self.0)
    }
}

struct Loaded {
    backbone: Digest,
    backend: Box<dyn Backend>,
    /// What a batch costs.
    cost: CostTable,
    registry: Arc<HeadRegistry<PlacedHead>>,
    uploads: UploadDir,
    head_limits: HeadLimits,
    model: ModelInfo,
    /// Whether the cores compute, rather than a GPU.
    on_cpu: bool,
}

impl Loaded {
    fn load(args: &ServeArgs, torch: Option<&dyn TorchRuntime>, metrics: Metrics) -> Result<Self, ServerError> {
        let Some(source) = &args.weights else {
            return Err(ServerError::Config("--weights is missing".into()));
        };
        if *source == WeightsSource::Demo {
            tracing::warn!("--weights demo: the backbone is UNTRAINED; its answers mean nothing");
        }
        let started = Instant::now();
        let mut backbone = Backbone::load(source, args.arch)?;
        let last = backbone.take_last_linear();
        let labels = labels(args, backbone.classes)?;
        let (digest, classes) = (backbone.digest, backbone.classes);
        let head_limits = HeadLimits {
            classes_max: CLASSES_MAX,
            features: args.arch.features(),
            deeper: overridable(&backbone.parameters),
        };
        tracing::info!(digest = digest.short(), classes, elapsed = ?started.elapsed(), "weights read");

        let mut backend = if args.backend == BackendChoice::Null {
            null_backend(args.arch.features(), args.null.settings())
        } else {
            open_backend(backbone, &args.backend(), torch)?
        };
        let (max_batch, cost) = warm_up(backend.as_mut(), args.max_batch)?;
        let devices = backend.devices();
        let on_cpu = !devices.iter().any(|device| matches!(device, Device::Cuda(_)));
        let heads = Heads {
            args,
            limits: head_limits.clone(),
            backbone: digest,
            placer: backend.placer(),
            on_cpu,
            metrics: metrics.heads,
        };
        let (registry, uploads) = heads.open(&HeadWeights::new(last, labels))?;
        let model = ModelInfo {
            architecture: args.arch,
            backbone_digest: digest.to_string(),
            weights: source.to_string(),
            device: devices.iter().map(Device::to_string).collect::<Vec<_>>().join(","),
            precision: backend.precision().to_owned(),
            max_batch,
        };
        Ok(Self {
            backbone: digest,
            backend,
            cost,
            registry: Arc::new(registry),
            uploads,
            head_limits,
            model,
            on_cpu,
        })
    }
}

/// Proves that the backend computes, settles the batch size and measures what batches cost.
fn warm_up(backend: &mut dyn Backend, max_batch: usize) -> Result<(usize, CostTable), ServerError> {
    let found = match max_batch {
        0 => calibrate(backend, MAX_BATCH_CEILING, WARM_UP_BUDGET)?,
        _ => measure(backend, max_batch).map_err(|error| StartError::MaxBatch { max_batch, error })?,
    };
    let max_batch = found.max_batch;
    tracing::info!(max_batch, per_picture = ?found.per_picture, "warm-up passed");
    Ok((max_batch, CostTable::from_per_picture(&found.per_picture)))
}

/// What the registry of heads is opened with.
struct Heads<'a> {
    args: &'a ServeArgs,
    limits: HeadLimits,
    backbone: Digest,
    placer: Arc<dyn Placer>,
    on_cpu: bool,
    metrics: HeadMetrics,
}

impl Heads<'_> {
    fn open(self, backbone_head: &HeadWeights) -> Result<(HeadRegistry<PlacedHead>, UploadDir), ServerError> {
        let (args, started) = (self.args, Instant::now());
        let dir = args
            .heads_dir()
            .ok_or_else(|| ServerError::Config("set --heads-dir".into()))?;
        let store = DirStore::open(&dir, self.backbone, self.limits).map_err(HeadError::from)?;
        let uploads = store.uploads(args.upload_bytes_max).map_err(HeadError::from)?;
        let placer = self.placer;
        let place = move |weights: &HeadWeights, reservation: Reservation| -> Result<PlacedHead, PlaceError> {
            let placed = placer.place(&weights.parameters);
            Ok(placed.map_err(place_error)?.keeping(reservation))
        };
        let parts = RegistryParts {
            store: Arc::new(store),
            placer: Box::new(place),
            metrics: self.metrics,
        };
        let limits = RegistryLimits {
            heads_max: args.heads_max,
            versions_kept: args.head_versions_kept,
            bytes_max: args.heads_bytes_max,
            eager: args.heads_load == HeadsLoad::Eager,
            residency: args.residency(self.on_cpu),
        };
        let registry = HeadRegistry::open(parts, limits, backbone_head)?;
        let heads = registry.table().count();
        tracing::info!(dir = %dir.display(), heads, elapsed = ?started.elapsed(), "heads loaded");
        Ok((registry, uploads))
    }
}

fn place_error(error: BackendError) -> PlaceError {
    match error {
        BackendError::OutOfMemory(_) => PlaceError::OutOfMemory(error.to_string()),
        error => PlaceError::Refused(error.to_string()),
    }
}

/// What of the backbone heads may override, besides its last Linear.
fn overridable(backbone: &Parameters) -> BTreeMap<String, Overridable> {
    let one = |(name, tensor): (&String, &Arc<HostTensor>)| {
        let (shape, digest) = (tensor.shape.clone(), tensor.digest());
        (name.clone(), Overridable { shape, digest })
    };
    backbone.iter().map(one).collect()
}

/// The labels file's lines, if there is one: as many as there are classes.
fn labels(args: &ServeArgs, classes: usize) -> Result<Vec<String>, ServerError> {
    let Some(path) = &args.labels else {
        return Ok(Vec::new());
    };
    let wrong = |reason: String| ServerError::Config(format!("--labels {}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let labels: Vec<String> = text.lines().map(str::to_owned).collect();
    if labels.len() != classes {
        return Err(wrong(format!(
            "it has {} lines, the backbone has {classes} classes",
            labels.len()
        )));
    }
    Ok(labels)
}
