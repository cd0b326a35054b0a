//! Heads: their names, versions, validation, routing, durable store, and which of them are in memory.
//!
//! A head version is immutable once published. [`HeadRegistry`] is the only writer; [`RoutingTable`] answers readers
//! without a lock. What a version keeps on the device is the type parameter `R`, of which this room knows nothing.

mod dir_store;
mod error;
mod load;
mod lru;
mod metrics;
mod name;
mod opening;
mod record;
mod registry;
mod residency;
mod room;
mod safetensors_file;
mod slot;
mod store;
mod table;
mod tiers;
mod upload;
mod version;
mod weights;

pub use dir_store::DirStore;
pub use error::{HeadError, PlaceError, RESIDENT_BYTES_MAX};
pub use load::{LoadTask, Pending};
pub use metrics::HeadMetrics;
pub use name::HeadName;
pub use registry::{HeadRegistry, RegistryLimits, RegistryParts, Replaced, Replacement};
pub use residency::{Acquired, Place, ResidencyLimits};
pub use room::Reservation;
pub use slot::{Lease, Tier};
pub use store::{HeadStore, StoreError};
pub use table::{Page, RoutingTable};
pub use upload::{Announced, UPLOAD_BYTES_MAX, UPLOADS_MAX, Upload, UploadDir};
pub use version::{HeadInfo, HeadVersion};
pub use weights::{HeadLimits, HeadWeights, Overridable};
