//! One line of JSON on standard output for each listener, and one when ready: for whoever started the server and let it
//! choose its ports.

use std::io::Write as _;

use serde_json::json;

use super::listeners::Listeners;

pub(super) fn announce(listeners: &Listeners) {
    for (kind, address) in listeners.addresses() {
        tracing::info!(%address, "listening for {kind}");
        line(&json!({ "listening": kind, "address": address.to_string() }));
    }
}

pub(super) fn ready() {
    line(&json!({ "ready": true }));
}

/// A closed standard output is no reason to stop serving.
fn line(value: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
