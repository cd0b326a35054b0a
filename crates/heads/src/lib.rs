//! Heads: their names, versions, validation and routing, and which of them are in memory.
//!
//! A head version is immutable once published. [`HeadRegistry`] is the only writer; [`RoutingTable`] answers readers
//! without a lock. The type parameter `R` is what a version keeps on the device; this crate never looks into it.

mod annotations;
mod backbones;
mod commit;
mod error;
mod head_request;
mod metrics;
mod name;
mod opening;
mod per_head;
mod quota;
mod registry;
mod residency;
mod shared_tensor;
mod store;
mod table;
mod version;
mod weights;

pub use backbones::{BACKBONE_NAME_BYTES_MAX, Backbones, KnownBackbone, is_backbone_name};
pub use commit::Commit;
pub use error::{HeadError, PlaceError, RESIDENT_BYTES_MAX};
pub use head_request::HeadRequest;
pub use metrics::HeadMetrics;
pub use name::HeadName;
pub use per_head::PerHead;
pub use registry::{HeadRegistry, RegistryLimits, RegistryParts, Replaced, Replacement};
pub use residency::{Acquired, HeadPlacer, LoadTask, Pending, PinnedHead, Reservation, ResidencyLimits, Tier, Urgency};
pub use shared_tensor::SharedTensor;
pub use store::{HeadStore, StagedHead, StoreError};
pub use table::{History, Page, RoutingTable};
pub use version::{HeadInfo, HeadVersion};
pub use weights::{HeadLimits, HeadWeights, assumed_without_spec, open_checkpoint};
