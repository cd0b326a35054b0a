//! A connection that takes turns: after some bytes it yields, so that what one client pours in delays the others by no more
//! than its share.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection reads before the others have their turn. Copying as much takes tens of microseconds.
const TURN_BYTES: usize = 64 << 10;

/// A connection whose reading yields after every [`TURN_BYTES`] that were there at once.
#[derive(Debug)]
pub(super) struct FairReads<IO> {
    io: IO,
    /// Bytes read since the connection last had nothing to read, or yielded.
    read: usize,
}

impl<IO> FairReads<IO> {
    pub fn new(io: IO) -> Self {
        Self { io, read: 0 }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for FairReads<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.read >= TURN_BYTES {
            me.read = 0;
            // A task that wakes itself is scheduled behind all that are ready.
            cx.waker().wake_by_ref();
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_client_that_sends_all_it_can_does_not_hold_up_another() {
        const TURNS: usize = 20;
        // Everything is there at once, so nothing but the bound ends a turn.
        let bytes = vec![7; TURNS * TURN_BYTES];
        let turns = AtomicUsize::new(0);
        let pouring = async {
            let mut reads = FairReads::new(bytes.as_slice());
            let mut buffer = vec![0; TURN_BYTES / 4];
            while reads.read(&mut buffer).await.unwrap() > 0 {}
        };
        let other = async {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = pouring => {}
            () = other => {}
        }
        assert_eq!(turns.load(Ordering::Relaxed), TURNS);
    }
}
