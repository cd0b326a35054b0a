//! The server's addresses.

use std::net::SocketAddr;

use clap::Args;

use super::listen_address::ListenAddress;

/// Where the server listens.
#[derive(Args, Clone, Debug)]
pub struct AddressArgs {
    /// Address of ClassifierService. Port 0 selects a free port; unix:/PATH is a Unix socket for the server's user and group
    #[arg(
        long,
        env = "HEADSWAP_LISTEN",
        default_value = "127.0.0.1:50051",
        value_name = "ADDRESS"
    )]
    pub listen: ListenAddress,
    /// Address of HeadAdminService. Only administrators should be able to reach it
    #[arg(
        long,
        env = "HEADSWAP_ADMIN_LISTEN",
        default_value = "127.0.0.1:50052",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
    /// Address of /metrics, /healthz and /readyz
    #[arg(
        long,
        env = "HEADSWAP_HTTP_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS"
    )]
    pub http_listen: SocketAddr,
}
