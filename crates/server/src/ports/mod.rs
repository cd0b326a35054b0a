//! Three ports: classification, administration, HTTP. All are bound before anything is loaded.

pub(crate) mod http;
pub(crate) mod incoming;
pub(crate) mod port;
mod running;
mod socket_file;
pub(crate) mod stage;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use headswap_proto::classifier_service_server::ClassifierServiceServer;
use headswap_proto::head_admin_service_server::HeadAdminServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use self::port::ConnectionIds;
use super::health::EndingWatch;
use crate::ServerError;
use crate::edge::services::{ADMINISTRATION, CLASSIFICATION, Services};
use crate::edge::{Edge, Refused};
use crate::http2::Grpc;
use crate::http2::fair_reads::ReadTurns;
use crate::ports::http::Http;
use crate::ports::running::{Ports, Running};
use crate::ports::socket_file::SocketFile;
use crate::ports::stage::Stages;
use crate::rpc::{ClassifierRpc, HeadAdminRpc};
use crate::settings::ListenAddress;
use crate::settings::ServeArgs;
use crate::status::{ADMIN_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX};

/// The settings of both gRPC ports.
#[derive(Clone, Debug)]
pub(crate) struct GrpcSettings {
    message_bytes_max: usize,
    admin_message_bytes_max: usize,
    streams_per_connection_max: u32,
    stream_idle_max: Duration,
    turns: ReadTurns,
}

impl From<&ServeArgs> for GrpcSettings {
    fn from(args: &ServeArgs) -> Self {
        Self {
            message_bytes_max: args.limits.message_bytes_max,
            admin_message_bytes_max: args.limits.admin_message_bytes_max,
            streams_per_connection_max: args.limits.streams_per_connection_max,
            stream_idle_max: Duration::from_millis(args.limits.stream_idle_ms_max),
            // The runtime has as many threads.
            turns: ReadTurns::new(std::thread::available_parallelism().map_or(1, |cores| cores.get())),
        }
    }
}

/// Bound and not yet served.
#[derive(Debug)]
pub(crate) struct Listeners {
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

/// A gRPC service and the health service of its port.
pub(crate) struct WithHealth<S> {
    pub service: S,
    pub health: HealthServer<EndingWatch>,
}

impl Listeners {
    pub async fn bind(args: &ServeArgs) -> Result<Self, ServerError> {
        let failed = |flag, address| move |source| ServerError::Listen { flag, address, source };
        let bind = async |flag, address| {
            let listener = TcpListener::bind(address).await;
            listener.map_err(failed(flag, ListenAddress::Tcp(address)))
        };
        Ok(Self {
            grpc: match &args.addresses.listen {
                ListenAddress::Tcp(address) => GrpcListener::Tcp(bind("listen", *address).await?),
                ListenAddress::Unix(path) => {
                    let (listener, file) =
                        SocketFile::bind(path).map_err(failed("listen", args.addresses.listen.clone()))?;
                    GrpcListener::Unix(file, listener)
                }
            },
            admin: bind("admin-listen", args.addresses.admin_listen).await?,
            http: bind("http-listen", args.addresses.http_listen).await?,
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
        classifier: WithHealth<ClassifierRpc>,
        admin: WithHealth<HeadAdminRpc>,
        http: Router,
    ) -> Running {
        let (ids, refused, mut socket) = (ConnectionIds::default(), Refused::default(), None);
        let (stage, stages) = Stages::new();
        let mut tasks = JoinSet::new();

        let classifier = settings.classification(classifier, &refused);
        match self.grpc {
            GrpcListener::Tcp(listener) => {
                tasks.spawn(port::serve("grpc", listener, classifier, ids.clone(), stages.clone()));
            }
            GrpcListener::Unix(file, listener) => {
                socket = Some(file);
                tasks.spawn(port::serve("grpc", listener, classifier, ids.clone(), stages.clone()));
            }
        }
        let admin = settings.administration(admin, &refused);
        tasks.spawn(port::serve("admin", self.admin, admin, ids.clone(), stages));
        let grpc = Ports { stage, tasks };

        // Its connections are accepted and answered until the gRPC ports have ended.
        let (stage, stages) = Stages::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(port::serve("http", self.http, Http(http), ids, stages));
        let http = Ports { stage, tasks };
        Running {
            grpc,
            http,
            refused,
            socket,
        }
    }
}

impl GrpcSettings {
    fn classification(&self, classifier: WithHealth<ClassifierRpc>, refused: &Refused) -> Grpc {
        let service = ClassifierServiceServer::new(classifier.service)
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .send_compressed(Gzip)
            .send_compressed(Zstd);
        let routes = Routes::new(service).add_service(classifier.health);
        self.grpc(routes, Services::of(CLASSIFICATION), MESSAGE_BYTES_MAX, refused)
    }

    fn administration(&self, admin: WithHealth<HeadAdminRpc>, refused: &Refused) -> Grpc {
        let service = HeadAdminServiceServer::new(admin.service)
            .max_decoding_message_size(self.admin_message_bytes_max)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .send_compressed(Gzip)
            .send_compressed(Zstd);
        let routes = Routes::new(service).add_service(admin.health);
        self.grpc(routes, Services::of(ADMINISTRATION), ADMIN_MESSAGE_BYTES_MAX, refused)
    }

    fn grpc(&self, routes: Routes, services: Services, message_setting: &'static str, refused: &Refused) -> Grpc {
        Grpc {
            edge: Arc::new(Edge {
                router: with_reflection(routes, &services).prepare().into_axum_router(),
                services,
                message_setting,
                stream_idle_max: self.stream_idle_max,
                refused: refused.clone(),
            }),
            streams_per_connection_max: self.streams_per_connection_max,
            turns: self.turns.clone(),
        }
    }
}

/// Reflection in both versions that clients ask for, of the port's services alone.
fn with_reflection(routes: Routes, services: &Services) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(services.descriptors())
            .include_reflection_service(false)
    };
    let broken = "the descriptors were compiled with this program";
    routes
        .add_service(builder().build_v1().expect(broken))
        .add_service(builder().build_v1alpha().expect(broken))
}
