//! Quantiles of measured times.

use std::time::Duration;

/// Returns the time that this share of the times, which ascend, stays below or at; zero if there are none.
pub(super) fn quantile(ascending: &[Duration], share: f64) -> Duration {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
