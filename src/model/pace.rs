//! Long work that gives way to the forward passes beside it.
//!
//! A low priority is not enough: the threads of a forward pass wait for one another in each layer, so that a core that is
//! taken from one of them for some milliseconds is lost to all. So such work rests by itself while others want answers.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// How long a thread works before it looks whether to rest.
const WORK: Duration = Duration::from_millis(1);
/// What counts of one stretch of work at most: much of a longer one was waiting, for a disk for instance.
const COUNTED_MAX: Duration = Duration::from_millis(10);
/// Rest for work: a tenth of a core.
const REST: u32 = 9;

/// What [`give_way`] adds to a thread's niceness (nice(7)): it gets about a tenth of a core that others want, and all of one
/// that nobody wants.
pub const NICENESS: libc::c_int = 10;

thread_local! {
    static PACE: RefCell<Option<Pace>> = const { RefCell::new(None) };
}

struct Pace {
    busy: Box<dyn Fn() -> bool>,
    since: Instant,
}

/// Lowers this thread's priority by [`NICENESS`]. Threads that it starts inherit that.
pub fn give_way() {
    // SAFETY: setpriority takes plain numbers; on Linux 0 means the calling thread alone. A refusal is no harm.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

/// Does `work` on this thread, which rests where it calls [`breathe`] if somebody is `busy`.
pub fn paced<T>(busy: impl Fn() -> bool + 'static, work: impl FnOnce() -> T) -> T {
    /// Also if the work panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            PACE.set(None);
        }
    }
    PACE.set(Some(Pace {
        busy: Box::new(busy),
        since: Instant::now(),
    }));
    let _end = End;
    work()
}

/// To be called every 100 kB or so of work that takes long. Costs nothing to speak of on a thread that is not paced.
pub fn breathe() {
    PACE.with_borrow_mut(|pace| {
        if let Some(pace) = pace {
            let worked = pace.since.elapsed();
            if worked >= WORK {
                std::thread::sleep(rest(worked, (pace.busy)()));
                pace.since = Instant::now();
            }
        }
    });
}

/// To be called after waiting for the disk: the thread did not work meanwhile and owes no rest for it.
pub fn waited() {
    PACE.with_borrow_mut(|pace| {
        if let Some(pace) = pace {
            pace.since = Instant::now();
        }
    });
}

/// How long to rest after some work.
fn rest(worked: Duration, busy: bool) -> Duration {
    if busy {
        REST * worked.min(COUNTED_MAX)
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::model::tensor::HostTensor;

    #[test]
    fn a_tenth_of_the_time_is_work_while_others_are_busy() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(2), true), ms(18));
        assert_eq!(rest(ms(2), false), ms(0));
        assert_eq!(rest(ms(3000), true), ms(90));
    }

    /// How often this asks whether others are busy.
    fn looks(work: impl FnOnce()) -> u32 {
        let looks = Rc::new(Cell::new(0));
        let counted = Rc::clone(&looks);
        let look = move || {
            counted.set(counted.get() + 1);
            false
        };
        paced(look, work);
        looks.get()
    }

    #[test]
    fn hashing_a_tensor_breathes() {
        let tensor = HostTensor::new(vec![1 << 23], vec![1.0; 1 << 23]);
        assert!(looks(|| _ = tensor.digest()) > 0);
    }

    #[test]
    fn only_paced_work_looks_whether_others_are_busy() {
        let work = || {
            let began = Instant::now();
            while began.elapsed() < 3 * WORK {
                breathe();
            }
        };
        assert!(looks(work) > 0);
        // What this thread does afterwards is not.
        assert!(PACE.with_borrow(Option::is_none));
    }
}
