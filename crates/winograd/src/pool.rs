//! Persistent threads that share the items of one piece of work at a time.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};

use crate::affinity;

/// How many times a thread checks for work before it sleeps: about 50 µs, longer than the pause between two layers.
const SPINS_MAX: usize = 4_000;

/// A piece of work, called with (item, thread) for each item.
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A fixed number of threads, of which the caller is number 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The CPUs of its threads, the caller's first; empty if they are not pinned.
    cpus: Vec<usize>,
}

#[derive(Default)]
struct Shared {
    /// Counts the pieces of work; a worker takes part at most once in each.
    epoch: AtomicUsize,
    /// The next item that no thread has taken.
    next: AtomicUsize,
    /// Workers that take part in the current piece and have not finished. A worker that wakes too late, because its CPU
    /// was taken, is not waited for.
    busy: AtomicUsize,
    /// The payload of the first worker's panic in the current piece.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    board: Mutex<Board>,
    posted: Condvar,
}

/// The current piece of work.
#[derive(Default)]
struct Board {
    work: Option<&'static Work<'static>>,
    items: usize,
    /// The thread that waits for the piece to be finished.
    caller: Option<Thread>,
    stop: bool,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included; 0 counts as 1.
    pub fn new(threads: usize) -> Self {
        Self::start(threads, &[])
    }

    /// The same with pinned threads, each on one of the CPUs that this thread may run on. The first CPU is left to the
    /// caller ([`Pool::pin_caller`]); if there are more threads than CPUs, threads share CPUs.
    ///
    /// # Errors
    /// If the system does not report the CPUs.
    pub fn pinned(threads: usize) -> io::Result<Self> {
        Ok(Self::start(threads, &affinity::allowed_cpus()?))
    }

    /// Divides the pool into as few pools as possible of at most `threads_max` threads, about equal in size.
    /// [Pinned](Self::pinned) threads keep a CPU each.
    pub fn divide(self, threads_max: usize) -> Vec<Self> {
        let (threads, cpus) = (self.threads(), self.cpus.clone());
        // Its own threads end first.
        drop(self);
        let parts = threads.div_ceil(threads_max.max(1));
        let mut pools = Vec::with_capacity(parts);
        for part in 0..parts {
            let (first, end) = (part * threads / parts, (part + 1) * threads / parts);
            let mut own = cpus.clone();
            own.rotate_left(first % cpus.len().max(1));
            pools.push(Self::start(end - first, &own));
        }
        pools
    }

    /// Starts thread `i` on the `i`th of `cpus`, counted cyclically, or anywhere if there are none.
    fn start(threads: usize, cpus: &[usize]) -> Self {
        let shared = Arc::new(Shared::default());
        let mut workers = Vec::new();
        for thread in 1..threads {
            let shared = Arc::clone(&shared);
            let cpu = cpus.get(thread % cpus.len().max(1)).copied();
            let serve = move || {
                // If the CPU was taken from the process meanwhile, the thread runs where it may.
                let _ = cpu.map(affinity::pin_to);
                shared.serve(thread);
            };
            let builder = std::thread::Builder::new().name(format!("cpu-{thread}"));
            let worker = builder.spawn(serve);
            workers.push(worker.expect("the system has room for one thread a core"));
        }
        Self {
            shared,
            workers,
            cpus: cpus.to_vec(),
        }
    }

    /// Pins this thread, which will give the pool its work, to the CPU that a [pinned](Self::pinned) pool left to it.
    pub fn pin_caller(&self) {
        // As in `start`, a failure leaves the thread unpinned.
        let _ = self.cpus.first().copied().map(affinity::pin_to);
    }

    /// How many threads share the work.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` once for each of `items`, and returns after the last call.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn each<I>(&mut self, items: I, work: impl Fn(I::Item) + Sync)
    where
        I: ExactSizeIterator + Send,
    {
        let count = items.len();
        let items = Mutex::new(items);
        self.run(count, |_, _| {
            let item = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            item.into_iter().for_each(&work);
        });
    }

