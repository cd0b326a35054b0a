//! The context of a call, from what its connection and headers say.

use tonic::Request;

use super::deadline;
use crate::engine::Class;
use crate::service::CallContext;

/// The context of a call of this class, whose message has not been looked into.
pub(super) fn of<T>(request: &Request<T>, class: Class) -> CallContext {
    CallContext {
        deadline: deadline::of(request.metadata()),
        class,
        flow: 0,
        request_id: String::new(),
        peer: String::new(),
    }
}
