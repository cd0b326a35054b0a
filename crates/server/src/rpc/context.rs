//! The context of a call, from what its connection and headers say.

use headswap_engine::Class;
use headswap_service::CallContext;
use tonic::Request;

use crate::edge::arrival::Peer;
use crate::edge::deadline;

/// The context of a call of this class, whose message has not been looked into. Unary calls of one connection are one flow.
pub(super) fn of<T>(request: &Request<T>, class: Class) -> CallContext {
    let peer = request.extensions().get::<Peer>();
    CallContext {
        deadline: deadline::of(request),
        class,
        flow: peer.map_or(0, |peer| peer.connection),
        request_id: String::new(),
        peer: peer.map_or_else(String::new, |peer| peer.address.clone()),
    }
}
