//! Three sockets: classification, administration, HTTP. All are bound before anything is loaded.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;

use super::ServerError;
use super::config::ServeArgs;
use super::health::EndingWatch;
use super::incoming::{KEEPALIVE, incoming};
use crate::rpc::pb::classifier_service_server::ClassifierServiceServer;
use crate::rpc::pb::head_admin_service_server::HeadAdminServiceServer;
use crate::rpc::{ClassifierRpc, HeadAdminRpc, pb};

/// Flow-control windows: room for some pictures on each stream, so that one round trip does not bound the rate.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// What both gRPC listeners are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct GrpcSettings {
    message_bytes_max: usize,
    admin_message_bytes_max: usize,
    streams_max: u32,
}

impl From<&ServeArgs> for GrpcSettings {
    fn from(args: &ServeArgs) -> Self {
        Self {
            message_bytes_max: args.message_bytes_max,
            admin_message_bytes_max: args.admin_message_bytes_max,
            // One connection may fill the server, and be told so rather than wait.
            streams_max: u32::try_from(args.in_flight_max.saturating_mul(2)).unwrap_or(u32::MAX),
        }
    }
}

/// Bound and not yet served.
#[derive(Debug)]
pub(super) struct Listeners {
    grpc: TcpListener,
    admin: TcpListener,
    http: TcpListener,
}

impl Listeners {
    pub async fn bind(args: &ServeArgs) -> Result<Self, ServerError> {
        let bind = async |flag, address| {
            TcpListener::bind(address)
                .await
                .map_err(|source| ServerError::Listen { flag, address, source })
        };
        Ok(Self {
            grpc: bind("listen", args.listen).await?,
            admin: bind("admin-listen", args.admin_listen).await?,
            http: bind("http-listen", args.http_listen).await?,
        })
    }

    /// What each is for, and where it is.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let all = [("grpc", &self.grpc), ("admin", &self.admin), ("http", &self.http)];
        all.into_iter()
            .filter_map(|(kind, listener)| Some((kind, listener.local_addr().ok()?)))
    }

    /// Serves all three until [`Running::drain`].
    pub fn serve(
        self,
        settings: GrpcSettings,
        classifier: ClassifierRpc,
        admin: HeadAdminRpc,
        health: impl Fn() -> HealthServer<EndingWatch>,
        http: Router,
    ) -> Running {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();

        let classifier = ClassifierServiceServer::new(classifier)
            .max_decoding_message_size(settings.message_bytes_max)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .send_compressed(Gzip)
            .send_compressed(Zstd);
        let admin = HeadAdminServiceServer::new(admin)
            .max_decoding_message_size(settings.admin_message_bytes_max)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .send_compressed(Gzip)
            .send_compressed(Zstd);
        let routes = Routes::new(classifier).add_service(health());
        tasks.spawn(serve_grpc(
            self.grpc,
            with_reflection(routes),
            settings,
            wait(stopped.clone()),
        ));
        let routes = Routes::new(admin).add_service(health());
        tasks.spawn(serve_grpc(
            self.admin,
            with_reflection(routes),
            settings,
            wait(stopped.clone()),
        ));

        // Metrics and probes answer to the very end of a drain.
        let http = tokio::spawn(async move { axum::serve(self.http, http).await });
        Running { stop, tasks, http }
    }
}

/// The listeners' tasks.
pub(super) struct Running {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<(), tonic::transport::Error>>,
    http: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Accepts nothing more and waits until everything accepted is answered, for `longest` at most.
    pub async fn drain(mut self, longest: Duration) -> Result<(), ServerError> {
        let _ = self.stop.send(true);
        let all = async {
            while let Some(task) = self.tasks.join_next().await {
                task.map_err(std::io::Error::other)??;
            }
            Ok(())
        };
        let drained = tokio::time::timeout(longest, all)
            .await
            .unwrap_or(Err(ServerError::Drain(longest)));
        self.http.abort();
        drained
    }
}

async fn serve_grpc(
    listener: TcpListener,
    routes: Routes,
    settings: GrpcSettings,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    // The stop comes as the end of `incoming`, after the backlog.
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(settings.streams_max)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listener, stop), std::future::pending())
        .await
}

/// Reflection in both versions that clients ask for.
fn with_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = "the descriptors were compiled with this program";
    routes
        .add_service(builder().build_v1().expect(broken))
        .add_service(builder().build_v1alpha().expect(broken))
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
