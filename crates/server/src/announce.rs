//! What a program that starts the server reads from its standard output, one line of JSON each.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::ports::Listeners;

/// Says where the server listens, if that is asked for by `--announce`, and when it is ready.
pub(super) struct Announcer {
    addresses: bool,
}

impl Announcer {
    pub fn new(addresses: bool) -> Self {
        Self { addresses }
    }

    pub fn listening(&self, listeners: &Listeners) {
        for (kind, address) in listeners.addresses() {
            tracing::info!(port = kind, %address, "listening");
            if self.addresses {
                line(&json!({ "listening": kind, "address": address.to_string() }));
            }
        }
    }

    pub fn ready(&self) {
        line(&json!({ "ready": true }));
    }
}

/// A closed standard output is no reason to stop serving.
fn line(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
