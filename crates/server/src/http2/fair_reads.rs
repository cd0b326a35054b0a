//! Fair reading: connections with much to read take turns, so that they delay other connections by a few turns at most.
//!
//! A connection yields after [`TURN_BYTES`] that it could read without waiting. It then queues for its next turn. The number of
//! concurrent turns is limited and the queue is first come, first served, so that the other tasks keep threads of their own,
//! however many connections queue.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

/// Bytes that a connection reads in one turn. Copying them takes about 10 µs; a picture takes several turns.
const TURN_BYTES: usize = 16 << 10;

/// Limits the concurrent turns. Clones share the limit.
#[derive(Clone, Debug)]
pub(crate) struct ReadTurns(Arc<Semaphore>);

/// A flag, set while a connection has more to read than its last turn allowed.
#[derive(Clone, Debug, Default)]
pub(crate) struct MoreToRead(Arc<AtomicBool>);

impl ReadTurns {
    /// Allows half as many concurrent turns as there are `threads`, at least one.
    pub fn new(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new((threads / 2).max(1))))
    }

    /// Drives a connection, and waits for its turn while it has more to read. A turn lasts for one poll of the
    /// connection, which no client can delay.
    pub async fn drive<F: Future>(&self, more: &MoreToRead, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        let mut waiting: Option<BoxFuture<'static, _>> = None;
        std::future::poll_fn(|cx| {
            let turn = match &mut waiting {
                Some(waiting) => Some(ready!(waiting.poll_unpin(cx))),
                None => None,
            };
            waiting = None;
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending() && more.0.swap(false, Ordering::Relaxed) {
                // Queue behind the waiting connections before releasing this turn.
                let next = waiting.insert(Arc::clone(&self.0).acquire_owned().boxed());
                if let Poll::Ready(next) = next.poll_unpin(cx) {
                    waiting = Some(std::future::ready(next).boxed());
                    // The runtime schedules a task that wakes itself behind all ready tasks.
                    cx.waker().wake_by_ref();
                }
            }
            drop(turn);
            polled
        })
        .await
    }
}

/// A connection whose reads yield after every [`TURN_BYTES`] that were available without waiting.
#[derive(Debug)]
pub(crate) struct FairReads<IO> {
    io: IO,
    more: MoreToRead,
    /// Bytes read since the connection last yielded or had nothing to read.
    read: usize,
}

impl<IO> FairReads<IO> {
    pub fn new(io: IO, more: MoreToRead) -> Self {
        Self { io, more, read: 0 }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for FairReads<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.read >= TURN_BYTES {
            me.read = 0;
            me.more.0.store(true, Ordering::Relaxed);
            // [`ReadTurns::drive`] polls the connection again in its next turn.
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

    /// Reads bytes that are all available, so that only the limit ends a turn; counts the turns.
    async fn read_all(turns: ReadTurns, count: Arc<AtomicUsize>) {
        let bytes = vec![7; TURNS * TURN_BYTES];
        let more = MoreToRead::default();
        let mut reads = FairReads::new(bytes.as_slice(), more.clone());
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
        turns.drive(&more, reading).await;
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

    /// Returns the largest number of turns that `connections` took between two polls of another task.
    async fn turns_before_another(connections: usize) -> usize {
        let (turns, count) = (ReadTurns::new(2), Arc::<AtomicUsize>::default());
        let mut readers = JoinSet::new();
        for _ in 0..connections {
            readers.spawn(read_all(turns.clone(), Arc::clone(&count)));
        }
        // Wait until each connection has had its first turn and queues for the next.
        while count.load(Ordering::Relaxed) < connections {
            let_others_run().await;
        }
        let mut turns_max = 0;
        while count.load(Ordering::Relaxed) < connections * (TURNS + 1) {
            let before = count.load(Ordering::Relaxed);
            let_others_run().await;
            turns_max = turns_max.max(count.load(Ordering::Relaxed) - before);
        }
        turns_max
    }

    #[tokio::test]
    async fn connections_with_much_to_read_delay_others_by_few_turns() {
        for connections in [1, 2, 50] {
            let turns = tokio::spawn(turns_before_another(connections)).await.unwrap();
            assert!(turns <= 2, "{turns} turns of {connections} connections");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_while_queued_releases_its_turn() {
        let (turns, more) = (ReadTurns::new(1), MoreToRead(Arc::new(true.into())));
        let held = turns.0.acquire().await.unwrap();
        let mut queued = Box::pin(turns.drive(&more, std::future::pending::<()>()));
        assert!((&mut queued).now_or_never().is_none());
        drop(held);
        drop(queued);
        assert_eq!(turns.0.available_permits(), 1);
    }
}
