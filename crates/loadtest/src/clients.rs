//! Many clients on few connections.

use headswap_client::{Classifier, ClientError, connect_classifier};

/// Clients that share a connection, as those of one program do.
const CLIENTS_PER_CONNECTION: usize = 16;

/// Connects `count` clients, sixteen on a connection.
///
/// # Errors
/// [`ClientError::Unreachable`].
pub async fn connect_clients(address: &str, count: usize) -> Result<Vec<Classifier>, ClientError> {
    let mut clients: Vec<Classifier> = Vec::with_capacity(count);
    for index in 0..count {
        clients.push(match index % CLIENTS_PER_CONNECTION {
            0 => connect_classifier(address).await?,
            _ => clients[index - 1].clone(),
        });
    }
    Ok(clients)
}
