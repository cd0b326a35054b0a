//! UploadHead answers as ReplaceHead does, in a message of its own.

use super::{ReplaceHeadResponse, UploadHeadResponse};

impl From<ReplaceHeadResponse> for UploadHeadResponse {
    fn from(replaced: ReplaceHeadResponse) -> Self {
        Self {
            head: replaced.head,
            previous_version: replaced.previous_version,
            validate_us: replaced.validate_us,
            place_us: replaced.place_us,
            store_us: replaced.store_us,
            sync_us: replaced.sync_us,
            prefixes: replaced.prefixes,
            left_out: replaced.left_out,
            labels_left_out: replaced.labels_left_out,
        }
    }
}

impl From<UploadHeadResponse> for ReplaceHeadResponse {
    fn from(uploaded: UploadHeadResponse) -> Self {
        Self {
            head: uploaded.head,
            previous_version: uploaded.previous_version,
            validate_us: uploaded.validate_us,
            place_us: uploaded.place_us,
            store_us: uploaded.store_us,
            sync_us: uploaded.sync_us,
            prefixes: uploaded.prefixes,
            left_out: uploaded.left_out,
            labels_left_out: uploaded.labels_left_out,
        }
    }
}
