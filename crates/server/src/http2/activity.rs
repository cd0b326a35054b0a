//! The requests of one connection: how many are open, and how many its client has cancelled.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::http2::reset_budget::ResetBudget;

/// Shared by a connection and its requests.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    requests: Mutex<Requests>,
    exhausted: Notify,
}

#[derive(Debug)]
struct Requests {
    open: usize,
    /// When the last one ended.
    last_end: Option<Instant>,
    budget: ResetBudget,
}

impl Activity {
    pub fn new() -> Self {
        Self(Arc::new(State {
            requests: Mutex::new(Requests {
                open: 0,
                last_end: None,
                budget: ResetBudget::new(Instant::now()),
            }),
            exhausted: Notify::new(),
        }))
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request as open.
    pub fn begin(&self) -> OpenRequest {
        self.requests().open += 1;
        OpenRequest {
            activity: self.clone(),
            answered: false,
        }
    }

    /// How many requests are open.
    pub fn open(&self) -> usize {
        self.requests().open
    }

    /// When the last request ended; none if no request came.
    pub fn last_end(&self) -> Option<Instant> {
        self.requests().last_end
    }

    /// Returns once the client has cancelled more requests than it may.
    pub async fn too_many_resets(&self) {
        self.0.exhausted.notified().await;
    }
}

/// One request, until its answer has been handed to the connection as a whole. One that is dropped earlier counts as
/// cancelled.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    activity: Activity,
    answered: bool,
}

impl OpenRequest {
    /// The answer's body, which ends the request when it ends.
    pub fn answer(mut self, body: Body) -> Answer {
        self.answered = http_body::Body::is_end_stream(&body);
        Answer { body, request: self }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut requests = self.activity.requests();
        requests.open -= 1;
        requests.last_end = Some(now);
        if !self.answered && !requests.budget.take(now) {
            self.activity.0.exhausted.notify_one();
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    request: OpenRequest,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // hyper asks for nothing after the trailers.
        self.request.answered |= match &frame {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::stream::{self, StreamExt as _};

    use super::*;
    use crate::http2::reset_budget::BURST;

    #[tokio::test(start_paused = true)]
    async fn only_unanswered_requests_cost_a_token() {
        let activity = Activity::new();
        assert_eq!((activity.open(), activity.last_end()), (0, None));
        for _ in 0..2 * BURST {
            let answer = activity.begin().answer(Body::empty());
            assert_eq!(activity.open(), 1);
            drop(answer);
            let mut whole = activity.begin().answer(Body::from("text"));
            while std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut whole), cx))
                .await
                .is_some()
            {}
        }
        assert!(activity.too_many_resets().now_or_never().is_none());
        assert_eq!((activity.open(), activity.last_end()), (0, Some(Instant::now())));

        for _ in 0..BURST / 2 {
            drop(activity.begin());
            let endless = stream::repeat_with(|| Ok::<_, axum::Error>(Bytes::from_static(b"x"))).boxed();
            drop(activity.begin().answer(Body::from_stream(endless)));
        }
        assert!(activity.too_many_resets().now_or_never().is_none());
        drop(activity.begin());
        assert!(activity.too_many_resets().now_or_never().is_some());
    }
}
