//! Limits on the annotations that a user attaches to a version.

use std::collections::BTreeMap;

use headswap_checkpoint::excerpt;

use super::error::HeadError;

const ANNOTATIONS_MAX: usize = 64;
const ANNOTATION_KEY_BYTES_MAX: usize = 128;
const ANNOTATION_VALUE_BYTES_MAX: usize = 1024;

/// # Errors
/// [`HeadError::Annotations`] if there are too many or one is too long.
pub(super) fn check(annotations: &BTreeMap<String, String>) -> Result<(), HeadError> {
    if annotations.len() > ANNOTATIONS_MAX {
        return refused(format!(
            "there are {}; the limit is {ANNOTATIONS_MAX}",
            annotations.len()
        ));
    }
    for (key, value) in annotations {
        if key.len() > ANNOTATION_KEY_BYTES_MAX {
            return refused(format!(
                "the key `{}` has {} bytes; the limit is {ANNOTATION_KEY_BYTES_MAX}",
                excerpt(key),
                key.len()
            ));
        }
        if value.len() > ANNOTATION_VALUE_BYTES_MAX {
            return refused(format!(
                "the value of `{}` has {} bytes; the limit is {ANNOTATION_VALUE_BYTES_MAX}",
                excerpt(key),
                value.len()
            ));
        }
    }
    Ok(())
}

fn refused(reason: String) -> Result<(), HeadError> {
    Err(HeadError::Annotations { reason })
}
