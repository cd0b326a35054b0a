//! Detects when a client has sent its HTTP/2 connection preface, including the first SETTINGS frame
//! (<https://httpwg.org/specs/rfc9113.html#preface>). Before its end, the client cannot have sent a request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE_BYTES: usize = 24;
/// Length (3), type (1), flags (1), stream (4).
const FRAME_HEADER_BYTES: usize = 9;

/// Counts the bytes up to the end of the client's first frame.
#[derive(Debug, Default)]
struct Opening {
    received: usize,
    settings_bytes: usize,
}

impl Opening {
    /// Processes the next bytes; returns true once the preface is complete.
    fn received(&mut self, bytes: &[u8]) -> bool {
        for (at, byte) in (self.received..).zip(bytes) {
            if at >= PREFACE_BYTES + FRAME_HEADER_BYTES {
                break;
            }
            // The frame's length is its first three bytes, big-endian.
            if (PREFACE_BYTES..PREFACE_BYTES + 3).contains(&at) {
                self.settings_bytes = self.settings_bytes << 8 | usize::from(*byte);
            }
        }
        self.received = self.received.saturating_add(bytes.len());
        self.received >= PREFACE_BYTES + FRAME_HEADER_BYTES + self.settings_bytes
    }
}

/// A flag, set once the preface is complete. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opened(Arc<AtomicBool>);

impl Opened {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A connection that sets its [`Opened`] flag as its bytes are read.
#[derive(Debug)]
pub(crate) struct OpeningMonitor<IO> {
    io: IO,
    /// None once the preface is complete.
    opening: Option<(Opening, Opened)>,
}

impl<IO> OpeningMonitor<IO> {
    pub fn new(io: IO, opened: Opened) -> Self {
        Self {
            io,
            opening: Some((Opening::default(), opened)),
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for OpeningMonitor<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut me.io).poll_read(cx, buffer))?;
        if let Some((opening, opened)) = &mut me.opening
            && opening.received(buffer.filled().get(before..).unwrap_or_default())
        {
            opened.0.store(true, Ordering::Release);
            me.opening = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for OpeningMonitor<IO> {
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
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn check(first_frame: &[u8]) {
        let bytes = [PREFACE, first_frame].concat();
        let mut opening = Opening::default();
        for (at, byte) in bytes.iter().enumerate() {
            assert_eq!(opening.received(&[*byte]), at + 1 == bytes.len(), "byte {at}");
        }
        assert!(Opening::default().received(&[&bytes, b"more".as_slice()].concat()));
        assert!(!Opening::default().received(&bytes[..bytes.len() - 1]));
    }

    #[test]
    fn a_preface_is_complete_at_the_end_of_the_first_frame() {
        check(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        check(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100]);
        let long = [&[0, 1, 2, 4, 0, 0, 0, 0, 0], [7; 258].as_slice()].concat();
        check(&long);
    }
}
