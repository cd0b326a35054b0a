//! Maps every error to a gRPC status with `google.rpc` details that a client can act on.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Duration;

use headswap_engine::{DECODE_BYTES_MAX, EngineError};
use headswap_heads::{HeadError, PlaceError};
use headswap_service::ServiceError;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Retry delay for a server that is busy or still loading.
const RETRY_LATER: Duration = Duration::from_secs(1);

/// The resource type of a head version in `google.rpc.ResourceInfo`.
const VERSION: &str = "headswap.v1.HeadVersion";

/// The setting that says on which disk heads are stored.
const HEADS_DIR: &str = "--heads-dir";

/// The setting that limits a message's bytes on the classification port.
pub const MESSAGE_BYTES_MAX: &str = "--message-bytes-max";
/// The setting that limits a message's bytes on the administration port.
pub const ADMIN_MESSAGE_BYTES_MAX: &str = "--admin-message-bytes-max";

/// Returns INVALID_ARGUMENT about one field of the request.
pub(crate) fn invalid(field: &str, message: String) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, message.clone());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// Returns UNAVAILABLE with a retry delay: another replica can serve the request, or this one later.
pub fn unavailable(message: &str) -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_LATER));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// Returns RESOURCE_EXHAUSTED with a retry delay; `setting` is the limit that was reached.
pub(crate) fn exhausted(setting: &str, message: String) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(RETRY_LATER));
    details.add_quota_failure_violation(setting, message.clone());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

