//! What a device offers that computes beside the processor: streams of work, and work recorded once to be run often.

use tch::Tensor;

use crate::error::Result;

/// The stream that computes.
pub(super) const COMPUTE: usize = 0;
/// As many lanes as keep one computing while another copies, each with a stream of its own for that: `1..=LANES`.
pub(super) const LANES: usize = 2;
/// All streams.
pub(super) const STREAMS: usize = 1 + LANES;

/// Streams and recordings of one device.
pub(super) trait Accelerator: Send + Sync {
    /// What this thread asks of the device goes to this stream from here on.
    fn enter(&self, stream: usize) -> Result<()>;

    /// What `stream` is given from here on waits for what `other` has been given so far.
    fn wait(&self, stream: usize, other: usize) -> Result<()>;

    /// Records work in the stream that this thread has entered, after running `before` and the work itself, whose
    /// algorithms are chosen as `search` says. What the work reads and writes keeps its place in memory; recordings share
    /// what they use in between, so only one may run at a time. They end with the thread that recorded them.
    fn record(&self, search: Search, before: &dyn Fn() -> Result<()>, work: Work) -> Result<Recorded>;

    /// 2x2 max pooling of maps, `[N, C, H, W]`, in which nothing is negative.
    fn max_pool(&self, maps: &Tensor) -> Result<Tensor> {
        torch_max_pool(maps)
    }
}

/// libtorch's.
pub(super) fn torch_max_pool(maps: &Tensor) -> Result<Tensor> {
    Ok(maps.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?)
}

/// How algorithms are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// The fastest, by running all of them.
    Measured,
    /// Those that the library thinks are fast.
    Guessed,
}

/// What can be recorded: the same operations each time, and no question to the device.
pub(super) type Work = Box<dyn Fn() -> Result<Tensor> + Send>;

/// Recorded work.
pub(super) struct Recorded {
    /// Where its result is after each run.
    pub output: Tensor,
    /// Runs it in the stream that this thread has entered.
    pub replay: Box<dyn Fn() -> Result<()> + Send>,
}
