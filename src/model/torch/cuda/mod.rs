//! One GPU's streams and graphs.

mod shim;

use tch::Cuda;

use self::shim::{Handle, Shim, check};
use super::accelerator::{Accelerator, Recorded, STREAMS, Work};
use crate::model::network::NetworkError;

/// A GPU of NVIDIA's.
pub(super) struct CudaDevice {
    shim: &'static Shim,
    streams: Vec<Handle>,
    /// The memory of all its graphs, which never run at the same time.
    pool: [u64; 2],
}

impl CudaDevice {
    /// The GPU with this index; libtorch_cuda.so must have been loaded.
    ///
    /// # Errors
    /// [`NetworkError`] if libtorch is another version, or the driver refuses.
    pub fn new(index: usize) -> Result<Self, NetworkError> {
        let shim = Shim::get()?;
        // SAFETY: it takes nothing.
        check(unsafe { (shim.exact_f32)() })?;
        let mut pool = [0; 2];
        // SAFETY: there is room for two numbers.
        check(unsafe { (shim.pool_new)(pool.as_mut_ptr()) })?;
        let stream = |_| {
            // SAFETY: `new` gives room for one pointer.
            Handle::new(shim.stream_free, |stream| unsafe {
                (shim.stream_new)(index as i32, stream)
            })
        };
        let streams = (0..STREAMS).map(stream).collect::<Result<_, _>>()?;
        Ok(Self { shim, streams, pool })
    }
}

impl Accelerator for CudaDevice {
    fn enter(&self, stream: usize) -> Result<(), NetworkError> {
        // SAFETY: the handle is a stream's.
        check(unsafe { (self.shim.stream_enter)(self.streams[stream].get()) })
    }

    fn wait(&self, stream: usize, other: usize) -> Result<(), NetworkError> {
        let (stream, other) = (&self.streams[stream], &self.streams[other]);
        // SAFETY: both handles are streams' of one device.
        check(unsafe { (self.shim.stream_wait)(stream.get(), other.get()) })
    }

    fn record(&self, work: Work) -> Result<Recorded, NetworkError> {
        // The fastest algorithms are looked for before they are recorded, and only then: not while requests wait.
        Cuda::cudnn_set_benchmark(true);
        let warm = work().and_then(|_| work());
        Cuda::cudnn_set_benchmark(false);
        drop(warm?);

        let shim = self.shim;
        // SAFETY: the pool is one of the shim's, and `new` gives room for one pointer.
        let graph = Handle::new(shim.graph_free, |graph| unsafe {
            (shim.graph_begin)(self.pool.as_ptr(), graph)
        })?;
        let output = work();
        // SAFETY: the handle is a graph's, and recording has begun. It must end whatever the work said.
        let ended = check(unsafe { (shim.graph_end)(graph.get()) });
        let output = output?;
        ended?;
        // SAFETY: the handle is that of a recorded graph.
        let replay = move || check(unsafe { (shim.graph_replay)(graph.get()) });
        Ok(Recorded {
            output,
            replay: Box::new(replay),
        })
    }
}
