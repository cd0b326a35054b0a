//! Work that must not slow the answers of others: on a thread of its own that gives way to them.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::gate::Serving;
use crate::model::paced;

/// What `nice` adds: the thread gets about a tenth of a core that others want, and all of one that nobody wants.
const NICENESS: libc::c_int = 10;

/// Runs `work` to its end, whether or not somebody still waits for it.
///
/// # Errors
/// If the system gives no thread, or if the work panicked.
pub(super) async fn gently<T: Send + 'static>(
    name: &'static str,
    serving: Arc<Serving>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        // SAFETY: setpriority takes plain numbers; on Linux 0 means the calling thread alone. A refusal is no harm.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
        let _ = done.send(paced(move || serving.busy(), work));
    })?;
    result.await.map_err(io::Error::other)
}
