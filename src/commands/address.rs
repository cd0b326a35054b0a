//! Where a server listens.

use clap::Args;
use headswap_client::{Admin, Classifier, connect_admin, connect_classifier};

use super::error::CliError;

/// Where ClassifierService listens.
#[derive(Args, Clone, Debug)]
pub(super) struct Address {
    /// The server's address: HOST:PORT or unix:/PATH
    #[arg(long, env = "HEADSWAP_ADDRESS", default_value = "127.0.0.1:50051")]
    address: String,
}

/// Where HeadAdminService listens.
#[derive(Args, Clone, Debug)]
pub(super) struct AdminAddress {
    /// The server's admin address: HOST:PORT
    #[arg(long, env = "HEADSWAP_ADMIN_ADDRESS", default_value = "127.0.0.1:50052")]
    admin_address: String,
}

impl Address {
    pub async fn connect(&self) -> Result<Classifier, CliError> {
        let connected = connect_classifier(&self.address).await;
        connected.map_err(|error| CliError::unreachable(error, "--address"))
    }
}

impl AdminAddress {
    pub async fn connect(&self) -> Result<Admin, CliError> {
        let connected = connect_admin(&self.admin_address).await;
        connected.map_err(|error| CliError::unreachable(error, "--admin-address"))
    }
}
