//! One ClassifyStream: a task that reads requests, has them answered side by side, and passes the answers on.
//!
//! The task is the server's own, so that no request depends on a client that reads: an answer that the client has not
//! taken keeps its request's place in the stream and nothing else. With all places taken, no more requests are read, and
//! HTTP/2's flow control stops the client.

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

/// What bounds a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamLimits {
    /// Requests under way and answers that the client has not taken, at most.
    pub in_flight_max: usize,
    /// How long nothing may move.
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

/// The answers of a stream, as the client reads them. Dropped, they end the stream's task.
pub struct Answers {
    answers: mpsc::Receiver<ClassifyStreamResponse>,
    /// The status that ends the stream; none if the client has ended it.
    end: oneshot::Receiver<Status>,
    task: JoinHandle<()>,
}

impl ClassifyStream {
    /// Starts the stream's task.
    pub fn start(self, requests: Streaming<ClassifyStreamRequest>) -> Answers {
        // One answer waits for the client to read it; the others wait in the task, which can let go of them.
        let (sender, answers) = mpsc::channel(1);
        let (end, when_ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            if let Err(status) = self.run(requests, sender).await {
                // The client may be gone.
                let _ = end.send(status);
            }
        });
        Answers {
            answers,
            end: when_ended,
            task,
        }
    }

    async fn run(
        self,
        requests: Streaming<ClassifyStreamRequest>,
        answers: mpsc::Sender<ClassifyStreamResponse>,
    ) -> Result<(), Status> {
        let deadline = self.call.deadline;
        let serve = self.serve(requests, answers);
        match deadline {
            None => serve.await,
            Some(deadline) => {
                let expired = |_| Status::deadline_exceeded("the deadline passed while the stream was open");
                tokio::time::timeout_at(deadline, serve).await.map_err(expired)?
            }
        }
    }

    /// Reads and answers until the client has sent everything, or the stream must end.
    async fn serve(
        &self,
        mut requests: Streaming<ClassifyStreamRequest>,
        answers: mpsc::Sender<ClassifyStreamResponse>,
    ) -> Result<(), Status> {
        let mut under_way = FuturesUnordered::new();
        let mut ready = VecDeque::new();
        // The request that was read last, until it is admitted: no more are read before, so that what a stream has not
        // been given a place for stays with the client.
        let mut next = None;
        let mut admission = std::pin::pin!(Fuse::terminated());
        let mut draining = std::pin::pin!(self.lifecycle.draining());
        // Why no more requests are read, once that is so.
        let mut end = None;
        let mut moved_at = Instant::now();
        loop {
            let unread = answers.max_capacity() - answers.capacity();
            let has_place = under_way.len() + ready.len() + unread < self.limits.in_flight_max;
            if let Some(end) = &end
                && next.is_none()
                && under_way.is_empty()
                && ready.is_empty()
            {
                return Result::clone(end);
            }
            tokio::select! {
                biased;
                Some(answer) = under_way.next(), if !under_way.is_empty() => ready.push_back(answer),
                // Also with nothing to send: the answer that the client takes leaves a place.
                place = answers.reserve(), if !ready.is_empty() || unread > 0 => {
                    // Without a reader, the task is about to be ended.
                    let place = place.map_err(|_| Status::cancelled("the client is gone"))?;
                    if let Some(answer) = ready.pop_front() {
                        place.send(answer);
                    }
                }
                admitted = &mut admission => if let Some(asked) = next.take() {
                    under_way.push(self.answer(asked, admitted).boxed());
                },
                () = &mut draining, if end.is_none() => {
                    let reason = "the server is shutting down; send what is unanswered elsewhere";
                    end = Some(Err(status::unavailable(reason)));
                }
                request = requests.message(), if end.is_none() && has_place && next.is_none() => match request {
                    Ok(Some(request)) => {
                        next = Some(self.asked(request));
                        admission.set(self.state.admit(&self.call).fuse());
                        // Others have their turn between two of its messages, which may all be here.
                        tokio::task::yield_now().await;
                    }
                    Ok(None) => end = Some(Ok(())),
                    // Told after the last answer: an error ends a stream at once.
                    Err(status) => end = Some(Err(status::of_message(status, MESSAGE_BYTES_MAX))),
                },
                // What is under way moves by itself and has an end.
                () = sleep_until(moved_at + self.limits.idle_max), if under_way.is_empty() && next.is_none() => {
                    return Err(idle(self.limits.idle_max));
                }
            }
            moved_at = Instant::now();
        }
    }

    /// A request whose message has arrived.
    fn asked(&self, request: ClassifyStreamRequest) -> Asked<'_> {
        let request = request.request.unwrap_or_default();
        let mut observed = self.metrics.begin("ClassifyStream", &self.call.peer);
        observed.request_id.clone_from(&request.request_id);
        observed.head = request.heads.join(",");
        Asked {
            request,
            observed,
            accepted: self.lifecycle.accept(),
        }
    }

    /// One request of the stream, from its admission to its answer.
    async fn answer(&self, asked: Asked<'_>, admitted: Result<Admitted, ServiceError>) -> ClassifyStreamResponse {
        let Asked {
            request,
            observed,
            accepted,
        } = asked;
        let call = CallContext {
            request_id: request.request_id.clone(),
            ..self.call.clone()
        };
        let heads = request.heads.clone();
        let answer = async {
            let _accepted = accepted?;
            self.state.classify(&call, admitted?, query(request)).await
        };
        let (answered, response) = match answer.await {
            Ok(classified) => (Ok(()), response(classified, call.request_id)),
            Err(error) => {
                let refused = refused(&heads, &error, call.request_id);
                (Err(status::of_service(error)), refused)
            }
        };
        // Its status is in the message; the stream goes on.
        let _ = observed.end(answered);
        ClassifyStreamResponse {
            response: Some(response),
        }
    }
}

/// A request of a stream that has been read.
struct Asked<'a> {
    request: ClassifyRequest,
    observed: Observed<'a>,
    accepted: Result<Accepted, ServiceError>,
}

/// A stream's answer to a request that failed as a whole: every head it asked for gets the error.
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
        "nothing moved on the stream for {idle_max:?} (--stream-idle-ms-max); open another"
    ))
}

impl Stream for Answers {
    type Item = Result<ClassifyStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(answer) = std::task::ready!(self.answers.poll_recv(context)) {
            return Poll::Ready(Some(Ok(answer)));
        }
        // The task has ended, and with it the sender of its status.
        let end = std::task::ready!(self.end.poll_unpin(context));
        self.end.close();
        Poll::Ready(end.ok().map(Err))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.task.abort();
    }
}
