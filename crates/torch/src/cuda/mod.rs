//! A GPU's streams and graphs, and our own pooling kernel.

mod pool;
mod shim;

use std::sync::{Mutex, PoisonError};

use tch::{Cuda, Tensor};

use self::pool::PoolKernel;
use self::shim::{Handle, Shim, Stream, check};
use super::accelerator::{Accelerator, Recorded, STREAMS, Search, Work};
use crate::error::Result;

/// An NVIDIA GPU.
pub(super) struct CudaDevice {
    shim: &'static Shim,
    streams: Vec<Stream>,
    /// The memory pool of its graphs, which never run at the same time.
    memory: Mutex<[u64; 2]>,
    pool: PoolKernel,
}

impl CudaDevice {
    /// Opens the GPU with this index; libtorch_cuda.so must have been loaded.
    ///
    /// # Errors
    /// An error if libtorch has another version, or the driver fails.
    pub fn new(index: usize) -> Result<Self> {
        let shim = Shim::get()?;
        // SAFETY: the function has no parameters.
        check(unsafe { (shim.exact_f32)() })?;
        let mut streams = Vec::with_capacity(STREAMS);
        for _ in 0..STREAMS {
            // SAFETY: `new` passes the address of one pointer.
            let stream = Handle::new(shim.stream_free, |stream| unsafe {
                (shim.stream_new)(index as i32, stream)
            });
            streams.push(Stream(stream?));
        }
        Ok(Self {
            shim,
            streams,
            memory: Mutex::new(new_memory(shim)?),
            pool: PoolKernel::load(shim)?,
        })
    }

    /// Records `work` in a memory pool that recordings share. Returns its output and the graph.
    fn capture(&self, memory: [u64; 2], work: &Work) -> Result<(Tensor, Handle)> {
        let shim = self.shim;
        // SAFETY: `memory` is a pool of the shim's, and `new` passes the address of one pointer.
        let graph = Handle::new(shim.graph_free, |graph| unsafe {
            (shim.graph_begin)(memory.as_ptr(), graph)
        })?;
        let output = work();
        // SAFETY: the handle is a graph's, and recording has begun. It must end even if the work failed.
        let ended = check(unsafe { (shim.graph_end)(memory.as_ptr(), graph.get()) });
        let output = output?;
        ended?;
        Ok((output, graph))
    }
}

fn new_memory(shim: &Shim) -> Result<[u64; 2]> {
    let mut memory = [0; 2];
    // SAFETY: the function writes two numbers.
    check(unsafe { (shim.pool_new)(memory.as_mut_ptr()) })?;
    Ok(memory)
}

/// Held while libtorch's setting for choosing algorithms is changed, which is process-wide.
static SEARCHING: Mutex<()> = Mutex::new(());

/// Runs `work` while algorithms are chosen by `search`.
fn searching<T>(search: Search, work: impl FnOnce() -> T) -> T {
    let _turn = SEARCHING.lock().unwrap_or_else(PoisonError::into_inner);
    Cuda::cudnn_set_benchmark(search == Search::Measured);
    let result = work();
    Cuda::cudnn_set_benchmark(false);
    result
}

impl Accelerator for CudaDevice {
    fn enter(&self, stream: usize) -> Result<()> {
        // SAFETY: the handle is a stream's.
        check(unsafe { (self.shim.stream_enter)(self.streams[stream].0.get()) })
    }

    fn wait(&self, stream: usize, other: usize) -> Result<()> {
        let (stream, other) = (&self.streams[stream].0, &self.streams[other].0);
        // SAFETY: both handles are streams of one device.
        check(unsafe { (self.shim.stream_wait)(stream.get(), other.get()) })
    }

    fn record(&self, search: Search, before: &dyn Fn() -> Result<()>, work: Work) -> Result<Recorded> {
        // Algorithms are chosen when this thread first runs an operation. They are measured only here, not while requests
        // wait.
        searching(search, || {
            before()?;
            drop(work()?);
            work().map(drop)
        })?;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let captured = self.capture(*memory, &work);
        if captured.is_err() {
            // After a failure the state of the pool is undefined.
            *memory = new_memory(self.shim)?;
        }
        let (output, graph) = captured?;
        let shim = self.shim;
        Ok(Recorded {
            output,
            // SAFETY: the handle is that of a recorded graph.
            replay: Box::new(move || check(unsafe { (shim.graph_replay)(graph.get()) })),
        })
    }

    fn max_pool(&self, maps: &Tensor) -> Result<Tensor> {
        self.pool.run(maps)
    }
}