    /// Calls `work(item, thread)` once for each item below `items`, and returns after the last call.
    ///
    /// # Panics
    /// If a call panicked: once, with that call's payload, after the others have returned. If several did, the caller's
    /// own panic takes precedence. The pool stays usable.
    pub fn run(&mut self, items: usize, work: impl Fn(usize, usize) + Sync) {
        if self.workers.is_empty() || items <= 1 {
            (0..items).for_each(|item| work(item, 0));
            return;
        }
        let work: &Work<'_> = &work;
        // SAFETY: only the lifetime changes. Workers copy `work` from the board under the lock under which they
        // increment `busy`, and do not use it after they decrement `busy`. On every path, even if its own share panics,
        // this function takes `work` off the board and then waits for `busy` to reach 0.
        let work = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        self.shared.post(work, items);
        let own = catch_unwind(AssertUnwindSafe(|| self.shared.take_items(work, items, 0)));
        // From here on no further worker joins.
        self.shared.board().work = None;
        self.shared.wait_for_workers();
        // Taken in any case, so that it does not fail the next piece.
        let of_worker = self.shared.panic().take();
        if let Some(panic) = own.err().or(of_worker) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut board = self.shared.board();
        board.stop = true;
        self.shared.epoch.fetch_add(1, Ordering::Release);
        drop(board);
        self.shared.posted.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its work, so the result carries no information.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn post(&self, work: &'static Work<'static>, items: usize) {
        let mut board = self.board();
        board.work = Some(work);
        board.items = items;
        board.caller = Some(std::thread::current());
        self.next.store(0, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Release);
        drop(board);
        self.posted.notify_all();
    }

    fn serve(&self, thread: usize) {
        let mut seen = 0;
        loop {
            let (work, items, caller) = {
                let board = self.wait_for_news(seen);
                if board.stop {
                    return;
                }
                seen = self.epoch.load(Ordering::Acquire);
                if board.work.is_some() {
                    self.busy.fetch_add(1, Ordering::Relaxed);
                }
                (board.work, board.items, board.caller.clone())
            };
            if let Some(work) = work {
                let share = catch_unwind(AssertUnwindSafe(|| self.take_items(work, items, thread)));
                if let Err(panic) = share {
                    self.panic().get_or_insert(panic);
                }
                if self.busy.fetch_sub(1, Ordering::Release) == 1
                    && let Some(caller) = caller
                {
                    caller.unpark();
                }
            }
        }
    }

    /// Spins, then sleeps, until the epoch differs from `seen`.
    fn wait_for_news(&self, seen: usize) -> MutexGuard<'_, Board> {
        for _ in 0..SPINS_MAX {
            if self.epoch.load(Ordering::Acquire) != seen {
                return self.board();
            }
            std::hint::spin_loop();
        }
        let mut board = self.board();
        while self.epoch.load(Ordering::Acquire) == seen {
            board = self.posted.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
        board
    }

    /// Spins, then sleeps, until the workers have finished. On a busy machine, a thread that yielded instead would be
    /// scheduled long after they have finished.
    fn wait_for_workers(&self) {
        let mut spins = 0;
        while self.busy.load(Ordering::Acquire) > 0 {
            if spins < SPINS_MAX {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::park();
            }
        }
    }

    fn take_items(&self, work: &Work<'_>, items: usize, thread: usize) {
        loop {
            let item = self.next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                return;
            }
            work(item, thread);
        }
    }

