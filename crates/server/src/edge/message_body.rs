//! A request body with a stall timeout: DEADLINE_EXCEEDED if it pauses too long inside a message.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use crate::edge::framing::Framing;

/// A flag, set once the whole request body has arrived. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived(Arc<AtomicBool>);

impl Arrived {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// When a body may pause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyRules {
    /// True if the client may send several messages. It may then pause between them without a limit.
    pub streaming: bool,
    /// How long the body may pause inside a message, or before the first one.
    pub idle_max: Duration,
}

/// The body of a request.
#[derive(Debug)]
pub(crate) struct MessageBody<B> {
    body: B,
    rules: BodyRules,
    framing: Framing,
    arrived: Arrived,
    /// The stall timer, created on first use and reset only when a new stall begins, so that a wake-up does not touch it.
    stall: Option<Pin<Box<Sleep>>>,
    stalling: bool,
}

impl<B: Body> MessageBody<B> {
    pub fn new(body: B, rules: BodyRules, arrived: Arrived) -> Self {
        arrived.0.store(body.is_end_stream(), Ordering::Release);
        Self {
            body,
            rules,
            framing: Framing::default(),
            arrived,
            stall: None,
            stalling: false,
        }
    }

    /// Returns true if a pause counts as a stall here.
    fn within_message(&self) -> bool {
        !(self.rules.streaming && self.framing.whole())
    }

    /// Ready once the stall has lasted for `idle_max`.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = Instant::now() + self.rules.idle_max;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if !self.stalling {
            stall.as_mut().reset(end);
            self.stalling = true;
        }
        stall.as_mut().poll(cx)
    }
}

impl<B> Body for MessageBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let me = &mut *self;
        match Pin::new(&mut me.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                me.stalling = false;
                if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
                    me.framing.received(data);
                }
                if frame.is_none() || me.body.is_end_stream() {
                    me.arrived.0.store(true, Ordering::Release);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending if me.within_message() && me.poll_stall(cx).is_ready() => {
                let idle = me.rules.idle_max;
                let message = format!("no part of the message arrived for {idle:?} (--stream-idle-ms-max)");
                Poll::Ready(Some(Err(Status::deadline_exceeded(message).into())))
            }
            Poll::Pending => Poll::Pending,
        }
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
    use std::collections::VecDeque;

    use super::*;

    /// Frames, each with the pause in milliseconds before it; the body never ends.
    struct Script(VecDeque<(u64, &'static [u8])>, Option<Pin<Box<Sleep>>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let Some((pause, data)) = self.0.front().copied() else {
                return Poll::Pending;
            };
            let end = Instant::now() + Duration::from_millis(pause);
            let sleep = self.1.get_or_insert_with(|| Box::pin(sleep_until(end)));
            std::task::ready!(sleep.as_mut().poll(cx));
            (self.1, _) = (None, self.0.pop_front());
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(data)))))
        }
    }

    /// Reads the body until it stalls; returns the number of frames, the milliseconds that passed, and true if the body
    /// failed.
    async fn read(streaming: bool, frames: &[(u64, &'static [u8])]) -> (usize, u128, bool) {
        let started = Instant::now();
        let rules = BodyRules {
            streaming,
            idle_max: Duration::from_millis(100),
        };
        let script = Script(frames.iter().copied().collect(), None);
        let mut body = MessageBody::new(script, rules, Arrived::default());
        let mut read = 0;
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            match tokio::time::timeout(Duration::from_secs(3600), frame).await {
                Ok(Some(Ok(_))) => read += 1,
                Ok(Some(Err(error))) => {
                    assert_eq!(
                        error.downcast::<Status>().unwrap().code(),
                        tonic::Code::DeadlineExceeded
                    );
                    return (read, started.elapsed().as_millis(), true);
                }
                Ok(None) => unreachable!(),
                Err(_) => return (read, 0, false),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_be_slow_but_not_stall_within_a_message() {
        let whole: &[u8] = &[0, 0, 0, 0, 1, 7];
        assert_eq!(read(false, &[]).await, (0, 100, true));
        assert_eq!(read(true, &[]).await, (0, 100, true));
        // Slow, but each pause is short enough.
        let slow = [(99, &whole[..1]), (99, &whole[1..3]), (99, &whole[3..5])];
        assert_eq!(read(false, &slow).await, (3, 397, true));
        // After its only message, the end of the body is still missing.
        assert_eq!(read(false, &[(50, whole)]).await, (1, 150, true));
        // A stream may pause between messages.
        assert_eq!(read(true, &[(50, whole)]).await, (1, 0, false));
        assert_eq!(read(true, &[(0, whole), (86_400_000, whole)]).await.0, 1);
        assert_eq!(
            read(true, &[(0, whole), (3_000_000, whole), (5, &whole[..4])]).await,
            (3, 3_000_105, true)
        );
    }
}
