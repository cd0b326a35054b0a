//! Work that must not slow the answers of others: on a thread of its own that gives way to them.

use std::io;

use tokio::sync::oneshot;

use crate::model::paced;

/// What `nice` adds: the thread gets about a tenth of a core that others want, and all of one that nobody wants.
const NICENESS: libc::c_int = 10;

/// Runs `work` to its end, whether or not somebody still waits for it. It rests while others are `busy`.
///
/// # Errors
/// If the system gives no thread, or if the work panicked.
pub(super) async fn gently<T: Send + 'static>(
    name: &'static str,
    busy: impl Fn() -> bool + Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        // SAFETY: setpriority takes plain numbers; on Linux 0 means the calling thread alone. A refusal is no harm.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
        let _ = done.send(paced(busy, work));
    })?;
    result.await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::model::breathe;

    #[tokio::test]
    async fn it_asks_whether_others_are_busy() {
        let asked = Arc::new(AtomicBool::new(false));
        let (ask, seen) = (Arc::clone(&asked), Arc::clone(&asked));
        let busy = move || ask.swap(true, Ordering::Relaxed);
        let work = move || {
            // Far more than the millisecond after which it asks.
            (0..100_000_000u32).any(|_| {
                breathe();
                seen.load(Ordering::Relaxed)
            })
        };
        assert!(gently("test", busy, work).await.unwrap());
    }
}
