//! The requests of one stream, up to its end: the client's, a failure's or the server's.

use std::sync::{Arc, OnceLock};

use futures::stream::{self, Stream, StreamExt as _};
use tonic::{Status, Streaming};

use super::status::{MESSAGE_BYTES_MAX, of_message, unavailable};

/// Why a stream ended, if not because the client had sent everything. To be told after the last answer: an error ends
/// a stream at once, and with it the answers that are still under way.
#[derive(Clone, Debug, Default)]
pub(super) struct End(Arc<OnceLock<Status>>);

impl End {
    /// The error, once the requests have ended, as a stream of none or one.
    pub fn told<T>(self) -> impl Stream<Item = Result<T, Status>> {
        stream::once(async move { self.0.get().cloned() }).filter_map(async |error| error.map(Err))
    }
}

/// The requests until one cannot be read or `draining` comes; `end` keeps which.
pub(super) fn until_end<T>(
    requests: Streaming<T>,
    draining: impl Future<Output = ()>,
    end: End,
) -> impl Stream<Item = T> {
    let draining = Box::pin(draining);
    stream::unfold((requests, draining, end), async |(mut requests, mut draining, end)| {
        let request = tokio::select! {
            biased;
            () = &mut draining => Err(unavailable("the server is shutting down; send what is unanswered elsewhere")),
            request = requests.message() => request.map_err(|error| of_message(error, MESSAGE_BYTES_MAX)),
        };
        match request {
            Ok(request) => Some((request?, (requests, draining, end))),
            Err(error) => {
                let _ = end.0.set(error);
                None
            }
        }
    })
}
