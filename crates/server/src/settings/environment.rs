//! Warnings for `HEADSWAP_*` variables that are not settings, so that a mistyped name does not pass silently.

use std::collections::BTreeSet;

use clap::{Args as _, Command};

use super::ServeArgs;

const PREFIX: &str = "HEADSWAP_";

/// Variables of other commands and of the build.
const OTHERS: [&str; 4] = [
    "HEADSWAP_ADDRESS",
    "HEADSWAP_ADMIN_ADDRESS",
    "HEADSWAP_CACHE",
    "HEADSWAP_WEIGHTS_MIRROR",
];

/// Old and new names of renamed settings.
const RENAMED: [(&str, &str); 1] = [("HEADSWAP_ENGINE", "HEADSWAP_BACKEND")];

/// Logs a warning for each variable that looks like a setting but is not one.
pub(super) fn warn_unknown() {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in unknown(names) {
        let renamed = RENAMED.iter().find(|(old, _)| *old == name);
        match renamed {
            Some((_, new)) => tracing::warn!(
                variable = name,
                "the variable has no effect: the setting was renamed to {new}"
            ),
            None => tracing::warn!(variable = name, "the variable has no effect: there is no such setting"),
        }
    }
}

fn unknown(names: impl Iterator<Item = String>) -> Vec<String> {
    let command = ServeArgs::augment_args(Command::new("serve"));
    let mut known: BTreeSet<&str> = BTreeSet::from(OTHERS);
    for argument in command.get_arguments() {
        known.extend(argument.get_env().and_then(|name| name.to_str()));
    }
    let mut unknown = Vec::new();
    for name in names {
        if name.starts_with(PREFIX) && !known.contains(name.as_str()) && !is_service_link(&name) {
            unknown.push(name);
        }
    }
    unknown
}

/// Returns true for the variables that Kubernetes sets for a Service named `headswap` or `headswap-…`
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
fn is_service_link(name: &str) -> bool {
    if name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.ends_with("_PORT") {
        return true;
    }
    let Some((_, rest)) = name.split_once("_PORT_") else {
        return false;
    };
    let mut parts = rest.split('_');
    let port = parts.next().unwrap_or_default();
    let protocol = parts.next().unwrap_or_default();
    port.parse::<u16>().is_ok() && matches!(protocol, "TCP" | "UDP" | "SCTP")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: bool) {
        let found = unknown([name.to_owned()].into_iter());
        assert_eq!(!found.is_empty(), expected, "{name}");
    }

    #[test]
    fn only_mistyped_names_are_reported() {
        for name in ["HEADSWAP_LISTENS", "HEADSWAP_ENGINE", "HEADSWAP_", "HEADSWAP_PORTS_A"] {
            check(name, true);
        }
        for name in [
            "HEADSWAP_LISTEN",
            "HEADSWAP_LOG",
            "HEADSWAP_NULL_FAULT",
            "HEADSWAP_WEIGHTS_MIRROR",
            "HEADSWAP_SERVICE_HOST",
            "HEADSWAP_ADMIN_SERVICE_PORT_GRPC",
            "HEADSWAP_PORT",
            "HEADSWAP_PORT_50051_TCP_ADDR",
            "headswap_listens",
            "PATH",
        ] {
            check(name, false);
        }
    }
}
