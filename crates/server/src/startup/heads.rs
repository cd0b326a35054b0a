//! The stored heads of the backbones.

use std::sync::Arc;
use std::time::Instant;

use headswap_heads::{
    HeadError, HeadMetrics, HeadPlacer, HeadRegistry, HeadWeights, PlaceError, RegistryParts, Reservation,
};
use headswap_model::{BackendError, PlacedHead, Placer};
use headswap_store::{DirStore, UploadDir};

use super::backbone::LoadedBackbones;
use super::backend::ReadyBackend;
use crate::ServerError;
use crate::settings::ServeArgs;

/// The registry of heads, and where uploads go.
pub(super) struct StoredHeads {
    pub registry: Arc<HeadRegistry<PlacedHead>>,
    pub uploads: UploadDir,
}

impl StoredHeads {
    pub fn open(
        args: &ServeArgs,
        backbones: &LoadedBackbones,
        backend: &ReadyBackend,
        metrics: HeadMetrics,
    ) -> Result<Self, ServerError> {
        let started = Instant::now();
        let dir = args
            .heads
            .dir()
            .ok_or_else(|| ServerError::Settings("set --heads-dir".into()))?;
        let store = DirStore::open(&dir, backbones.head_limits.backbones.clone());
        let store = store.map_err(HeadError::from)?;
        let uploads = store.uploads(args.limits.upload_bytes_max).map_err(HeadError::from)?;
        let ignored = store.heads_of_other_backbones();
        if ignored > 0 {
            tracing::info!(heads = ignored, "heads of other backbones are in the store; ignored");
        }
        let parts = RegistryParts {
            store: Arc::new(store),
            placer: Box::new(DevicePlacer(backend.backend.placer())),
            metrics,
        };
        let limits = args.heads.registry(backend.on_cpu());
        let registry = HeadRegistry::open(parts, limits, backbones.default_head.as_ref())?;
        tracing::info!(
            dir = %dir.display(),
            heads = registry.table().count(),
            elapsed_ms = started.elapsed().as_millis() as u64,
            "heads loaded"
        );
        Ok(Self {
            registry: Arc::new(registry),
            uploads,
        })
    }
}

/// Places heads on the backend's devices.
struct DevicePlacer(Arc<dyn Placer>);

impl HeadPlacer<PlacedHead> for DevicePlacer {
    fn place(&self, weights: &HeadWeights, reservation: Reservation) -> Result<PlacedHead, PlaceError> {
        let placed = self.0.place_on(weights.backbone, &weights.parameters, &weights.spec);
        match placed {
            Ok(placed) => Ok(placed.keeping(reservation)),
            Err(error @ BackendError::OutOfMemory(_)) => Err(PlaceError::OutOfMemory(error.to_string())),
            Err(error) => Err(PlaceError::Refused(error.to_string())),
        }
    }
}
