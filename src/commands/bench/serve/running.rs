//! A server that runs already, measured as its clients see it.

use std::collections::BTreeMap;
use std::time::Duration;

use headswap_client::{connect_admin, connect_classifier};
use headswap_loadtest::connect_clients;
use headswap_proto::{DescribeModelRequest, DescribeModelResponse};
use serde_json::json;

use super::BenchServeArgs;
use super::asked::Asked;
use super::closed::{ClosedLoop, failures_cell, median};
use super::open;
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::bench::machine::Machine;
use crate::commands::error::CliError;
use crate::commands::output::{ms, print_json, progress};

const COLUMNS: [Column; 8] = [
    ("clients", "each sends its next request when its last is answered"),
    ("requests", "answers of all repetitions, failures included"),
    ("images/s", "answers a second of all clients, median of the repetitions"),
    (
        "p50",
        "latency that half of the requests stay below or at, median of the repetitions",
    ),
    ("p90", "the same of 90 %"),
    ("p99", "the same of 99 %"),
    ("max", "the longest latency of all repetitions"),
    ("failed", "requests that failed, by gRPC code"),
];

pub(super) async fn run(args: &BenchServeArgs, address: &str, asked: Asked) -> Result<(), CliError> {
    let model = match &args.admin_address {
        Some(admin) => Some(describe(admin).await?),
        None => None,
    };
    // What is wrong with the head or a picture is reported before a load of failures.
    let client = connect_classifier(address).await;
    let mut client = client.map_err(|error| CliError::unreachable(error, "--address"))?;
    client.classify(asked.request(0)).await?;

    let machine = Machine::asking(address, model.as_ref());
    if args.json {
        machine.print_json()?;
    }
    let measured = match args.rate {
        Some(rate) => open::run(args, address, rate, asked).await,
        None => closed(args, address, &asked).await,
    };
    if !args.json {
        machine.print()?;
    }
    measured
}

async fn describe(admin: &str) -> Result<DescribeModelResponse, CliError> {
    let client = connect_admin(admin).await;
    let mut client = client.map_err(|error| CliError::unreachable(error, "--admin-address"))?;
    Ok(client
        .describe_model(DescribeModelRequest::default())
        .await?
        .into_inner())
}

async fn closed(args: &BenchServeArgs, address: &str, asked: &Asked) -> Result<(), CliError> {
    let length = Duration::from_secs_f64(args.seconds);
    let repetitions = args.repetitions.max(1);
    let bar = progress((args.concurrency.len() * repetitions) as u64, "closed loop");
    let mut rows = BenchTable::new(&COLUMNS);
    let (mut requests, mut failed) = (0, 0);
    for &clients in &args.concurrency {
        let mut runs = Vec::new();
        for _ in 0..repetitions {
            let clients = connect_clients(address, clients.max(1)).await?;
            runs.push(ClosedLoop::run(clients, asked, length).await?);
            bar.inc(1);
        }
        let row = Row::of(clients, &runs);
        requests += row.requests;
        failed += row.failures.values().sum::<usize>();
        if args.json {
            row.print_json()?;
        }
        rows.add(row.cells());
    }
    bar.finish_and_clear();
    if !args.json {
        rows.print()?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(CliError::Failed(format!("{failed} of {requests} requests failed"))),
    }
}

/// The repetitions with one number of clients.
struct Row {
    clients: usize,
    requests: usize,
    per_second: f64,
    /// p50, p90, p99 and the longest, in seconds.
    latencies: [f64; 4],
    failures: BTreeMap<String, usize>,
}

impl Row {
    fn of(clients: usize, runs: &[ClosedLoop]) -> Self {
        let (mut requests, mut longest, mut failures) = (0, 0.0, BTreeMap::new());
        for run in runs {
            requests += run.load.answers();
            longest = run.quantile_s(1.0).max(longest);
            for (code, count) in &run.failures {
                *failures.entry(code.clone()).or_default() += count;
            }
        }
        Self {
            clients,
            requests,
            per_second: median(runs, |run| run.load.per_second()),
            latencies: [
                median(runs, |run| run.quantile_s(0.5)),
                median(runs, |run| run.quantile_s(0.9)),
                median(runs, |run| run.quantile_s(0.99)),
                longest,
            ],
            failures,
        }
    }

    fn print_json(&self) -> Result<(), CliError> {
        let [p50, p90, p99, max] = self.latencies.map(|seconds| seconds * 1e3);
        print_json(&json!({
            "clients": self.clients, "requests": self.requests, "images_per_second": self.per_second,
            "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": max, "failed": self.failures,
        }))
    }

    fn cells(&self) -> [String; 8] {
        let [p50, p90, p99, max] = self.latencies.map(|seconds| ms(Duration::from_secs_f64(seconds)));
        [
            self.clients.to_string(),
            self.requests.to_string(),
            format!("{:.1}", self.per_second),
            p50,
            p90,
            p99,
            max,
            failures_cell(&self.failures),
        ]
    }
}
