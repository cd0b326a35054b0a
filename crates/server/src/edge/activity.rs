//! The open requests of one connection, and how many its client has cancelled.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::edge::reset_budget::ResetBudget;

/// Counts the requests of one connection. Clones share the counts.
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
    /// When the last request ended.
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

    /// Returns the number of open requests.
    pub fn open(&self) -> usize {
        self.requests().open
    }

    /// Returns when the last request ended, or None if there was no request.
    pub fn last_end(&self) -> Option<Instant> {
        self.requests().last_end
    }

    /// Returns once the client has cancelled more requests than it may.
    pub async fn too_many_resets(&self) {
        self.0.exhausted.notified().await;
    }
}

/// One request, until hyper has taken its whole response. If it is dropped earlier, the request counts as cancelled.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    activity: Activity,
    answered: bool,
}

impl OpenRequest {
    /// Wraps the response's body; the request ends with it.
    pub fn respond(mut self, body: Body) -> ResponseBody {
        self.answered = http_body::Body::is_end_stream(&body);
        ResponseBody { body, request: self }
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

/// The body of a response.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: Body,
    request: OpenRequest,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // hyper does not poll again after the trailers.
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
    use crate::edge::reset_budget::BURST;

    #[tokio::test(start_paused = true)]
    async fn only_unanswered_requests_cost_a_token() {
        let activity = Activity::new();
        assert_eq!((activity.open(), activity.last_end()), (0, None));
        for _ in 0..2 * BURST {
            let response = activity.begin().respond(Body::empty());
            assert_eq!(activity.open(), 1);
            drop(response);
            let mut whole = activity.begin().respond(Body::from("text"));
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
            drop(activity.begin().respond(Body::from_stream(endless)));
        }
        assert!(activity.too_many_resets().now_or_never().is_none());
        drop(activity.begin());
        assert!(activity.too_many_resets().now_or_never().is_some());
    }
}
