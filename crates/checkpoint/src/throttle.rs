//! Limits the CPU time of background work, so that it does not slow down forward passes.
//!
//! A low priority is not enough: the threads of a forward pass wait for one another in each layer, so a thread that loses
//! its core for some milliseconds delays them all. Background work therefore also sleeps while requests are in flight.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long a thread works before it checks whether to sleep.
const WORK_INTERVAL: Duration = Duration::from_millis(1);
/// Limit of the work that is counted at once: the thread spent most of a longer interval waiting, for example for a disk.
const WORK_COUNTED_MAX: Duration = Duration::from_millis(10);
/// Time asleep for each unit of time at work, which leaves a tenth of a core.
const SLEEP_PER_WORK: u32 = 9;

/// What [`lower_priority`] adds to a thread's niceness (nice(7)). The thread gets about a tenth of a contended core, and all
/// of an idle one.
pub const NICENESS: libc::c_int = 10;

/// Lowers the calling thread's priority by [`NICENESS`]. Threads that it starts inherit the priority.
pub fn lower_priority() {
    // SAFETY: setpriority takes integers and no pointers; on Linux 0 means the calling thread alone. Failure is harmless.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

/// Limits one thread's long work to about a tenth of the time while the server is busy.
///
/// Long work takes a `&Throttle` and calls [`Throttle::pause`] about every 100 kB.
#[derive(Default)]
pub struct Throttle {
    active: Option<Active>,
}

struct Active {
    is_busy: Box<dyn Fn() -> bool + Send>,
    since: Cell<Instant>,
}

impl Throttle {
    /// A throttle that never sleeps.
    pub fn off() -> Self {
        Self::default()
    }

    /// A throttle that sleeps while `is_busy` returns true.
    pub fn new(is_busy: impl Fn() -> bool + Send + 'static) -> Self {
        Self {
            active: Some(Active {
                is_busy: Box::new(is_busy),
                since: Cell::new(Instant::now()),
            }),
        }
    }

    /// Sleeps if the thread has worked long enough since it last slept and the server is busy.
    pub fn pause(&self) {
        let Some(active) = &self.active else { return };
        let worked = active.since.get().elapsed();
        if worked >= WORK_INTERVAL {
            if (active.is_busy)() {
                std::thread::sleep(sleep_after(worked));
            }
            active.since.set(Instant::now());
        }
    }

    /// Resets the time at work. Call it after waiting for the disk, which is not work.
    pub fn restart(&self) {
        if let Some(active) = &self.active {
            active.since.set(Instant::now());
        }
    }
}

fn sleep_after(worked: Duration) -> Duration {
    SLEEP_PER_WORK * worked.min(WORK_COUNTED_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::HostTensor;

    #[test]
    fn a_tenth_of_the_time_is_work_while_the_server_is_busy() {
        assert_eq!(sleep_after(Duration::from_millis(2)), Duration::from_millis(18));
        assert_eq!(sleep_after(Duration::from_secs(3)), Duration::from_millis(90));
    }

    #[test]
    fn hashing_a_tensor_pauses() {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        let throttle = Throttle::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        });
        HostTensor::new(vec![1 << 23], vec![1.0; 1 << 23]).digest_throttled(&throttle);
        assert!(asked.load(Ordering::Relaxed) > 0);
    }
}
