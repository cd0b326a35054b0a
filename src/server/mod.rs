//! Composition: listeners, the tower stack, health, drain and telemetry.

mod announce;
mod config;
mod feature_cache;
mod health;
mod http;
mod incoming;
mod listen_address;
mod listeners;
mod load;
mod pipeline;
mod shutdown;
mod socket_file;
mod telemetry;

use std::time::Duration;

pub use config::{LogFormat, ServeArgs};
pub use listen_address::{ListenAddress, ParseListenAddressError};
use prometheus_client::registry::Registry;

use crate::rpc::{ClassifierRpc, Gate, HeadAdminRpc};
use announce::announce;
use health::Health;
use listeners::{GrpcSettings, Listeners};
use load::Metrics;

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
    Weights(#[from] crate::model::WeightsError),
    /// The device could not be used.
    #[error(transparent)]
    Network(#[from] crate::model::NetworkError),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] crate::engine::StartError),
    /// The heads could not be loaded.
    #[error(transparent)]
    Heads(#[from] crate::heads::HeadError),
    /// The system gave no thread, or a file could not be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A listener failed while serving.
    #[error("a listener failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// Requests were still under way when the drain's time was up.
    #[error("requests were still under way after {0:?} of draining (--drain-ms-max)")]
    Drain(Duration),
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`ServerError`] says what to change.
pub async fn serve(args: ServeArgs) -> Result<(), ServerError> {
    args.check()?;
    telemetry::start(args.log_format, &args.log);
    let stop = shutdown::Signals::listen()?;

    let mut registry = Registry::with_prefix("headswap");
    let metrics = Metrics::register(&mut registry);
    let listeners = Listeners::bind(&args).await?;
    announce(&listeners);

    let (gate, health) = (Gate::default(), Health::new().await);
    let classifier = ClassifierRpc::new(gate.clone(), metrics.rpc.clone(), args.stream_in_flight_max);
    let admin = HeadAdminRpc::new(gate.clone(), metrics.rpc.clone());
    let grpc = GrpcSettings::from(&args);
    let running = listeners.serve(
        grpc,
        classifier,
        admin,
        || health.service(&gate),
        http::routes(registry, health.readiness()),
    );

    let loaded = tokio::select! {
        loaded = load::load(&args, &metrics) => Some(loaded?),
        () = stop.received() => None,
    };
    let engine = if let Some((serving, engine)) = loaded {
        tracing::info!(model = ?serving.model, "ready");
        gate.open(serving);
        health.serving().await;
        announce::ready();
        stop.received().await;
        Some(engine)
    } else {
        None
    };

    health.not_serving().await;
    if engine.is_some() {
        // Load balancers take a while to hear of it, and go on sending.
        let delay = Duration::from_millis(args.drain_delay_ms);
        tracing::info!(?delay, "draining");
        tokio::time::sleep(delay).await;
    }
    gate.drain();
    let drained = running.drain(Duration::from_millis(args.drain_ms_max)).await;
    drop(gate);
    if let (Ok(()), Some(engine)) = (&drained, engine) {
        engine.join().await;
    }
    tracing::info!("stopped");
    drained
}
