//! From settings to a ready server: weights, device, warm-up, heads, engine.

mod backbone;
mod backend;
mod heads;

use std::sync::Arc;
use std::time::Duration;

use headswap_engine::{
    self as engine, BatchLimits, EngineMetrics, EngineSettings, EngineThreads, PictureDecoder, SystemClock,
};
use headswap_heads::HeadMetrics;
use headswap_model::{Device, TorchRuntime};
use headswap_service::{AppState, CacheMetrics, FeatureCache, HeadAdmin, HeadAdminParts, ModelInfo};
use prometheus_client::registry::Registry;

use self::backbone::LoadedBackbones;
use self::backend::ReadyBackend;
use self::heads::StoredHeads;
use crate::ServerError;
use crate::rpc::RpcMetrics;
use crate::settings::ServeArgs;

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
) -> Result<(Arc<AppState>, EngineThreads), ServerError> {
    let (settings, counted) = (args.clone(), metrics.heads.clone());
    let loaded = tokio::task::spawn_blocking(move || Loaded::load(&settings, torch, counted));
    let Loaded {
        backbones,
        backend,
        heads,
    } = loaded.await.map_err(std::io::Error::other)??;

    let model = ModelInfo {
        architecture: backbones.architecture,
        backbones: Arc::new(backbones.head_limits.backbones.clone()),
        device: backend.device_names(),
        precision: backend.backend.precision().to_owned(),
        max_batch: backend.max_batch,
    };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let settings = EngineSettings {
        batches: BatchLimits {
            max_batch: backend.max_batch,
            wait_max: Duration::from_micros(args.batching.batch_wait_us_max),
        },
        in_flight_max: args.limits.in_flight_max,
        bulk_percent: args.batching.bulk_share,
        decode_slots: args.pictures.decoders(cores, backend.on_cpu()),
        decode_bytes_max: args.pictures.decode_memory(),
        decode: Arc::new(PictureDecoder(args.pictures.image())),
        cost: backend.cost,
        clock: Arc::new(SystemClock),
    };
    let (engine, threads) = engine::start(backend.backend, settings, metrics.engine.clone()).await?;
    let cache = FeatureCache::new(
        &model.backbones,
        args.limits.feature_cache_bytes_max,
        backbones.architecture.features(),
        metrics.cache.clone(),
    );
    let admin = HeadAdmin::new(HeadAdminParts {
        registry: Arc::clone(&heads.registry),
        limits: backbones.head_limits,
        uploads: heads.uploads,
        uploads_max: args.limits.uploads_max,
        trial_bytes_max: args.heads.heads_resident_bytes_max,
        sources: args.head_sources(),
        model: model.clone(),
        in_flight: engine.in_flight().clone(),
        metrics: metrics.heads.clone(),
    });
    let state = AppState {
        engine,
        cache,
        registry: heads.registry,
        heads: Arc::new(admin),
        model,
    };
    Ok((Arc::new(state), threads))
}

/// What blocks to be loaded.
struct Loaded {
    backbones: LoadedBackbones,
    backend: ReadyBackend,
    heads: StoredHeads,
}

impl Loaded {
    fn load(args: &ServeArgs, torch: Option<&dyn TorchRuntime>, metrics: HeadMetrics) -> Result<Self, ServerError> {
        let (backbones, parameters) = LoadedBackbones::load(args)?;
        let backend = ReadyBackend::open(parameters, args, torch)?;
        let heads = StoredHeads::open(args, &backbones, &backend, metrics)?;
        Ok(Self {
            backbones,
            backend,
            heads,
        })
    }
}

impl ReadyBackend {
    fn on_cpu(&self) -> bool {
        !self.devices.iter().any(|device| matches!(device, Device::Cuda(_)))
    }

    fn device_names(&self) -> String {
        let names: Vec<String> = self.devices.iter().map(Device::to_string).collect();
        names.join(",")
    }
}
