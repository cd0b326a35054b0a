//! One GPU's streams and graphs, and a kernel of our own.

mod pool;
mod shim;

use std::sync::{Mutex, PoisonError};

use tch::{Cuda, Tensor};

use self::pool::PoolKernel;
use self::shim::{Handle, Shim, Stream, check};
use super::accelerator::{Accelerator, Recorded, STREAMS, Search, Work};
use crate::error::Result;

/// A GPU of NVIDIA's.
pub(super) struct CudaDevice {
    shim: &'static Shim,
    streams: Vec<Stream>,
    /// The memory of its graphs, which never run at the same time.
    memory: Mutex<[u64; 2]>,
    pool: PoolKernel,
}

impl CudaDevice {
    /// The GPU with this index; libtorch_cuda.so must have been loaded.
    ///
    /// # Errors
    /// An error if libtorch is another version, or the driver refuses.
    pub fn new(index: usize) -> Result<Self> {
        let shim = Shim::get()?;
        // SAFETY: it takes nothing.
        check(unsafe { (shim.exact_f32)() })?;
        let stream = |_| {
            // SAFETY: `new` gives room for one pointer.
            let stream = Handle::new(shim.stream_free, |stream| unsafe {
                (shim.stream_new)(index as i32, stream)
            });
            stream.map(Stream)
        };
        Ok(Self {
            shim,
            streams: (0..STREAMS).map(stream).collect::<Result<_, _>>()?,
            memory: Mutex::new(new_memory(shim)?),
            pool: PoolKernel::load(shim)?,
        })
    }

    /// Records in memory that earlier recordings share, whose output it gives with the graph.
    fn capture(&self, memory: [u64; 2], work: &Work) -> Result<(Tensor, Handle)> {
        let shim = self.shim;
        // SAFETY: the memory is named by the shim, and `new` gives room for one pointer.
        let graph = Handle::new(shim.graph_free, |graph| unsafe {
            (shim.graph_begin)(memory.as_ptr(), graph)
        })?;
        let output = work();
        // SAFETY: the handle is a graph's, and recording has begun. It must end whatever the work said.
        let ended = check(unsafe { (shim.graph_end)(memory.as_ptr(), graph.get()) });
        let output = output?;
        ended?;
        Ok((output, graph))
    }
}

fn new_memory(shim: &Shim) -> Result<[u64; 2]> {
    let mut memory = [0; 2];
    // SAFETY: there is room for two numbers.
    check(unsafe { (shim.pool_new)(memory.as_mut_ptr()) })?;
    Ok(memory)
}

/// libtorch looks for algorithms while a setting of the whole process says so; one thread at a time has it say so.
static SEARCHING: Mutex<()> = Mutex::new(());

fn searching<T>(search: Search, work: impl FnOnce() -> T) -> T {
    let _turn = SEARCHING.lock().unwrap_or_else(PoisonError::into_inner);
    Cuda::cudnn_set_benchmark(search == Search::Measured);
    let done = work();
    Cuda::cudnn_set_benchmark(false);
    done
}

impl Accelerator for CudaDevice {
    fn enter(&self, stream: usize) -> Result<()> {
        // SAFETY: the handle is a stream's.
        check(unsafe { (self.shim.stream_enter)(self.streams[stream].0.get()) })
    }

    fn wait(&self, stream: usize, other: usize) -> Result<()> {
        let (stream, other) = (&self.streams[stream].0, &self.streams[other].0);
        // SAFETY: both handles are streams' of one device.
        check(unsafe { (self.shim.stream_wait)(stream.get(), other.get()) })
    }

    fn record(&self, search: Search, before: &dyn Fn() -> Result<()>, work: Work) -> Result<Recorded> {
        // The algorithms are chosen when an operation is first run by this thread, and only now looked for: not while
        // requests wait.
        searching(search, || {
            before()?;
            drop(work()?);
            work().map(drop)
        })?;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let captured = self.capture(*memory, &work);
        if captured.is_err() {
            // What the allocator makes of that memory now is uncertain.
            *memory = new_memory(self.shim)?;
        }
        let (output, graph) = captured?;
        let shim = self.shim;
        // SAFETY: the handle is that of a recorded graph.
        let replay = move || check(unsafe { (shim.graph_replay)(graph.get()) });
        Ok(Recorded {
            output,
            replay: Box::new(replay),
        })
    }

    fn max_pool(&self, maps: &Tensor) -> Result<Tensor> {
        self.pool.run(maps)
    }
}
