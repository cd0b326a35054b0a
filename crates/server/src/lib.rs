//! The server: its ports, the services on them, and their life from start to drain.
//!
//! Arrows inside: `startup` builds what `ports` serve; `ports → http2 → edge → status`, `rpc → edge, status`; `settings` is
//! known to all.

mod announce;
mod edge;
mod error;
mod health;
mod http2;
mod ports;
mod rpc;
mod settings;
mod signals;
mod startup;
mod status;
mod telemetry;

use std::time::Duration;

use headswap_model::TorchRuntime;
use headswap_service::Lifecycle;
use prometheus_client::registry::Registry;

pub use error::ServerError;
pub use settings::{ListenAddress, LogFormat, ParseListenAddressError, ServeArgs};
pub use telemetry::{report_failure, start as start_logging};

use announce::Announcer;
use health::Health;
use ports::{GrpcSettings, Listeners, WithHealth};
use rpc::{ClassifierRpc, HeadAdminRpc};
use startup::Metrics;

/// How long the device threads may take to end after everything is answered.
const ENGINE_END_MAX: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`ServerError`] says what to change.
pub async fn serve(args: ServeArgs, torch: Option<&'static dyn TorchRuntime>) -> Result<(), ServerError> {
    let stop = signals::Signals::listen()?;

    let mut registry = Registry::with_prefix("headswap");
    let metrics = Metrics::register(&mut registry);
    let listeners = Listeners::bind(&args).await?;
    let announcer = Announcer::new(args.operations.announce);
    announcer.listening(&listeners);

    let (lifecycle, health) = (Lifecycle::default(), Health::new().await);
    let classifier = WithHealth {
        service: ClassifierRpc::new(
            lifecycle.clone(),
            metrics.rpc.clone(),
            args.limits.stream_in_flight_max,
            Duration::from_millis(args.limits.stream_idle_ms_max),
        ),
        health: health.classification.service(&lifecycle),
    };
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
        tracing::info!(
            backbone = state.model.backbone_digest,
            device = state.model.device,
            precision = state.model.precision,
            max_batch = state.model.max_batch,
            "ready"
        );
        let engine_health = state.engine.health().clone();
        lifecycle.open(state);
        health.serving().await;
        announcer.ready();
        // Every reason to stop state is a branch here; one that is a failure is returned after the drain.
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
        // Load balancers take a while to hear of it, and go on sending.
        let delay = Duration::from_millis(args.operations.drain_delay_ms);
        tracing::info!(delay_ms = args.operations.drain_delay_ms, "draining");
        tokio::time::sleep(delay).await;
    }
    let drained = running
        .drain(&lifecycle, Duration::from_millis(args.operations.drain_ms_max))
        .await;
    drop(lifecycle);
    if let (Ok(()), Some(engine)) = (&drained, engine) {
        engine.join(ENGINE_END_MAX).await;
    }
    tracing::info!("stopped");
    ended.and(drained)
}
