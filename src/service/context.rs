//! Who calls, how urgently, and until when.

use tokio::time::Instant;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A caller waits for this one answer: unary calls. Refused rather than kept waiting when the server is full.
    Interactive,
    /// One of many requests of a stream, which has flow control and may wait.
    Bulk,
}

/// What is known of a call beside its message.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// When the answer is worthless, if the caller said: counted from the arrival of the call's headers.
    pub deadline: Option<Instant>,
    /// How urgent it is.
    pub class: Class,
    /// Identifies the flow that it belongs to: a stream, or the unary calls of one connection. Flows take turns.
    pub flow: u64,
    /// The caller's name for the request; may be empty.
    pub request_id: String,
    /// Where the call came from, for logs; empty if unknown.
    pub peer: String,
}
