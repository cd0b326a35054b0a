//! The server: its ports, the gRPC services on them, start and shutdown.
//!
//! `startup` builds the state that `ports` serve. Dependencies inside point one way: `ports → http2 → protocol → edge →
//! stage, status`; `ports → rpc, health → edge`; `startup → rpc`. Every module may use `settings`.

mod announce;
mod edge;
mod error;
mod health;
mod http2;
mod ports;
mod protocol;
mod rpc;
mod settings;
mod signals;
mod stage;
mod startup;
mod status;
mod telemetry;

use std::time::Duration;

use headswap_model::TorchRuntime;
use headswap_service::{AppState, Lifecycle};
use prometheus_client::registry::Registry;

pub use error::ServerError;
pub use settings::{ListenAddress, LogFormat, ParseListenAddressError, ServeArgs};
pub use telemetry::{report_failure, start as start_logging};

use announce::Announcer;
use health::Health;
use ports::{GrpcSettings, Listeners, WithHealth};
use rpc::{ClassifierRpc, HeadAdminRpc};
use signals::Signals;
use startup::Metrics;

/// How long the device threads may take to end after the last response.
const ENGINE_END_MAX: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`ServerError`]; its message says what to change.
pub async fn serve(args: ServeArgs, torch: Option<&'static dyn TorchRuntime>) -> Result<(), ServerError> {
    let stop = Signals::listen()?;

    let mut registry = Registry::with_prefix("headswap");
    let metrics = Metrics::register(&mut registry);
    let listeners = Listeners::bind(&args).await?;
    let announcer = Announcer::new(args.operations.announce);
    announcer.listening(&listeners);

    let (lifecycle, health) = (Lifecycle::default(), Health::new().await);
    let classifier = classifier(&args, &lifecycle, &metrics, &health);
    let admin = WithHealth {
        service: HeadAdminRpc::new(lifecycle.clone(), metrics.rpc.clone()),
        health: health.administration.service(&lifecycle),
    };
    let http = ports::http::routes(registry, health.readiness());
    let mut running = listeners.serve(GrpcSettings::from(&args), classifier, admin, http);

    let loaded = tokio::select! {
        loaded = startup::start(&args, torch, &metrics) => Some(loaded?),
        () = stop.received() => None,
    };
    let (engine, ended) = if let Some((state, engine)) = loaded {
        log_ready(&state);
        let engine_health = state.engine.health().clone();
        lifecycle.open(state);
        health.serving().await;
        announcer.ready();
        // A failure is returned after the drain.
        let ended = tokio::select! {
            () = stop.received() => Ok(()),
            failed = running.failed() => Err(failed),
            reason = engine_health.lost() => Err(ServerError::Device(reason)),
        };
        (Some(engine), ended)
    } else {
        (None, Ok(()))
    };

    if ended.is_err() {
        health.not_alive();
    }
    health.not_serving().await;
    if engine.is_some() && ended.is_ok() {
        delay_drain(args.operations.drain_delay_ms).await;
    }
    let drain_max = Duration::from_millis(args.operations.drain_ms_max);
    let drained = running.drain(&lifecycle, drain_max).await;
    drop(lifecycle);
    if let (Ok(()), Some(engine)) = (&drained, engine) {
        engine.join(ENGINE_END_MAX).await;
    }
    tracing::info!("stopped");
    ended.and(drained)
}

fn classifier(
    args: &ServeArgs,
    lifecycle: &Lifecycle,
    metrics: &Metrics,
    health: &Health,
) -> WithHealth<ClassifierRpc> {
    WithHealth {
        service: ClassifierRpc::new(
            lifecycle.clone(),
            metrics.rpc.clone(),
            args.limits.stream_in_flight_max,
            Duration::from_millis(args.limits.stream_idle_ms_max),
        ),
        health: health.classification.service(lifecycle),
    }
}

fn log_ready(state: &AppState) {
    let model = &state.model;
    tracing::info!(
        backbone = %model.backbones.first().digest,
        backbones = model.backbones.all().len(),
        device = model.device,
        precision = model.precision,
        max_batch = model.max_batch,
        "ready"
    );
}

/// Keeps serving after health says NOT_SERVING, because load balancers notice it late and still send requests.
async fn delay_drain(delay_ms: u64) {
    tracing::info!(delay_ms, "draining");
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
}
