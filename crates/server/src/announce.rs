//! Announcements for the program that starts the server: JSON lines on standard output.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::ports::Listeners;

/// Announces that the server is ready, and with `--announce` its addresses, too.
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
                print_line(&json!({ "listening": kind, "address": address.to_string() }));
            }
        }
    }

    pub fn ready(&self) {
        print_line(&json!({ "ready": true }));
    }
}

/// Ignores errors: the server keeps serving when its standard output is closed.
fn print_line(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
