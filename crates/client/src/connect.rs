//! Connections to a server's two gRPC ports.

use headswap_proto::classifier_service_client::ClassifierServiceClient;
use headswap_proto::head_admin_service_client::HeadAdminServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::error::ClientError;

/// A client of ClassifierService.
pub type Classifier = ClassifierServiceClient<Channel>;
/// A client of HeadAdminService.
pub type Admin = HeadAdminServiceClient<Channel>;

/// HTTP/2's flow-control windows, for answers with many logits.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Connects to ClassifierService at `HOST:PORT`, `http://HOST:PORT` or `unix:/PATH`. The server alone bounds the messages.
///
/// # Errors
/// [`ClientError::Unreachable`].
pub async fn connect_classifier(address: &str) -> Result<Classifier, ClientError> {
    Ok(Classifier::new(connect(address).await?).max_decoding_message_size(usize::MAX))
}

/// Connects to HeadAdminService, as [`connect_classifier`].
///
/// # Errors
/// [`ClientError::Unreachable`].
pub async fn connect_admin(address: &str) -> Result<Admin, ClientError> {
    Ok(Admin::new(connect(address).await?).max_decoding_message_size(usize::MAX))
}

async fn connect(address: &str) -> Result<Channel, ClientError> {
    let uri = if address.contains("://") || address.starts_with("unix:") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| unreachable(address, error.to_string()))?;
    let endpoint = endpoint
        .tcp_nodelay(true)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES);
    let channel = endpoint.connect().await;
    channel.map_err(|error| unreachable(address, root_cause(&error)))
}

fn unreachable(address: &str, reason: String) -> ClientError {
    ClientError::Unreachable {
        address: address.to_owned(),
        reason,
    }
}

/// The innermost error, whose text says the most.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
