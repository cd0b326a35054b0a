//! A group of threads that exit together, because each may use resources that another one owns.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The number of members that have not finished; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct ThreadGroup(Arc<(Mutex<usize>, Condvar)>);

/// A member that has not finished. Dropping it, also by a panic, counts as finished.
#[derive(Debug)]
pub(super) struct Member(ThreadGroup);

impl ThreadGroup {
    /// Adds a member.
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
    /// Finishes, and waits until all other members have finished, too.
    pub fn finish(self) {
        let (running, changed) = &*Arc::clone(&self.0.0);
        drop(self);
        let running = running.lock().unwrap_or_else(PoisonError::into_inner);
        let _all = changed.wait_while(running, |running| *running > 0);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.change(|running| running - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_member_waits_for_the_last_one() {
        let (group, done) = (ThreadGroup::default(), AtomicUsize::new(0));
        let members: Vec<Member> = (0..5).map(|_| group.join()).collect();
        drop(group.join());
        std::thread::scope(|scope| {
            for member in members {
                scope.spawn(|| {
                    done.fetch_add(1, Ordering::SeqCst);
                    member.finish();
                    assert_eq!(done.load(Ordering::SeqCst), 5);
                });
            }
        });
    }
}
