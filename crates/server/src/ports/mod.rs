//! The three ports: classification, administration, HTTP. All are bound before the weights are loaded.

pub(crate) mod http;
mod incoming;
mod port;
mod running;
mod socket_file;

use std::net::SocketAddr;
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

use self::port::{ConnectionIds, Port};
use crate::ServerError;
use crate::edge::services::{ADMINISTRATION, CLASSIFICATION, Services};
use crate::edge::{Edge, RefusedRequests};
use crate::health::DrainingHealth;
use crate::http2::Grpc;
use crate::http2::fair_reads::ReadTurns;
use crate::ports::http::Http;
use crate::ports::running::{Ports, Running};
use crate::ports::socket_file::SocketFile;
use crate::rpc::{ClassifierRpc, HeadAdminRpc};
use crate::settings::ListenAddress;
use crate::settings::ServeArgs;
use crate::stage::Stages;
use crate::status::{ADMIN_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX};

/// Settings of the two gRPC ports.
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
            // The runtime has one thread for each core.
            turns: ReadTurns::new(std::thread::available_parallelism().map_or(1, |cores| cores.get())),
        }
    }
}

/// The bound listeners, before they are served.
#[derive(Debug)]
pub(crate) struct Listeners {
    grpc: GrpcListener,
    admin: TcpListener,
    http: TcpListener,
}

#[derive(Debug)]
enum GrpcListener {
    Tcp(TcpListener),
    /// The file comes first, because it must be removed before its listener is closed.
    Unix(SocketFile, UnixListener),
}

/// A gRPC service and the health service of its port.
pub(crate) struct WithHealth<S> {
    pub service: S,
    pub health: HealthServer<DrainingHealth>,
}

impl Listeners {
    /// Binds all three listeners.
    ///
    /// # Errors
    /// [`ServerError::Listen`] for the first address that cannot be bound.
    pub async fn bind(args: &ServeArgs) -> Result<Self, ServerError> {
        let grpc = match &args.addresses.listen {
            ListenAddress::Tcp(address) => GrpcListener::Tcp(bind_tcp("listen", *address).await?),
            ListenAddress::Unix(path) => {
                let (listener, file) = SocketFile::bind(path).map_err(|source| ServerError::Listen {
                    flag: "listen",
                    address: args.addresses.listen.clone(),
                    source,
                })?;
                GrpcListener::Unix(file, listener)
            }
        };
        Ok(Self {
            grpc,
            admin: bind_tcp("admin-listen", args.addresses.admin_listen).await?,
            http: bind_tcp("http-listen", args.addresses.http_listen).await?,
        })
    }

    /// Returns each listener's name and address.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, ListenAddress)> {
        let grpc = match &self.grpc {
            GrpcListener::Tcp(listener) => tcp_address(listener),
            GrpcListener::Unix(file, _) => Some(ListenAddress::Unix(file.path().to_owned())),
        };
        let all = [
            ("grpc", grpc),
            ("admin", tcp_address(&self.admin)),
            ("http", tcp_address(&self.http)),
        ];
        all.into_iter().filter_map(|(kind, address)| Some((kind, address?)))
    }

    /// Starts serving all three listeners, until [`Running::drain`].
    pub fn serve(
        self,
        settings: GrpcSettings,
        classifier: WithHealth<ClassifierRpc>,
        admin: WithHealth<HeadAdminRpc>,
        http: Router,
    ) -> Running {
        let (ids, refused, mut socket) = (ConnectionIds::default(), RefusedRequests::default(), None);
        let (stage, stages) = Stages::new();
        let mut tasks = JoinSet::new();

        let port = Port {
            name: "grpc",
            protocol: settings.classification(classifier, &refused),
            ids: ids.clone(),
            stages: stages.clone(),
        };
        match self.grpc {
            GrpcListener::Tcp(listener) => {
                tasks.spawn(port.serve(listener));
            }
            GrpcListener::Unix(file, listener) => {
                socket = Some(file);
                tasks.spawn(port.serve(listener));
            }
        }
        let port = Port {
            name: "admin",
            protocol: settings.administration(admin, &refused),
            ids: ids.clone(),
            stages,
        };
        tasks.spawn(port.serve(self.admin));
        let grpc = Ports { stage, tasks };

        // The HTTP port has a stage of its own, because it serves until the gRPC ports have ended.
        let (stage, stages) = Stages::new();
        let mut tasks = JoinSet::new();
        let port = Port {
            name: "http",
            protocol: Http(http),
            ids,
            stages,
        };
        tasks.spawn(port.serve(self.http));
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
    fn classification(&self, classifier: WithHealth<ClassifierRpc>, refused: &RefusedRequests) -> Grpc {
        let service = ClassifierServiceServer::new(classifier.service)
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .send_compressed(Gzip)
            .send_compressed(Zstd);
        let routes = Routes::new(service).add_service(classifier.health);
        self.grpc(routes, Services::for_port(CLASSIFICATION), MESSAGE_BYTES_MAX, refused)
    }

    fn administration(&self, admin: WithHealth<HeadAdminRpc>, refused: &RefusedRequests) -> Grpc {
        let service = HeadAdminServiceServer::new(admin.service)
            .max_decoding_message_size(self.admin_message_bytes_max)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .send_compressed(Gzip)
            .send_compressed(Zstd);
        let routes = Routes::new(service).add_service(admin.health);
        self.grpc(
            routes,
            Services::for_port(ADMINISTRATION),
            ADMIN_MESSAGE_BYTES_MAX,
            refused,
        )
    }

    fn grpc(
        &self,
        routes: Routes,
        services: Services,
        message_setting: &'static str,
        refused: &RefusedRequests,
    ) -> Grpc {
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

/// Adds reflection of the port's services, in the two versions that clients use.
fn with_reflection(routes: Routes, services: &Services) -> Routes {
    let broken = "the descriptors were compiled with this program";
    routes
        .add_service(reflection(services).build_v1().expect(broken))
        .add_service(reflection(services).build_v1alpha().expect(broken))
}

fn reflection(services: &Services) -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_file_descriptor_set(services.descriptors())
        .include_reflection_service(false)
}

async fn bind_tcp(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ServerError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| ServerError::Listen {
        flag,
        address: ListenAddress::Tcp(address),
        source,
    })
}

fn tcp_address(listener: &TcpListener) -> Option<ListenAddress> {
    listener.local_addr().ok().map(ListenAddress::Tcp)
}
