//! The context of a call: its deadline, class, flow and caller.

use headswap_engine::{Class, FlowId};
use tokio::time::Instant;

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
