//! One published version of a head.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::name::HeadName;
use crate::model::Digest;

/// What is known of a version.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadInfo {
    /// The head.
    pub name: HeadName,
    /// 1, 2, 3, … for each name.
    pub version: u64,
    /// SHA-256 of its tensors and labels.
    pub digest: Digest,
    /// K.
    pub classes: usize,
    /// K labels, or none.
    pub labels: Arc<[String]>,
    /// The user's notes.
    pub annotations: BTreeMap<String, String>,
    /// When it was made, in microseconds since 1970-01-01 UTC.
    pub created_unix_us: u64,
    /// The names of the parameters that it overrides.
    pub parameters: Vec<String>,
    /// Its tensors' bytes in f32.
    pub resident_bytes: u64,
}

/// A version and what it keeps on the device; immutable.
#[derive(Debug)]
pub struct HeadVersion<R> {
    /// What is known of it.
    pub info: HeadInfo,
    /// What is on the device.
    pub resident: R,
}
