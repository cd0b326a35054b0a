//! Heads: their names, versions, validation, routing and durable store.
//!
//! A head version is immutable once published. [`HeadRegistry`] is the only writer; [`RoutingTable`] answers readers
//! without a lock. What a version keeps on the device is the type parameter `R`, of which this room knows nothing.

mod dir_store;
mod error;
mod name;
mod registry;
mod safetensors_file;
mod store;
mod table;
mod version;
mod weights;

pub use dir_store::DirStore;
pub use error::{HeadError, PlaceError};
pub use name::HeadName;
pub use registry::{HeadRegistry, Place, RegistryLimits, Replaced, Replacement};
pub use store::{HeadStore, StoreError, StoredHead};
pub use table::RoutingTable;
pub use version::{HeadInfo, HeadVersion};
pub use weights::{HeadLimits, HeadWeights, Overridable};
