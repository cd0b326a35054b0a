//! What has been done to the map since VGG16's last pooling.

use super::layer::Shape;
use super::refused;
use crate::{CheckpointError, ModuleKind, excerpt};

/// What of it does not change places with a further pooling.
#[derive(Default)]
pub(super) struct MapHistory {
    /// The layer whose result may not be pooled.
    before_pooling: Option<String>,
    is_normalised: bool,
}

impl MapHistory {
    /// Follows one layer.
    ///
    /// # Errors
    /// [`CheckpointError::Layer`] for a pooling of the whole map after what heads compute only after it, with another result.
    pub fn follow(&mut self, path: &str, shape: Shape, kind: &ModuleKind) -> Result<(), CheckpointError> {
        if !matches!(shape, Shape::Map { .. }) {
            return Ok(());
        }
        match kind {
            ModuleKind::Conv2d { .. } | ModuleKind::MaxPool => {
                (self.before_pooling, self.is_normalised) = (None, false);
            }
            ModuleKind::BatchNorm { .. } => self.is_normalised = true,
            ModuleKind::AdaptiveMaxPool { .. } if self.is_normalised => {
                return Err(refused(
                    path,
                    "takes the largest of what was normalised, which heads do not; train the head without",
                ));
            }
            ModuleKind::AdaptiveAveragePool { .. } | ModuleKind::AdaptiveMaxPool { .. } => {
                if let Some(before) = &self.before_pooling {
                    return Err(refused(
                        path,
                        &format!("pools what {before} computes, which heads do not; train the head without that layer"),
                    ));
                }
            }
            ModuleKind::Identity | ModuleKind::Flatten { .. } => {}
            // What VGG16 pools is not negative.
            ModuleKind::Relu if !self.is_normalised => {}
            _ => self.before_pooling = Some(excerpt(path)),
        }
        Ok(())
    }
}
