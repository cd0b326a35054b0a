//! Threads that end together: what one of them has made, others may use to their end.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Counts threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Together(Arc<(Mutex<usize>, Condvar)>);

/// One that has not come to its end.
#[derive(Debug)]
pub(super) struct Member(Together);

impl Together {
    /// Counts one more, from now on.
    pub fn join(&self) -> Member {
        self.change(|running| running + 1);
        Member(self.clone())
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let (running, changed) = &*self.0;
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        *running = change(*running);
        changed.notify_all();
    }
}

impl Member {
    /// Waits until all others have come to their end, too.
    pub fn end(self) {
        let (running, changed) = &*Arc::clone(&self.0.0);
        drop(self);
        let running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let _all = changed.wait_while(running, |running| *running > 0);
    }
}

impl Drop for Member {
    /// Also of a thread that did not start, or panicked.
    fn drop(&mut self) {
        self.0.change(|running| running - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn nobody_ends_before_the_last_is_done() {
        let (together, done) = (Together::default(), AtomicUsize::new(0));
        let members: Vec<Member> = (0..5).map(|_| together.join()).collect();
        drop(together.join());
        std::thread::scope(|scope| {
            for member in members {
                scope.spawn(|| {
                    done.fetch_add(1, Ordering::SeqCst);
                    member.end();
                    assert_eq!(done.load(Ordering::SeqCst), 5);
                });
            }
        });
    }
}
