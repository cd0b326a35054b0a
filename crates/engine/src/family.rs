//! Which requests share computation. Pure: no clock, no tokio.

use headswap_model::{PlacedHead, StepKey};

use super::request::Wanted;

/// What a network computes first of a picture: requests that differ in it share no computation, so that nothing is gained
/// by computing them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Height and width of the pictures.
    size: [u32; 2],
    /// The first step.
    first: StepKey,
}

impl Family {
    /// Returns that of a head; none if its steps have no keys.
    pub fn of_head(head: &PlacedHead) -> Option<Self> {
        Some(Self {
            size: head.size,
            first: *head.keys.first()?,
        })
    }

    /// Returns that of an input which a backbone computes; none if its pictures have no size of their own.
    pub fn of_wanted(wanted: &Wanted) -> Option<Self> {
        Some(Self {
            size: wanted.preprocessing.size().ok()?,
            first: StepKey::of_backbones(wanted.backbone, wanted.backbone),
        })
    }

    /// Returns one of pictures of this size on a backbone.
    #[cfg(test)]
    pub fn of_backbone(backbone: usize, size: [u32; 2]) -> Self {
        Self {
            size,
            first: StepKey::of_backbones(backbone, backbone),
        }
    }
}
