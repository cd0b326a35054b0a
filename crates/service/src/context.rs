//! The context of a call: its deadline, class, flow and caller.

use headswap_engine::{Class, FlowId};
use tokio::time::Instant;

use super::error::ServiceError;

const REQUEST_ID_BYTES_MAX: usize = 128;

/// The metadata of a call.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// The deadline that the caller set, if any, counted from the arrival of the call's headers.
    pub deadline: Option<Instant>,
    /// Its class.
    pub class: Class,
    /// The flow that it belongs to: a stream, or the unary calls of one connection. Flows take turns.
    pub flow: FlowId,
    /// The caller's identifier of the request; may be empty.
    pub request_id: String,
    /// The caller's address, for logs; empty if unknown.
    pub peer: String,
}

impl CallContext {
    /// Refuses a long identifier, which the logs would repeat.
    pub(super) fn check_request_id(&self) -> Result<(), ServiceError> {
        if self.request_id.len() <= REQUEST_ID_BYTES_MAX {
            return Ok(());
        }
        let got = self.request_id.len();
        Err(ServiceError::invalid(
            "request_id",
            format!("it has {got} bytes; the limit is {REQUEST_ID_BYTES_MAX}"),
        ))
    }
}
