//! The health of the devices.

use std::sync::Arc;

use tokio::sync::watch;

/// A flag that is set once, when a device no longer computes, with the reason; clones share it.
#[derive(Clone, Debug)]
pub struct EngineHealth(Arc<watch::Sender<Option<String>>>);

impl Default for EngineHealth {
    /// Every device computes.
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl EngineHealth {
    /// Returns true once a device no longer computes.
    pub fn is_lost(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until a device no longer computes. Returns the reason.
    pub async fn lost(&self) -> String {
        let mut changes = self.0.subscribe();
        let reason = changes
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|reason| reason.clone());
        // The sender lives as long as `self`.
        reason.unwrap_or_default()
    }

    /// Records that a device no longer computes; only the first reason is kept.
    pub(super) fn report_lost(&self, reason: String) {
        self.0.send_if_modified(|lost| {
            let is_first = lost.is_none();
            if is_first {
                tracing::error!(reason, "the device no longer computes");
                *lost = Some(reason);
            }
            is_first
        });
    }
}
