//! Administration of heads: replace, upload, list, get, describe.
//!
//! Swaps of one head run one after another, in order of arrival; those that wait are futures and block no thread. Blocking
//! work runs on threads of its own (`threads.rs`), not on those that decode pictures, and large swaps run apart from small
//! ones (`lane.rs`). If a caller gives up before the commit, nothing is changed (`caller.rs`).

mod caller;
mod description;
mod lane;
mod listing;
mod source;
mod swap;
mod threads;
mod upload;

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Mutex;

pub use description::{GotHead, HeadDescription, ModelDescription, ParameterDescription};
pub use listing::{HeadPage, HeadQuery};
pub use source::{Source, SourceSettings};
pub use swap::{Swap, Swapped};
pub use upload::{HeadUpload, UploadHeader};

use super::ModelInfo;
use description::Describer;
use headswap_heads::{HeadLimits, HeadMetrics, HeadRegistry, PerHead};
use headswap_model::PlacedHead;
use headswap_store::UploadDir;
use lane::Lane;
use threads::{Priority, Threads};

/// Maximum number of concurrent small swaps.
const SMALL_SWAPS_MAX: usize = 4;
/// A file up to this many bytes is small, and its swap takes milliseconds. Its head has twice as many bytes, if the file is in
/// 16 bits, so the heads of all small swaps fit the 64 MiB by which the trial budget exceeds that of heads. A file that repeats
/// or compresses its tensors may take 16 bytes in memory for each of its own, and 16 MiB more (`head/budget.rs` of the
/// checkpoint); a head that does not fit beside the others is then refused, to be tried again.
const SMALL_FILE_BYTES_MAX: u64 = 8 << 20;
/// Maximum number of concurrent reads of stored heads.
const READS_MAX: usize = 8;

/// What [`HeadAdmin`] is built from.
pub struct HeadAdminParts {
    /// The heads.
    pub registry: Arc<HeadRegistry<PlacedHead>>,
    /// What new heads are checked against.
    pub limits: HeadLimits,
    /// The directory of uploads.
    pub uploads: UploadDir,
    /// Maximum number of concurrent uploads (`--uploads-max`).
    pub uploads_max: usize,
    /// Maximum bytes of all large heads on trial (`--heads-resident-bytes-max`).
    pub trial_bytes_max: u64,
    /// Which local files ReplaceHead may read.
    pub sources: SourceSettings,
    /// The metadata of the model.
    pub model: ModelInfo,
    /// The number of requests in flight; uploads are throttled while it is above 0.
    pub in_flight: Gauge,
    /// Metrics of heads and uploads.
    pub metrics: HeadMetrics,
}

/// The use cases of administration. Dropping this waits for its threads.
pub struct HeadAdmin {
    registry: Arc<HeadRegistry<PlacedHead>>,
    limits: Arc<HeadLimits>,
    uploads: Arc<UploadDir>,
    sources: Arc<SourceSettings>,
    model: Arc<ModelInfo>,
    describer: Arc<Describer>,
    in_flight: Gauge,
    metrics: HeadMetrics,
    /// One swap of each head at a time; tokio's locks are FIFO.
    swap_locks: PerHead<Mutex<()>>,
    small: Lane,
    large: Lane,
    /// Write the files of uploads. An upload holds its thread's permit until its swap has ended.
    writers: Threads,
    readers: Threads,
}

impl HeadAdmin {
    /// Creates the administration; threads start with the work.
    pub fn new(parts: HeadAdminParts) -> Self {
        let uploads_max = parts.uploads_max.max(1);
        Self {
            registry: parts.registry,
            limits: Arc::new(parts.limits),
            uploads: Arc::new(parts.uploads),
            sources: Arc::new(parts.sources),
            describer: Arc::new(Describer::of(&parts.model)),
            model: Arc::new(parts.model),
            in_flight: parts.in_flight,
            metrics: parts.metrics,
            swap_locks: PerHead::default(),
            small: Lane::small(SMALL_SWAPS_MAX),
            large: Lane::large(uploads_max, parts.trial_bytes_max),
            writers: Threads::new("upload-write", uploads_max),
            readers: Threads::new("head-read", READS_MAX),
        }
    }

    /// The priority of uploads, below that of requests.
    fn background(&self) -> Priority {
        Priority::Background(self.in_flight.clone())
    }
}
