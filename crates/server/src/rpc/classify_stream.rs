//! One ClassifyStream: a task that reads requests, processes them concurrently and sends the responses.
//!
//! The server owns the task, so no request depends on whether the client reads. A response that the client has not read
//! occupies one of the stream's `in_flight_max` slots and nothing else. When all slots are taken, the task reads no more
//! requests, and HTTP/2's flow control stops the client.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::Fuse;
use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::{FutureExt as _, Stream};
use headswap_engine::Admitted;
use headswap_proto::{ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, ClassifyStreamResponse};
use headswap_service::{Accepted, AppState, CallContext, ClassifyQuery, Lifecycle, ServiceError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::classifier::{query, response, result};
use super::metrics::{Observed, RpcMetrics};
use crate::status::{self, MESSAGE_BYTES_MAX};

/// The limits of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamLimits {
    /// The largest number of requests in flight plus responses that the client has not read.
    pub in_flight_max: usize,
    /// How long the stream may make no progress.
    pub idle_max: Duration,
}

/// A stream before it is started.
pub(super) struct ClassifyStream {
    pub call: CallContext,
    pub state: Arc<AppState>,
    pub lifecycle: Lifecycle,
    pub metrics: RpcMetrics,
    pub limits: StreamLimits,
}

/// The responses of a stream, as the client reads them. Dropping it ends the stream's task.
pub struct ResponseStream {
    responses: mpsc::Receiver<ClassifyStreamResponse>,
    /// The error that ends the stream; the sender is dropped if there is none.
    end: oneshot::Receiver<Status>,
    task: JoinHandle<()>,
}

