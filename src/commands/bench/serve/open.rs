//! An open loop: requests start at times fixed beforehand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headswap_client::{Classifier, connect_classifier, describe_status};
use headswap_loadtest::{OpenLoopSummary, OpenWorkload, run_open_loop};
use serde_json::json;
use tonic::Code;

use super::asked::Asked;
use super::closed::failures_cell;
use super::{ArrivalsArg, BenchServeArgs};
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::bench::name_of;
use crate::commands::error::CliError;
use crate::commands::output::{ms, note, print_json, spinner};

const COLUMNS: [Column; 11] = [
    ("rate", "requests a second that were to start, on average"),
    ("sent", "requests that were sent"),
    ("answered", "requests that succeeded"),
    (
        "answers/s",
        "the achieved rate: successful answers a second, until --seconds are over and all are answered",
    ),
    (
        "p50",
        "latency that half of the answered requests stay below or at, from the time at which they were to start",
    ),
    ("p90", "the same of 90 %"),
    ("p99", "the same of 99 %"),
    ("p99.9", "the same of 99.9 %"),
    ("max", "the longest latency"),
    (
        "late",
        "requests that this side sent more than 1 ms after their time; if many, it is the bottleneck",
    ),
    ("failed", "requests that failed, by gRPC code"),
];

/// Measures the server at `address` and prints the result.
pub(super) async fn run(args: &BenchServeArgs, address: &str, rate: f64, asked: Asked) -> Result<(), CliError> {
    let mut connections = Vec::new();
    for _ in 0..args.connections {
        connections.push(connect_classifier(address).await?);
    }
    let length = Duration::from_secs_f64(args.seconds);
    let schedule = args.arrivals().schedule(rate, length);
    if schedule.is_empty() {
        return Err(CliError::Usage(format!(
            "no request falls into {} seconds at a rate of {rate}; raise --seconds or --rate",
            args.seconds
        )));
    }
    let waiting = spinner("open loop");
    let traffic = Arc::new(Traffic {
        connections,
        asked,
        noted: AtomicBool::new(false),
    });
    let summary = run_open_loop(schedule, length, traffic).await?;
    waiting.finish_and_clear();
    report(args, rate, &summary)?;
    match summary.answered() {
        0 => Err(CliError::Failed(format!(
            "none of {} requests was answered",
            summary.sent
        ))),
        _ => Ok(()),
    }
}

fn report(args: &BenchServeArgs, rate: f64, summary: &OpenLoopSummary) -> Result<(), CliError> {
    let quantiles = [0.5, 0.9, 0.99, 0.999, 1.0].map(|share| summary.quantile(share));
    if args.json {
        let [p50, p90, p99, p99_9, max] = quantiles.map(|time| time.as_secs_f64() * 1e3);
        let seed = matches!(args.arrivals, ArrivalsArg::Poisson).then_some(args.seed);
        return print_json(&json!({
            "rate": rate, "arrivals": name_of(&args.arrivals), "seed": seed, "seconds": args.seconds,
            "sent": summary.sent, "answered": summary.answered(), "achieved_per_second": summary.achieved_per_second(),
            "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "p99_9_ms": p99_9, "max_ms": max, "late": summary.late,
            "failed": summary.failures,
        }));
    }
    let [p50, p90, p99, p99_9, max] = quantiles.map(ms);
    let mut rows = BenchTable::new(&COLUMNS);
    rows.add([
        format!("{rate} {}", name_of(&args.arrivals)),
        summary.sent.to_string(),
        summary.answered().to_string(),
        format!("{:.1}", summary.achieved_per_second()),
        p50,
        p90,
        p99,
        p99_9,
        max,
        summary.late.to_string(),
        failures_cell(&summary.failures),
    ]);
    rows.print()
}

/// The pictures in turn, on the connections in turn.
struct Traffic {
    connections: Vec<Classifier>,
    asked: Asked,
    /// Whether a failure was told, of which the others may be like.
    noted: AtomicBool,
}

impl OpenWorkload for Traffic {
    async fn call(&self, index: usize) -> Result<(), Code> {
        let mut client = self.connections[index % self.connections.len()].clone();
        let Err(status) = client.classify(self.asked.request(index as u64)).await else {
            return Ok(());
        };
        if !self.noted.swap(true, Ordering::Relaxed) {
            note(describe_status(&status));
        }
        Err(status.code())
    }
}
