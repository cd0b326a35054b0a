//! The context of a call, from its connection and headers.

use headswap_engine::Class;
use headswap_service::CallContext;
use tonic::Request;

use crate::edge::arrival::Peer;
use crate::edge::deadline;

/// Returns the context of a call without reading its message. The unary calls of one connection are one flow.
pub(super) fn from_request<T>(request: &Request<T>, class: Class) -> CallContext {
    let peer = request.extensions().get::<Peer>();
    CallContext {
        deadline: deadline::from_request(request),
        class,
        flow: peer.map_or(0, |peer| peer.connection),
        request_id: String::new(),
        peer: peer.map_or_else(String::new, |peer| peer.address.clone()),
    }
}
