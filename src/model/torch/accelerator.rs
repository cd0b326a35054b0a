//! What a device offers that computes beside the processor: streams of work, and work recorded once to be run often.

use tch::Tensor;

use crate::model::network::NetworkError;

/// The stream that computes.
pub(super) const COMPUTE: usize = 0;
/// As many lanes as keep one computing while another copies, each with a stream of its own for that: `1..=LANES`.
pub(super) const LANES: usize = 2;
/// All streams.
pub(super) const STREAMS: usize = 1 + LANES;

/// Streams and recordings of one device.
pub(super) trait Accelerator: Send + Sync {
    /// What this thread asks of the device goes to this stream from here on.
    fn enter(&self, stream: usize) -> Result<(), NetworkError>;

    /// What `stream` is given from here on waits for what `other` has been given so far.
    fn wait(&self, stream: usize, other: usize) -> Result<(), NetworkError>;

    /// Records work in the stream that this thread has entered, after running it to choose the fastest algorithms. What
    /// the work reads and writes keeps its place in memory; recordings share what they use in between, so only one may run
    /// at a time. They end with the thread that recorded them.
    fn record(&self, work: Work) -> Result<Recorded, NetworkError>;
}

/// What can be recorded: the same operations each time, and no question to the device.
pub(super) type Work = Box<dyn Fn() -> Result<Tensor, NetworkError> + Send>;

/// Recorded work.
pub(super) struct Recorded {
    /// Where its result is after each run.
    pub output: Tensor,
    /// Runs it in the stream that this thread has entered.
    pub replay: Box<dyn Fn() -> Result<(), NetworkError> + Send>,
}
