//! Who calls, how urgently, and until when.

use headswap_engine::{Class, FlowId};
use tokio::time::Instant;

/// What is known of a call beside its message.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// When the answer is worthless, if the caller said: counted from the arrival of the call's headers.
    pub deadline: Option<Instant>,
    /// How urgent it is.
    pub class: Class,
    /// The flow that it belongs to: a stream, or the unary calls of one connection. Flows take turns.
    pub flow: FlowId,
    /// The caller's name for the request; may be empty.
    pub request_id: String,
    /// Where the call came from, for logs; empty if unknown.
    pub peer: String,
}
