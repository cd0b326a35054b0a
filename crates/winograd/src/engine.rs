//! The resources of a forward pass besides weights and maps.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::buffer::{Buffer, Shared};
use crate::maps::Maps;
use crate::pool::Pool;
use crate::simd::Isa;

/// Threads, an instruction set, and memory for intermediate results, sized by the first pass.
#[derive(Debug)]
pub struct Engine {
    pub(crate) isa: Isa,
    pub(crate) pool: Pool,
    pub(crate) scratch: Scratch,
}

impl Engine {
    /// An engine of `threads` threads, the caller's included, with the best instruction set of this CPU.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::best())
    }

    /// An engine with a given instruction set.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        Self::on(Pool::new(threads), isa)
    }

    /// An engine with pinned threads (see [`Pool::pinned`]).
    ///
    /// # Errors
    /// As [`Pool::pinned`].
    pub fn pinned(threads: usize) -> io::Result<Self> {
        Ok(Self::on(Pool::pinned(threads)?, Isa::best()))
    }

    fn on(pool: Pool, isa: Isa) -> Self {
        let workers = (0..pool.threads()).map(|_| Mutex::default()).collect();
        Self {
            isa,
            pool,
            scratch: Scratch {
                workers,
                common: Tables::default(),
                rows: Buffer::default(),
                whole: Maps::default(),
            },
        }
    }

    /// Its instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Divides the engine into as few engines as possible of at most `threads_max` threads, about equal in size.
    /// [Pinned](Self::pinned) threads keep distinct CPUs.
    pub fn divide(self, threads_max: usize) -> Vec<Self> {
        if self.pool.threads() <= threads_max {
            return vec![self];
        }
        let isa = self.isa;
        let pools = self.pool.divide(threads_max).into_iter();
        pools.map(|pool| Self::on(pool, isa)).collect()
    }

    /// Its threads, for parts of the pass that are not layers of this crate.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Bytes of intermediate results held.
    pub fn scratch_bytes(&self) -> usize {
        let workers: usize = self.scratch.workers.iter().map(|tables| lock(tables).bytes()).sum();
        workers + self.scratch.common.bytes() + self.scratch.rows.bytes() + self.scratch.whole.bytes()
    }
}

/// Memory for intermediate results.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// One for each thread.
    pub workers: Vec<Mutex<Tables>>,
    /// Shared by all threads.
    pub common: Tables,
    /// A Linear's packed input.
    pub rows: Buffer<f32>,
    /// A direct convolution's output before pooling.
    pub whole: Maps,
}

/// Winograd's intermediate results for some tiles.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub floats: Buffer<f32>,
    pub integers: Buffer<i16>,
    pub scales: Buffer<f32>,
    pub products: Buffer<f32>,
    pub strip: Buffer<f32>,
}

/// Access to [`Tables`] for several threads.
#[derive(Clone, Copy)]
pub(crate) struct TablesView<'a> {
    pub floats: Shared<'a, f32>,
    pub integers: Shared<'a, i16>,
    pub scales: Shared<'a, f32>,
    pub products: Shared<'a, f32>,
    pub strip: Shared<'a, f32>,
}

impl Tables {
    pub fn view(&mut self) -> TablesView<'_> {
        TablesView {
            floats: Shared::new(&mut self.floats),
            integers: Shared::new(&mut self.integers),
            scales: Shared::new(&mut self.scales),
            products: Shared::new(&mut self.products),
            strip: Shared::new(&mut self.strip),
        }
    }

    fn bytes(&self) -> usize {
        let floats = [&self.floats, &self.scales, &self.products, &self.strip];
        self.integers.bytes() + floats.iter().map(|buffer| buffer.bytes()).sum::<usize>()
    }
}

/// Locks a thread's own tables: without contention, even if the thread panicked before.
pub(crate) fn lock(tables: &Mutex<Tables>) -> MutexGuard<'_, Tables> {
    tables.lock().unwrap_or_else(PoisonError::into_inner)
}
