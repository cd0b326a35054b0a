//! How far something long has come.

/// Shows how far something long has come; `()` shows nothing.
pub trait Progress: Send + Sync {
    /// Work of `total` units begins.
    fn start(&self, total: u64);
    /// `units` more are done.
    fn advance(&self, units: u64);
    /// The work has ended.
    fn finish(&self);
}

impl Progress for () {
    fn start(&self, _total: u64) {}
    fn advance(&self, _units: u64) {}
    fn finish(&self) {}
}
