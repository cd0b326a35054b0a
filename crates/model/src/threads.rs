//! Checks beforehand that the system allows as many threads as are needed, since neither a pool nor a runtime can
//! continue without them.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;

/// Threads of the forward pass at most.
pub const THREADS_MAX: usize = 1024;

/// The system allows fewer threads than are needed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{needed} threads are needed at the same time, and the system allows {allowed} ({source}); raise the limit on processes \
     (pids.max of the control group, ulimit -u)"
)]
pub struct ThreadsError {
    needed: usize,
    allowed: usize,
    source: io::Error,
}

/// Starts this many threads at the same time, and ends them again.
///
/// # Errors
/// If the system refuses one.
pub fn check_threads(needed: usize) -> Result<(), ThreadsError> {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock();
    let mut started = Vec::with_capacity(needed);
    let mut refused = None;
    for _ in 0..needed {
        let gate = Arc::clone(&gate);
        match thread::Builder::new()
            .name("trial".into())
            .spawn(move || drop(gate.lock()))
        {
            Ok(thread) => started.push(thread),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    drop(closed);
    let allowed = started.len();
    for thread in started {
        let _ = thread.join();
    }
    refused.map_or(Ok(()), |source| {
        Err(ThreadsError {
            needed,
            allowed,
            source,
        })
    })
}
