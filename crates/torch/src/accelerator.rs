//! The interface of a GPU beyond libtorch's: streams, and work that is recorded once and replayed often.

use tch::Tensor;

use crate::error::Result;

/// The stream that computes.
pub(super) const COMPUTE: usize = 0;
/// The number of lanes: one computes while another copies. Streams `1..=LANES` run their copies.
pub(super) const LANES: usize = 2;
/// The number of streams.
pub(super) const STREAMS: usize = 1 + LANES;

/// Streams and recordings of one device.
pub(super) trait Accelerator: Send + Sync {
    /// Makes `stream` the current stream of this thread.
    fn enter(&self, stream: usize) -> Result<()>;

    /// Makes work that is submitted to `stream` after this call wait for the work that `other` has by now.
    fn wait(&self, stream: usize, other: usize) -> Result<()>;

    /// Runs `before` and `work`, whose algorithms are chosen by `search`, then records `work` in this thread's current
    /// stream. The addresses of the work's inputs and outputs stay the same; recordings share the memory of intermediate
    /// results, so that only one may run at a time. A recording is valid until the thread that recorded it ends.
    fn record(&self, search: Search, before: &dyn Fn() -> Result<()>, work: Work) -> Result<Recorded>;

    /// Returns the 2x2 max pooling of maps, `[N, C, H, W]`, which must not be negative.
    fn max_pool(&self, maps: &Tensor) -> Result<Tensor> {
        torch_max_pool(maps)
    }
}

/// Returns libtorch's 2x2 max pooling.
pub(super) fn torch_max_pool(maps: &Tensor) -> Result<Tensor> {
    Ok(maps.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?)
}

/// How algorithms are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// The fastest, by measuring all of them.
    Measured,
    /// By the library's heuristics.
    Guessed,
}

/// Work that can be recorded: the same operations each time, without host–device synchronisation.
pub(super) type Work = Box<dyn Fn() -> Result<Tensor> + Send>;

/// Recorded work.
pub(super) struct Recorded {
    /// The result, after each run.
    pub output: Tensor,
    /// Runs the work in this thread's current stream.
    pub replay: Box<dyn Fn() -> Result<()> + Send>,
}
