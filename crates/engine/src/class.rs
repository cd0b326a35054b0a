//! Classes and flows of requests.

/// The class of a request: the scheduler serves interactive ones first and reserves a share for bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A unary call, whose caller waits for this one answer. It is refused if the server is full.
    Interactive,
    /// A request of a stream, which has flow control. It waits if the server is full.
    Bulk,
}

/// Identifies a flow: a stream, or the unary calls of one connection. Flows take turns.
pub type FlowId = u64;