fn from_engine(error: &EngineError) -> Status {
    let message = error.to_string();
    match error {
        EngineError::Full => exhausted("--in-flight-max", message),
        EngineError::Image(_) | EngineError::PixelsOfAnotherSize { .. } => invalid("input", message),
        EngineError::PictureTooCostly { .. } => {
            let details = ErrorDetails::with_quota_failure_violation(DECODE_BYTES_MAX, message.clone());
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        EngineError::Expired(_) => Status::deadline_exceeded(message),
        EngineError::Backend(_) | EngineError::NotFinite(_) | EngineError::NoHeads => Status::internal(message),
        EngineError::DeviceLost | EngineError::Stopped | EngineError::HeadChanged => unavailable(&message),
    }
}

pub(crate) fn from_service(error: ServiceError) -> Status {
    let message = error.to_string();
    match error {
        ServiceError::Invalid { field, .. } => invalid(field, message),
        ServiceError::Head(error) => from_head(&*error),
        ServiceError::Image(_) => invalid("input", message),
        ServiceError::Engine(error) => from_engine(&error),
        ServiceError::Exhausted { setting, .. } => exhausted(setting, message),
        ServiceError::Expired { .. } => Status::deadline_exceeded(message),
        ServiceError::Cancelled => Status::cancelled(message),
        ServiceError::Unavailable(_) => unavailable(&message),
        ServiceError::Internal(_) => Status::internal(message),
    }
}

pub(crate) fn from_head(error: impl Borrow<HeadError>) -> Status {
    let error = error.borrow();
    let message = error.to_string();
    match error {
        HeadError::UnknownHead { name, .. } => {
            let details = ErrorDetails::with_resource_info("headswap.v1.Head", name.to_string(), "", &message);
            Status::with_error_details(Code::NotFound, message, details)
        }
        HeadError::UnknownVersion { name, version, .. } => {
            let details = ErrorDetails::with_resource_info(VERSION, format!("{name}/{version}"), "", &message);
            Status::with_error_details(Code::NotFound, message, details)
        }
        HeadError::UnknownBackbone { name, .. } => {
            let details = ErrorDetails::with_resource_info("headswap.v1.Backbone", name, "", &message);
            Status::with_error_details(Code::NotFound, message, details)
        }
        HeadError::VersionMismatch { live, expected } => {
            let facts = [("live_version", live), ("expected_version", expected)];
            let facts: HashMap<String, String> = facts.into_iter().map(|(k, v)| (k.into(), v.to_string())).collect();
            let details = ErrorDetails::with_error_info("VERSION_MISMATCH", "headswap.v1", facts);
            Status::with_error_details(Code::Aborted, message, details)
        }
        HeadError::LimitReached { setting, .. } => {
            let details = ErrorDetails::with_quota_failure_violation(*setting, message.clone());
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        HeadError::Damaged { name, version, .. } => {
            let details = ErrorDetails::with_resource_info(VERSION, format!("{name}/{version}"), "", &message);
            Status::with_error_details(Code::DataLoss, message, details)
        }
        HeadError::NoRoom { .. } => exhausted(headswap_heads::RESIDENT_BYTES_MAX, message),
        HeadError::Place(PlaceError::OutOfMemory(_)) => {
            let details = ErrorDetails::with_retry_info(Some(RETRY_LATER));
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        HeadError::Retired { .. } | HeadError::LoadsStopped | HeadError::Unreadable { .. } => unavailable(&message),
        HeadError::Cancelled => Status::cancelled(message),
        HeadError::LoadPanicked { .. } => Status::internal(message),
        HeadError::Store(error) if is_full(error.source.kind()) => {
            let details = ErrorDetails::with_quota_failure_violation(HEADS_DIR, message.clone());
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        HeadError::Place(PlaceError::Refused(_)) => Status::failed_precondition(message),
        HeadError::Store(_) => Status::internal(message),
        HeadError::Upload { field, .. } => invalid(field, message),
        HeadError::Name { .. } => invalid("head", message),
        HeadError::Labels { .. } => invalid("labels", message),
        HeadError::Annotations { .. } => invalid("annotations", message),
        HeadError::NoFeatures { .. } => Status::failed_precondition(message),
        HeadError::Weights { .. } => invalid("source", message),
        HeadError::Output { .. } => invalid("head_spec.output", message),
        HeadError::Spec { .. } | HeadError::SpecMissing | HeadError::OneOutput => invalid("head_spec", message),
    }
}

/// Returns true if the disk, the user's share of it, or the limit on the size of files leaves no space.
fn is_full(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Returns the status for an error of `Streaming::message`, on a port whose messages `setting` limits.
pub(crate) fn from_message(error: Status, setting: &str) -> Status {
    too_large(&error, setting).unwrap_or(error)
}

/// Returns RESOURCE_EXHAUSTED that names `setting` if `error` is tonic's error for a message that is too large. tonic uses
/// OUT_OF_RANGE for an uncompressed message and RESOURCE_EXHAUSTED for one that becomes too large by decompression.
pub fn too_large(error: &Status, setting: &str) -> Option<Status> {
    let text = error.message();
    let message = match error.code() {
        Code::OutOfRange => {
            let sizes = text.strip_prefix("Error, decoded message length too large: found ")?;
            let (found, limit) = sizes.split_once(" bytes, the limit is: ")?;
            let limit = limit.strip_suffix(" bytes")?;
            format!("the message has {found} bytes, the limit is {limit} bytes ({setting})")
        }
        Code::ResourceExhausted => {
            let limit = text.strip_prefix("Error decompressing: size limit, of ")?;
            let limit = limit.strip_suffix(" bytes, exceeded while decompressing message")?;
            format!("the decompressed message has more bytes than the limit of {limit} ({setting})")
        }
        _ => return None,
    };
    let details = ErrorDetails::with_quota_failure_violation(setting, message.clone());
    Some(Status::with_error_details(Code::ResourceExhausted, message, details))
}

/// Converts a status to a `google.rpc.Status` message, for responses that carry an error in a field.
pub(crate) fn to_message(status: &Status) -> tonic_types::Status {
    match tonic_types::Status::decode(status.details()) {
        Ok(full) if full.code != 0 => full,
        _ => tonic_types::Status {
            code: status.code() as i32,
            message: status.message().to_owned(),
            ..tonic_types::Status::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tonic::codec::{Codec as _, CompressionEncoding, Streaming};
    use tonic_prost::ProstCodec;

    use super::*;
    use headswap_heads::{HeadName, StoreError};
    use headswap_proto::ClassifyRequest;

    /// 64 zero bytes as gzip.
    const GZIP: [u8; 24] = [
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x63, 0x60, 0xa0, 0x0c, 0x00, 0x00, 0x36, 0x63,
        0x8d, 0x75, 0x40, 0x00, 0x00, 0x00,
    ];

    async fn read(compressed: u8, message: &[u8], bytes_max: usize) -> Status {
        let length = (message.len() as u32).to_be_bytes();
        let body = axum::body::Body::from([&[compressed][..], &length, message].concat());
        let mut codec = ProstCodec::<ClassifyRequest, ClassifyRequest>::default();
        let encoding = Some(CompressionEncoding::Gzip);
        let mut messages = Streaming::new_request(codec.decoder(), body, encoding, Some(bytes_max));
        messages.message().await.unwrap_err()
    }

    fn check_too_large(error: Status, expected: &str) {
        let status = from_message(error, MESSAGE_BYTES_MAX);
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, expected));
        let violations = status.get_details_quota_failure().unwrap().violations;
        assert_eq!(
            (violations.len(), violations[0].subject.as_str()),
            (1, MESSAGE_BYTES_MAX)
        );
    }

    /// Fails if tonic changes the texts that [`too_large`] matches.
    #[tokio::test]
    async fn messages_that_are_too_large_have_one_status() {
        check_too_large(
            read(0, &[0; 64], 63).await,
            "the message has 64 bytes, the limit is 63 bytes (--message-bytes-max)",
        );
        check_too_large(
            read(1, &GZIP, 63).await,
            "the decompressed message has more bytes than the limit of 63 (--message-bytes-max)",
        );
        check_too_large(
            read(1, &GZIP, 23).await,
            "the message has 24 bytes, the limit is 23 bytes (--message-bytes-max)",
        );
        // Within the limit, but not a valid message.
        let status = from_message(read(1, &GZIP, 64).await, MESSAGE_BYTES_MAX);
        assert_eq!(status.code(), Code::Internal, "{status:?}");
        for status in [
            from_engine(&EngineError::Full),
            Status::out_of_range("other"),
            Status::resource_exhausted("other"),
        ] {
            assert!(too_large(&status, MESSAGE_BYTES_MAX).is_none());
        }
    }

    fn check(error: HeadError, code: Code, retry: bool) {
        let text = error.to_string();
        let status = from_service(ServiceError::from(error));
        assert_eq!(status.code(), code, "{text}");
        assert_eq!(status.get_details_retry_info().is_some(), retry, "{text}");
        assert_eq!(status.message(), text);
    }

    fn unreadable(errno: i32) -> HeadError {
        HeadError::Unreadable {
            path: "/heads/cats".into(),
            source: io::Error::from_raw_os_error(errno),
        }
    }

    fn unwritable(errno: i32) -> HeadError {
        HeadError::from(StoreError {
            action: "write",
            path: "/heads/cats".into(),
            source: io::Error::from_raw_os_error(errno),
        })
    }

    #[test]
    fn temporary_errors_have_a_retry_delay() {
        for number in [libc::EIO, libc::EMFILE, libc::ENOMEM, libc::EINTR] {
            check(unreadable(number), Code::Unavailable, true);
        }
        check(unwritable(libc::EIO), Code::Internal, false);
        check(unwritable(libc::ENOSPC), Code::ResourceExhausted, false);
        for number in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            let status = from_head(unwritable(number));
            assert_eq!(status.code(), Code::ResourceExhausted, "{number}");
            let violations = status.get_details_quota_failure().unwrap().violations;
            assert_eq!(violations[0].subject, HEADS_DIR, "{number}");
        }
        let damaged = HeadError::Damaged {
            name: HeadName::parse("cats").unwrap(),
            version: 1,
            reason: "its file is gone".into(),
        };
        check(damaged, Code::DataLoss, false);
        check(HeadError::LoadsStopped, Code::Unavailable, true);
        check(HeadError::Cancelled, Code::Cancelled, false);
        let text = "CUDA out of memory".to_owned();
        check(
            PlaceError::OutOfMemory(text.clone()).into(),
            Code::ResourceExhausted,
            true,
        );
        check(PlaceError::Refused(text).into(), Code::FailedPrecondition, false);
        // The requests that waited for the same load share its error.
        let shared = ServiceError::Head(Arc::new(unreadable(libc::EIO)));
        assert_eq!(from_service(shared).code(), Code::Unavailable);
    }
}
