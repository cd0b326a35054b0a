//! Connections that take turns in reading, so that what some clients pour in delays the others by no more than a few turns.
//!
//! A connection yields after some bytes that were there at once. It is then hungry, and its next turn is one of few that
//! hungry connections have at the same time, in order of arrival: however many there are, the other tasks have threads to
//! themselves and find few turns before them.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

/// What a connection reads in one turn. Copying as much takes ten microseconds; a picture takes some turns.
const TURN_BYTES: usize = 16 << 10;

/// The turns of hungry connections.
#[derive(Clone, Debug)]
pub(crate) struct ReadTurns(Arc<Semaphore>);

/// Whether a connection has more to read than its last turn allowed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hungry(Arc<AtomicBool>);

impl ReadTurns {
    /// As many at the same time as half of the threads that there are, at least one.
    pub fn new(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new((threads / 2).max(1))))
    }

    /// Drives a connection, in its turn when it is hungry. A turn lasts until the connection's next poll ends, which no
    /// client can delay.
    pub async fn drive<F: Future>(&self, hungry: &Hungry, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        let mut waiting: Option<BoxFuture<'static, _>> = None;
        std::future::poll_fn(|cx| {
            let turn = match &mut waiting {
                Some(waiting) => Some(ready!(waiting.poll_unpin(cx))),
                None => None,
            };
            waiting = None;
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending() && hungry.0.swap(false, Ordering::Relaxed) {
                // Behind those that wait already: its turn ends afterwards.
                let next = waiting.insert(Arc::clone(&self.0).acquire_owned().boxed());
                if let Poll::Ready(next) = next.poll_unpin(cx) {
                    waiting = Some(std::future::ready(next).boxed());
                    // A task that wakes itself is scheduled behind all that are ready.
                    cx.waker().wake_by_ref();
                }
            }
            drop(turn);
            polled
        })
        .await
    }
}

/// A connection whose reading yields after every [`TURN_BYTES`] that were there at once.
#[derive(Debug)]
pub(crate) struct FairReads<IO> {
    io: IO,
    hungry: Hungry,
    /// Bytes read since the connection last had nothing to read, or yielded.
    read: usize,
}

impl<IO> FairReads<IO> {
    pub fn new(io: IO, hungry: Hungry) -> Self {
        Self { io, hungry, read: 0 }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for FairReads<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.read >= TURN_BYTES {
            me.read = 0;
            me.hungry.0.store(true, Ordering::Relaxed);
            // [`ReadTurns::drive`] goes on with it.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut me.io).poll_read(cx, buffer);
        if polled.is_pending() {
            me.read = 0;
        }
        ready!(polled)?;
        me.read += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for FairReads<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::io::AsyncReadExt as _;
    use tokio::task::JoinSet;

    use super::*;

    const TURNS: usize = 20;

    /// Reads what is there at once, so that nothing but the bound ends a turn; counts its turns.
    async fn pour(turns: ReadTurns, count: Arc<AtomicUsize>) {
        let bytes = vec![7; TURNS * TURN_BYTES];
        let hungry = Hungry::default();
        let mut reads = FairReads::new(bytes.as_slice(), hungry.clone());
        let mut buffer = vec![0; TURN_BYTES];
        let reading = std::future::poll_fn(|cx| {
            count.fetch_add(1, Ordering::Relaxed);
            loop {
                let mut read = pin!(reads.read(&mut buffer));
                if ready!(read.as_mut().poll(cx)).unwrap() == 0 {
                    return Poll::Ready(());
                }
            }
        });
        turns.drive(&hungry, reading).await;
    }

    /// Lets all tasks that are ready run once. (Tokio's own `yield_now` waits until the runtime has looked for events.)
    async fn let_others_run() {
        let mut yielded = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// The most turns that `connections` had between two of another task's.
    async fn turns_before_another(connections: usize) -> usize {
        let (turns, count) = (ReadTurns::new(2), Arc::<AtomicUsize>::default());
        let mut pouring = JoinSet::new();
        for _ in 0..connections {
            pouring.spawn(pour(turns.clone(), Arc::clone(&count)));
        }
        // Each has its first turn, after which it is hungry.
        while count.load(Ordering::Relaxed) < connections {
            let_others_run().await;
        }
        let mut most = 0;
        while count.load(Ordering::Relaxed) < connections * (TURNS + 1) {
            let before = count.load(Ordering::Relaxed);
            let_others_run().await;
            most = most.max(count.load(Ordering::Relaxed) - before);
        }
        most
    }

    #[tokio::test]
    async fn clients_that_send_all_they_can_hold_up_another_for_few_turns() {
        for connections in [1, 2, 50] {
            let most = tokio::spawn(turns_before_another(connections)).await.unwrap();
            assert!(most <= 2, "{most} turns of {connections} connections");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_while_it_waits_gives_its_turn_back() {
        let (turns, hungry) = (ReadTurns::new(1), Hungry(Arc::new(true.into())));
        let held = turns.0.acquire().await.unwrap();
        let mut waits = Box::pin(turns.drive(&hungry, std::future::pending::<()>()));
        assert!((&mut waits).now_or_never().is_none());
        drop(held);
        drop(waits);
        assert_eq!(turns.0.available_permits(), 1);
    }
}
