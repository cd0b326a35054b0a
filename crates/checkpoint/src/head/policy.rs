//! What of a head its receiver takes, and which of its tensors are dropped as soon as they are read.

use std::sync::Arc;

use crate::{Digest, HostTensor, Parameters, Throttle};

/// A predicate on a parameter's name in normal form and its digest.
pub type IsDropped<'a> = dyn Fn(&str, &Digest) -> bool + 'a;

/// What the receiver of a head takes.
#[derive(Clone, Copy)]
pub struct HeadPolicy<'a> {
    /// Limit of the rows of the last Linear, checked before any tensor is read.
    pub rows_max: usize,
    /// Returns true for a parameter that is dropped right after it was read: one that the receiver has, whatever else the head
    /// holds. `None` keeps all, and computes no digests.
    pub is_dropped: Option<&'a IsDropped<'a>>,
}

impl Default for HeadPolicy<'_> {
    /// Takes all.
    fn default() -> Self {
        Self {
            rows_max: usize::MAX,
            is_dropped: None,
        }
    }
}

/// The parameters that were read and are kept.
pub(super) struct Kept<'a> {
    pub policy: HeadPolicy<'a>,
    pub throttle: &'a Throttle,
    pub parameters: Parameters,
}

impl Kept<'_> {
    /// Keeps a parameter, unless it is to be dropped.
    pub fn insert(&mut self, name: String, tensor: Arc<HostTensor>) {
        let is_dropped = self.policy.is_dropped;
        if !is_dropped.is_some_and(|is_dropped| is_dropped(&name, &tensor.digest_throttled(self.throttle))) {
            self.parameters.insert(name, tensor);
        }
    }
}