    fn panic(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads);
            for items in [0, 1, 2, 7, 1000] {
                let done: Vec<_> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.run(items, |item, thread| {
                    assert!(thread < threads);
                    done[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_worker_that_never_comes_is_not_waited_for() {
        let mut pool = Pool {
            shared: Arc::default(),
            workers: vec![std::thread::spawn(|| ())],
            cpus: Vec::new(),
        };
        let done = AtomicUsize::new(0);
        pool.run(7, |_, _| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 7);
    }

    #[test]
    fn each_chunk_of_a_slice_is_written_once() {
        let mut pool = Pool::new(3);
        let mut numbers = vec![0; 1000];
        pool.each(numbers.chunks_mut(7).enumerate(), |(index, chunk)| {
            chunk.iter_mut().for_each(|number| *number += index + 1);
        });
        assert!((0..1000).all(|at| numbers[at] == at / 7 + 1));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pinned_threads_have_a_cpu_each() {
        let allowed = affinity::allowed_cpus().unwrap();
        for threads in [1, 2, allowed.len() + 1] {
            let own: Vec<_> = (0..threads).map(|_| Mutex::new(Vec::new())).collect();
            // No thread takes a second item before all have one.
            let all = std::sync::Barrier::new(threads);
            let mut pool = Pool::pinned(threads).unwrap();
            pool.run(threads, |_, thread| {
                *own[thread].lock().unwrap() = affinity::allowed_cpus().unwrap();
                all.wait();
            });
            for (thread, own) in own.into_iter().enumerate() {
                let expected = match thread {
                    0 => allowed.clone(),
                    _ => vec![allowed[thread % allowed.len()]],
                };
                assert_eq!(own.into_inner().unwrap(), expected, "thread {thread} of {threads}");
            }
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    pool.pin_caller();
                    assert_eq!(affinity::allowed_cpus().unwrap(), allowed[..1]);
                });
            });
        }
    }

    /// Runs one item per thread; the threads in `panicking` panic. Returns the panic that reached the caller.
    fn panic_of(pool: &mut Pool, panicking: &[usize]) -> Option<usize> {
        // No thread takes a second item before all have one.
        let all = std::sync::Barrier::new(pool.threads());
        let run = catch_unwind(AssertUnwindSafe(|| {
            pool.run(pool.threads(), |_, thread| {
                all.wait();
                if panicking.contains(&thread) {
                    resume_unwind(Box::new(thread));
                }
            });
        }));
        run.err().map(|panic| *panic.downcast::<usize>().unwrap())
    }

    #[test]
    fn a_panic_reaches_the_caller_once_and_the_next_piece_works() {
        let mut pool = Pool::new(3);
        for (panicking, reaches) in [
            (&[0][..], &[0][..]),
            (&[2], &[2]),
            (&[1, 2], &[1, 2]),
            (&[0, 1], &[0]),
            (&[0, 1, 2], &[0]),
        ] {
            let panic = panic_of(&mut pool, panicking).unwrap();
            assert!(reaches.contains(&panic), "{panicking:?}: {panic}");
            assert_eq!(panic_of(&mut pool, &[]), None, "after {panicking:?}");
            let done = AtomicUsize::new(0);
            pool.run(10, |_, _| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 10, "after {panicking:?}");
        }
    }

    #[test]
    fn a_divided_pool_keeps_its_threads_and_their_cpus() {
        let cpus: Vec<usize> = (0..64).collect();
        for (threads, threads_max, expected) in [
            (1, 16, vec![(0, 1)]),
            (16, 16, vec![(0, 16)]),
            (17, 16, vec![(0, 8), (8, 9)]),
            (33, 16, vec![(0, 11), (11, 11), (22, 11)]),
            (3, 0, vec![(0, 1), (1, 1), (2, 1)]),
        ] {
            let pools = Pool::start(threads, &cpus).divide(threads_max);
            let own = pools.iter().map(|pool| (pool.cpus[0], pool.threads()));
            assert_eq!(
                own.collect::<Vec<_>>(),
                expected,
                "first CPUs of {threads} threads, and how many"
            );
            let pools = Pool::new(threads).divide(threads_max);
            assert!(pools.iter().all(|pool| pool.cpus.is_empty()));
            assert_eq!(pools.iter().map(Pool::threads).sum::<usize>(), threads);
        }
    }
}
