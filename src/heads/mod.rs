//! Heads: their names, versions, validation, routing, durable store, and which of them are in memory.
//!
//! A head version is immutable once published. [`HeadRegistry`] is the only writer; [`RoutingTable`] answers readers
//! without a lock. What a version keeps on the device is the type parameter `R`, of which this room knows nothing.

mod annotations;
mod commit;
mod dir_store;
mod error;
mod load;
mod load_queue;
mod lru;
mod metrics;
mod name;
mod opening;
mod per_head;
mod quota;
mod record;
mod registry;
mod residency;
mod room;
mod safetensors_file;
mod slot;
mod store;
mod synced_file;
mod table;
mod tiers;
mod upload;
mod version;
mod weights;

pub use commit::Commit;
pub use dir_store::DirStore;
pub use error::{HeadError, PlaceError, RESIDENT_BYTES_MAX};
pub use load::{LoadTask, Pending};
pub use load_queue::Urgency;
pub use metrics::HeadMetrics;
pub use name::HeadName;
pub use per_head::PerHead;
pub use registry::{HeadRegistry, RegistryLimits, RegistryParts, Replaced, Replacement};
pub use residency::{Acquired, Place, ResidencyLimits};
pub use room::Reservation;
pub use slot::{Lease, Tier};
pub use store::{HeadStore, StagedHead, StoreError};
pub use table::{History, Page, RoutingTable};
pub use upload::{Announced, UPLOAD_BYTES_MAX, UPLOADS_MAX, Upload, UploadDir};
pub use version::{HeadInfo, HeadVersion};
pub use weights::{HeadLimits, HeadWeights, Overridable};
