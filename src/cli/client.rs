//! Connections to a server's two addresses.

use clap::Args;
use tonic::transport::{Channel, Endpoint};

use super::error::CliError;
use crate::rpc::pb::classifier_service_client::ClassifierServiceClient;
use crate::rpc::pb::head_admin_service_client::HeadAdminServiceClient;

pub(super) type Classifier = ClassifierServiceClient<Channel>;
pub(super) type Admin = HeadAdminServiceClient<Channel>;

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
    /// The server's admin address
    #[arg(long, env = "HEADSWAP_ADMIN_ADDRESS", default_value = "127.0.0.1:50052")]
    admin_address: String,
}

impl Address {
    pub async fn connect(&self) -> Result<Classifier, CliError> {
        Ok(classifier(channel(&self.address, "--address").await?))
    }
}

impl AdminAddress {
    pub async fn connect(&self) -> Result<Admin, CliError> {
        Ok(admin(channel(&self.admin_address, "--admin-address").await?))
    }
}

/// A client whose messages are bounded by the server alone.
pub(super) fn classifier(channel: Channel) -> Classifier {
    Classifier::new(channel).max_decoding_message_size(usize::MAX)
}

/// A client whose messages are bounded by the server alone.
pub(super) fn admin(channel: Channel) -> Admin {
    Admin::new(channel).max_decoding_message_size(usize::MAX)
}

/// Connects to `host:port`, `http://host:port` or `unix:/path`.
pub(super) async fn channel(address: &str, flag: &'static str) -> Result<Channel, CliError> {
    let failed = |reason: String| CliError::Unreachable {
        address: address.to_owned(),
        flag,
        reason,
    };
    let uri = if address.contains("://") || address.starts_with("unix:") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| failed(error.to_string()))?;
    let endpoint = endpoint
        .tcp_nodelay(true)
        .initial_connection_window_size(8 << 20)
        .initial_stream_window_size(1 << 20);
    endpoint.connect().await.map_err(|error| failed(root_cause(&error)))
}

/// The innermost reason, which is the one that says something.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
