//! How urgent a request is.

/// The class of a request: the scheduler takes interactive ones first and keeps a share for bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A caller waits for this one answer: unary calls. Refused rather than kept waiting when the server is full.
    Interactive,
    /// One of many requests of a stream, which has flow control and may wait.
    Bulk,
}

/// A flow of requests that take turns with those of other flows: a stream, or the unary calls of one connection.
pub type FlowId = u64;
