//! Composition: listeners, the tower stack, health, drain and telemetry.

mod activity;
mod announce;
mod config;
mod edge;
mod fair_reads;
mod framing;
mod grpc;
mod health;
mod http;
mod incoming;
mod listen_address;
mod listeners;
mod memory;
mod message_body;
mod null_args;
mod opening;
mod port;
mod reset_budget;
mod rpc;
mod running;
mod services;
mod shutdown;
mod socket_file;
mod stage;
mod startup;
mod stream_tasks;
mod telemetry;

use std::time::Duration;

use headswap_model::TorchRuntime;

pub use config::{LogFormat, ServeArgs};
pub use listen_address::{ListenAddress, ParseListenAddressError};
use prometheus_client::registry::Registry;

use crate::rpc::{ClassifierRpc, HeadAdminRpc};
use announce::announce;
use headswap_service::Gate;
use health::Health;
use listeners::{GrpcSettings, Listeners, WithHealth};
use startup::Metrics;

/// How long the device threads may take to end after everything is answered.
const ENGINE_END_MAX: Duration = Duration::from_secs(5);

/// Why the server did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Settings that cannot work; each on a line.
    #[error("{0}")]
    Config(String),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address} (--{flag}): {source}; is another server running there?")]
    Listen {
        /// The flag that named it.
        flag: &'static str,
        /// What was asked for.
        address: ListenAddress,
        /// What the system said.
        source: std::io::Error,
    },
    /// The backbone could not be loaded.
    #[error(transparent)]
    Weights(#[from] headswap_model::WeightsError),
    /// The device could not be used.
    #[error(transparent)]
    Backend(#[from] headswap_model::BackendError),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] headswap_engine::StartError),
    /// The heads could not be loaded.
    #[error(transparent)]
    Heads(#[from] headswap_heads::HeadError),
    /// The system gave no thread, or a file could not be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A port stopped accepting connections while serving.
    #[error("a listener failed: {0}")]
    Listener(String),
    /// A device no longer computes.
    #[error("the device no longer computes ({0}); the server has stopped, so that it can be started anew")]
    Device(String),
    /// Accepted requests were not answered when the drain's time was up.
    #[error("{left} accepted requests were still unanswered after {longest:?} of draining (--drain-ms-max)")]
    Drain {
        /// How many.
        left: usize,
        /// `--drain-ms-max`.
        longest: Duration,
    },
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`ServerError`] says what to change.
pub async fn serve(args: ServeArgs, torch: Option<&'static dyn TorchRuntime>) -> Result<(), ServerError> {
    args.check()?;
    telemetry::start(args.log_format, &args.log);
    let stop = shutdown::Signals::listen()?;

    let mut registry = Registry::with_prefix("headswap");
    let metrics = Metrics::register(&mut registry);
    let listeners = Listeners::bind(&args).await?;
    announce(&listeners);

    let (gate, health) = (Gate::default(), Health::new().await);
    let classifier = WithHealth {
        service: ClassifierRpc::new(
            gate.clone(),
            metrics.rpc.clone(),
            args.stream_in_flight_max,
            Duration::from_millis(args.stream_idle_ms_max),
        ),
        health: health.classification.service(&gate),
    };
    let admin = WithHealth {
        service: HeadAdminRpc::new(gate.clone(), metrics.rpc.clone()),
        health: health.administration.service(&gate),
    };
    let http = http::routes(registry, health.readiness());
    let mut running = listeners.serve(GrpcSettings::from(&args), classifier, admin, http);

    let loaded = tokio::select! {
        loaded = startup::start(&args, torch, &metrics) => Some(loaded?),
        () = stop.received() => None,
    };
    let (engine, ended) = if let Some((serving, engine)) = loaded {
        tracing::info!(model = ?serving.model, "ready");
        let engine_health = serving.engine.health().clone();
        gate.open(serving);
        health.serving().await;
        announce::ready();
        // Every reason to stop serving is a branch here; one that is a failure is returned after the drain.
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
        let delay = Duration::from_millis(args.drain_delay_ms);
        tracing::info!(?delay, "draining");
        tokio::time::sleep(delay).await;
    }
    let drained = running.drain(&gate, Duration::from_millis(args.drain_ms_max)).await;
    drop(gate);
    if let (Ok(()), Some(engine)) = (&drained, engine) {
        engine.join(ENGINE_END_MAX).await;
    }
    tracing::info!("stopped");
    ended.and(drained)
}
