//! Three sockets: classification, administration, HTTP. All are bound before anything is loaded.

use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;

use super::ServerError;
use super::config::ServeArgs;
use super::health::EndingWatch;
use super::incoming::{KEEPALIVE, Listener, incoming};
use super::listen_address::ListenAddress;
use super::socket_file::SocketFile;
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
    grpc: GrpcListener,
    admin: TcpListener,
    http: TcpListener,
}

#[derive(Debug)]
enum GrpcListener {
    Tcp(TcpListener),
    /// In this order: the file goes before its listener does.
    Unix(SocketFile, UnixListener),
}

impl Listeners {
    pub async fn bind(args: &ServeArgs) -> Result<Self, ServerError> {
        let failed = |flag, address| move |source| ServerError::Listen { flag, address, source };
        let bind = async |flag, address| {
            let listener = TcpListener::bind(address).await;
            listener.map_err(failed(flag, ListenAddress::Tcp(address)))
        };
        Ok(Self {
            grpc: match &args.listen {
                ListenAddress::Tcp(address) => GrpcListener::Tcp(bind("listen", *address).await?),
                ListenAddress::Unix(path) => {
                    let (listener, file) = SocketFile::bind(path).map_err(failed("listen", args.listen.clone()))?;
                    GrpcListener::Unix(file, listener)
                }
            },
            admin: bind("admin-listen", args.admin_listen).await?,
            http: bind("http-listen", args.http_listen).await?,
        })
    }

    /// What each is for, and where it is.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, ListenAddress)> {
        let tcp = |listener: &TcpListener| listener.local_addr().ok().map(ListenAddress::Tcp);
        let grpc = match &self.grpc {
            GrpcListener::Tcp(listener) => tcp(listener),
            GrpcListener::Unix(file, _) => Some(ListenAddress::Unix(file.path().to_owned())),
        };
        let all = [("grpc", grpc), ("admin", tcp(&self.admin)), ("http", tcp(&self.http))];
        all.into_iter().filter_map(|(kind, address)| Some((kind, address?)))
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
        let routes = with_reflection(Routes::new(classifier).add_service(health()));
        let stop_grpc = wait(stopped.clone());
        let mut socket = None;
        match self.grpc {
            GrpcListener::Tcp(listener) => tasks.spawn(serve_grpc(listener, routes, settings, stop_grpc)),
            GrpcListener::Unix(file, listener) => {
                socket = Some(file);
                tasks.spawn(serve_grpc(listener, routes, settings, stop_grpc))
            }
        };
        let routes = Routes::new(admin).add_service(health());
        tasks.spawn(serve_grpc(
            self.admin,
            with_reflection(routes),
            settings,
            wait(stopped.clone()),
        ));

        // Metrics and probes answer to the very end of a drain.
        let http = tokio::spawn(async move { axum::serve(self.http, http).await });
        Running {
            stop,
            tasks,
            http,
            socket,
        }
    }
}

/// The listeners' tasks.
pub(super) struct Running {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<(), tonic::transport::Error>>,
    http: tokio::task::JoinHandle<std::io::Result<()>>,
    socket: Option<SocketFile>,
}

impl Running {
    /// Accepts nothing more and waits until everything accepted is answered, for `longest` at most.
    pub async fn drain(mut self, longest: Duration) -> Result<(), ServerError> {
        // While its listener lives, so that no other server takes it for a stale one meanwhile.
        drop(self.socket.take());
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
    listener: impl Listener,
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
