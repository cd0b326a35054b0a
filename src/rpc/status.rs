//! Every error's gRPC status, with `google.rpc` details that a client can act on.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::engine::EngineError;
use crate::heads::{self, HeadError};
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

fn of_engine(error: &EngineError) -> Status {
    let message = error.to_string();
    match error {
        EngineError::Full => exhausted("--in-flight-max", message),
        EngineError::Image(_) => invalid("input", message),
        EngineError::Expired(_) => Status::deadline_exceeded(message),
        EngineError::Network(_) | EngineError::NotFinite(_) | EngineError::NoHeads => Status::internal(message),
        EngineError::DeviceLost | EngineError::Stopped => unavailable(&message),
    }
}

pub(super) fn of_service(error: ServiceError) -> Status {
    let message = error.to_string();
    match error {
        ServiceError::Invalid { field, .. } => invalid(field, message),
        ServiceError::Head(error) => of_head(&*error),
        ServiceError::Image(_) => invalid("input", message),
        ServiceError::Engine(error) => of_engine(&error),
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
        HeadError::LetGo { .. } | HeadError::LoadsStopped => unavailable(&message),
        HeadError::LoadPanicked { .. } => Status::internal(message),
        HeadError::Store(error) if error.source.kind() == ErrorKind::StorageFull => Status::resource_exhausted(message),
        HeadError::Place(_) => Status::failed_precondition(message),
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
