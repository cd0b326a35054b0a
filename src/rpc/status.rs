//! Every error's gRPC status, with `google.rpc` details that a client can act on.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::PipelineError;
use crate::engine::EngineError;
use crate::heads::{self, HeadError, PlaceError};
use crate::service::ServiceError;

/// When to come back to a server that is busy or loading.
const RETRY_LATER: Duration = Duration::from_secs(1);

/// The type of a version, where a status names one.
const VERSION: &str = "headswap.v1.HeadVersion";

/// INVALID_ARGUMENT about one field of the request.
pub(super) fn invalid(field: &str, message: String) -> Status {
    let details = ErrorDetails::with_bad_request_violation(field, message.clone());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// UNAVAILABLE for a while: another replica, or this one a little later, can answer.
pub(super) fn unavailable(message: &str) -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_LATER));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// RESOURCE_EXHAUSTED for a while, by this setting.
pub(super) fn exhausted(setting: &str, message: String) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(RETRY_LATER));
    details.add_quota_failure_violation(setting, message.clone());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// As many requests as allowed are under way.
pub(super) fn overloaded() -> Status {
    exhausted("--in-flight-max", PipelineError::Overloaded.to_string())
}

pub(super) fn of_pipeline(error: PipelineError) -> Status {
    let message = error.to_string();
    match error {
        PipelineError::Image(_) => invalid("input", message),
        PipelineError::Overloaded => overloaded(),
        PipelineError::Engine(EngineError::Expired) => Status::deadline_exceeded(message),
        PipelineError::Engine(EngineError::Network(_)) => Status::internal(message),
        PipelineError::Engine(EngineError::Stopped) => unavailable(&message),
    }
}

pub(super) fn of_service(error: ServiceError) -> Status {
    let message = error.to_string();
    match error {
        ServiceError::Invalid { field, .. } => invalid(field, message),
        ServiceError::Head(error) => of_head(&*error),
        ServiceError::Image(error) => of_pipeline(error.into()),
        ServiceError::Engine(error) => of_pipeline(error.into()),
        ServiceError::Exhausted { setting, .. } => exhausted(setting, message),
        ServiceError::Expired { .. } => Status::deadline_exceeded(message),
        ServiceError::Cancelled => Status::cancelled(message),
        ServiceError::Unavailable(_) => unavailable(&message),
        ServiceError::Internal(_) => Status::internal(message),
    }
}

pub(super) fn of_head(error: impl Borrow<HeadError>) -> Status {
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
        HeadError::NoRoom { .. } => exhausted(heads::RESIDENT_BYTES_MAX, message),
        HeadError::Place(PlaceError::OutOfMemory(_)) => {
            let details = ErrorDetails::with_retry_info(Some(RETRY_LATER));
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        HeadError::LetGo { .. } | HeadError::LoadsStopped | HeadError::Unreadable { .. } => unavailable(&message),
        HeadError::Cancelled => Status::cancelled(message),
        HeadError::LoadPanicked { .. } => Status::internal(message),
        HeadError::Store(error) if error.source.kind() == ErrorKind::StorageFull => Status::resource_exhausted(message),
        HeadError::Place(PlaceError::Refused(_)) => Status::failed_precondition(message),
        HeadError::Store(_) => Status::internal(message),
        HeadError::Upload { field, .. } => invalid(field, message),
        HeadError::Name { .. } => invalid("head", message),
        HeadError::Labels { .. } => invalid("labels", message),
        HeadError::Annotations { .. } => invalid("annotations", message),
        HeadError::Weights { .. } => invalid("source", message),
    }
}

/// The status as a message, for answers that carry their own error.
pub(super) fn message(status: &Status) -> tonic_types::Status {
    let plain = || tonic_types::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        ..tonic_types::Status::default()
    };
    match tonic_types::Status::decode(status.details()) {
        Ok(full) if full.code != 0 => full,
        _ => plain(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;
    use crate::heads::{HeadName, StoreError};

    #[test]
    fn what_may_pass_says_when_to_retry() {
        let check = |error: HeadError, code: Code, retry: bool| {
            let text = error.to_string();
            let status = of_service(ServiceError::from(error));
            assert_eq!(status.code(), code, "{text}");
            assert_eq!(status.get_details_retry_info().is_some(), retry, "{text}");
            assert_eq!(status.message(), text);
        };
        let errno = io::Error::from_raw_os_error;
        let unreadable = |number| HeadError::Unreadable {
            path: "/heads/cats".into(),
            source: errno(number),
        };
        for number in [libc::EIO, libc::EMFILE, libc::ENOMEM, libc::EINTR] {
            check(unreadable(number), Code::Unavailable, true);
        }
        let written = |number| StoreError {
            action: "write",
            path: "/heads/cats".into(),
            source: errno(number),
        };
        check(written(libc::EIO).into(), Code::Internal, false);
        check(written(libc::ENOSPC).into(), Code::ResourceExhausted, false);
        let damaged = HeadError::Damaged {
            name: HeadName::parse("cats").unwrap(),
            version: 1,
            reason: "its file is gone".into(),
        };
        check(damaged, Code::DataLoss, false);
        check(HeadError::LoadsStopped, Code::Unavailable, true);
        check(HeadError::Cancelled, Code::Cancelled, false);
        let text = || "CUDA out of memory".to_owned();
        check(PlaceError::OutOfMemory(text()).into(), Code::ResourceExhausted, true);
        check(PlaceError::Refused(text()).into(), Code::FailedPrecondition, false);
        // Shared by those who waited for one load.
        let shared = ServiceError::Head(Arc::new(unreadable(libc::EIO)));
        assert_eq!(of_service(shared).code(), Code::Unavailable);
    }
}
