//! Administration of heads: replace, upload, list, get, describe.
//!
//! None of it costs others their turn. Swaps of one head take turns in order of arrival, as futures; what blocks runs on
//! threads of this folder's own (`threads.rs`), apart from those that decode pictures, and large swaps apart from small
//! ones (`lane.rs`). A caller that gives up before the commit leaves nothing behind (`caller.rs`).

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
use description::SplitLayers;
use headswap_heads::{HeadLimits, HeadMetrics, HeadRegistry, PerHead};
use headswap_model::PlacedHead;
use headswap_store::UploadDir;
use lane::Lane;
use threads::{Priority, Threads};

/// Small swaps at the same time.
const SMALL_SWAPS_MAX: usize = 4;
/// A file up to this many bytes is small: its head has twice as many at most, if it is in 16 bits, and a swap takes
/// milliseconds. As many such heads as small swaps fit into the 64 MiB that trials have beside the large ones.
const SMALL_FILE_BYTES_MAX: u64 = 8 << 20;
/// Reads of stored heads at the same time.
const READS_MAX: usize = 8;

/// What administration works with.
pub struct HeadAdminParts {
    /// The heads.
    pub registry: Arc<HeadRegistry<PlacedHead>>,
    /// What is asked of new heads.
    pub limits: HeadLimits,
    /// Where uploads go.
    pub uploads: UploadDir,
    /// How many there may be at once (`--uploads-max`).
    pub uploads_max: usize,
    /// Bytes of large heads on trial at the same time at most (`--heads-resident-bytes-max`).
    pub trial_bytes_max: u64,
    /// Which files of this machine may be read.
    pub sources: SourceSettings,
    /// What is told of the backbone.
    pub model: ModelInfo,
    /// Requests that are under way: while there are any, uploads give way.
    pub in_flight: Gauge,
    /// Counts heads and uploads.
    pub metrics: HeadMetrics,
}

/// The use cases of administration. Dropping this waits for its threads.
pub struct HeadAdmin {
    registry: Arc<HeadRegistry<PlacedHead>>,
    limits: Arc<HeadLimits>,
    uploads: Arc<UploadDir>,
    sources: Arc<SourceSettings>,
    model: Arc<ModelInfo>,
    split_layers: Arc<SplitLayers>,
    in_flight: Gauge,
    metrics: HeadMetrics,
    /// Swaps of one head take turns in order of arrival: tokio's locks are fair.
    turns: PerHead<Mutex<()>>,
    small: Lane,
    large: Lane,
    /// Uploads' files are written by these; a thread's place is that of the upload, to the end of its swap.
    writers: Threads,
    readers: Threads,
}

impl HeadAdmin {
    /// Begins nothing: threads come with work.
    pub fn new(parts: HeadAdminParts) -> Self {
        let uploads_max = parts.uploads_max.max(1);
        Self {
            registry: parts.registry,
            limits: Arc::new(parts.limits),
            uploads: Arc::new(parts.uploads),
            sources: Arc::new(parts.sources),
            split_layers: Arc::new(SplitLayers::of(parts.model.architecture)),
            model: Arc::new(parts.model),
            in_flight: parts.in_flight,
            metrics: parts.metrics,
            turns: PerHead::default(),
            small: Lane::small(SMALL_SWAPS_MAX),
            large: Lane::large(uploads_max, parts.trial_bytes_max),
            writers: Threads::new("upload-write", uploads_max),
            readers: Threads::new("head-read", READS_MAX),
        }
    }

    /// How uploads work: so that requests under way hardly notice.
    fn background(&self) -> Priority {
        Priority::Background(self.in_flight.clone())
    }
}