impl ClassifyStream {
    /// Starts the stream's task.
    pub fn start(self, requests: Streaming<ClassifyStreamRequest>) -> ResponseStream {
        // One response waits in the channel for the client to read it. The others wait in the task, which can drop them.
        let (sender, responses) = mpsc::channel(1);
        let (end, when_ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            if let Err(status) = self.run(requests, sender).await {
                // Fails if the client has closed the stream.
                let _ = end.send(status);
            }
        });
        ResponseStream {
            responses,
            end: when_ended,
            task,
        }
    }

    async fn run(
        self,
        requests: Streaming<ClassifyStreamRequest>,
        responses: mpsc::Sender<ClassifyStreamResponse>,
    ) -> Result<(), Status> {
        let deadline = self.call.deadline;
        let serve = self.serve(requests, responses);
        match deadline {
            None => serve.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, serve).await {
                Ok(served) => served,
                Err(_) => Err(Status::deadline_exceeded(
                    "the deadline passed while the stream was open",
                )),
            },
        }
    }

    /// Reads and processes requests until the client has ended its side, or the stream must end.
    async fn serve(
        &self,
        mut requests: Streaming<ClassifyStreamRequest>,
        responses: mpsc::Sender<ClassifyStreamResponse>,
    ) -> Result<(), Status> {
        let mut in_flight = FuturesUnordered::new();
        let mut ready = VecDeque::new();
        // The last request that was read, until it is admitted. No other is read before that, so that requests without
        // admission wait in the client.
        let mut next = None;
        let mut admission = std::pin::pin!(Fuse::terminated());
        let mut draining = std::pin::pin!(self.lifecycle.draining());
        // The stream's result, once no more requests are read.
        let mut end = None;
        let mut progress_at = Instant::now();
        loop {
            let unread = responses.max_capacity() - responses.capacity();
            let has_slot = in_flight.len() + ready.len() + unread < self.limits.in_flight_max;
            if let Some(end) = &end
                && next.is_none()
                && in_flight.is_empty()
                && ready.is_empty()
            {
                return Result::clone(end);
            }
            tokio::select! {
                biased;
                Some(response) = in_flight.next(), if !in_flight.is_empty() => ready.push_back(response),
                // Also awaited with nothing to send: when the client reads a response, its slot becomes free.
                permit = responses.reserve(), if !ready.is_empty() || unread > 0 => {
                    // An error means that the response stream was dropped, which is about to abort this task.
                    let permit = permit.map_err(|_| Status::cancelled("the client has closed the stream"))?;
                    if let Some(response) = ready.pop_front() {
                        permit.send(response);
                    }
                }
                admitted = &mut admission => if let Some(request) = next.take() {
                    in_flight.push(self.process(request, admitted).boxed());
                },
                () = &mut draining, if end.is_none() => {
                    let reason = "the server is shutting down; send the unanswered requests to another replica";
                    end = Some(Err(status::unavailable(reason)));
                }
                request = requests.message(), if end.is_none() && has_slot && next.is_none() => match request {
                    Ok(Some(request)) => {
                        next = Some(self.begin(request));
                        admission.set(self.state.admit(&self.call).fuse());
                        // Many messages may be available at once, so other tasks get a turn between two of them.
                        tokio::task::yield_now().await;
                    }
                    Ok(None) => end = Some(Ok(())),
                    // Sent after the last response, because an error ends a stream at once.
                    Err(status) => end = Some(Err(status::from_message(status, MESSAGE_BYTES_MAX))),
                },
                // Requests in flight end by themselves, so only a stream without them can be idle.
                () = sleep_until(progress_at + self.limits.idle_max), if in_flight.is_empty() && next.is_none() => {
                    return Err(idle(self.limits.idle_max));
                }
            }
            progress_at = Instant::now();
        }
    }

    /// Begins the request of a message that has arrived.
    fn begin(&self, request: ClassifyStreamRequest) -> StreamRequest<'_> {
        let request = request.request.unwrap_or_default();
        let mut observed = self.metrics.begin("ClassifyStream", &self.call.peer);
        observed.request_id.clone_from(&request.request_id);
        observed.head = request.heads.join(",");
        StreamRequest {
            request,
            observed,
            accepted: self.lifecycle.accept(),
        }
    }

    /// Processes one request after its admission, and returns its response.
    async fn process(
        &self,
        request: StreamRequest<'_>,
        admitted: Result<Admitted, ServiceError>,
    ) -> ClassifyStreamResponse {
        let StreamRequest {
            request,
            observed,
            accepted,
        } = request;
        let call = CallContext {
            request_id: request.request_id.clone(),
            ..self.call.clone()
        };
        let heads = request.heads.clone();
        let classified = async {
            let _accepted = accepted?;
            self.state.classify(&call, admitted?, query(request)).await
        };
        let (result, response) = match classified.await {
            Ok(classified) => (Ok(()), response(classified, call.request_id)),
            Err(error) => {
                let refused = refused(&heads, &error, call.request_id);
                (Err(status::from_service(error)), refused)
            }
        };
        // The error is part of the response, and the stream continues.
        let _ = observed.end(result);
        ClassifyStreamResponse {
            response: Some(response),
        }
    }
}

/// A request of the stream, from its arrival to its admission.
struct StreamRequest<'a> {
    request: ClassifyRequest,
    observed: Observed<'a>,
    accepted: Result<Accepted, ServiceError>,
}

/// Returns the response to a request that failed as a whole: each requested head gets the error.
fn refused(heads: &[String], error: &ServiceError, request_id: String) -> ClassifyResponse {
    let results = ClassifyQuery::refused(heads, error);
    ClassifyResponse {
        results: results.into_iter().map(result).collect(),
        request_id,
        timing: None,
    }
}

fn idle(idle_max: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "the stream made no progress for {idle_max:?} (--stream-idle-ms-max); open another"
    ))
}

impl Stream for ResponseStream {
    type Item = Result<ClassifyStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(response) = std::task::ready!(self.responses.poll_recv(context)) {
            return Poll::Ready(Some(Ok(response)));
        }
        // The task has ended and has sent or dropped the error.
        let end = std::task::ready!(self.end.poll_unpin(context));
        self.end.close();
        Poll::Ready(end.ok().map(Err))
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}
