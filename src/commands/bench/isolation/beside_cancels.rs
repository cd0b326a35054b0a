//! Clients whose calls are answered beside others that give up at random moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headswap_client::Classifier;
use headswap_loadtest::ServerProcess;
use headswap_proto::ClassifyRequest;
use headswap_proto::classify_request::Input;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::BenchIsolationArgs;
use super::gauges::Gauges;
use super::unary_calls::{UnaryCalls, Until};
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::error::CliError;
use crate::commands::output::{bytes, ms, print_json, print_line, progress};

/// Clients whose calls are answered.
const STEADY: usize = 3;
/// Connections whose calls are cancelled, and how many calls each has open.
const CONNECTIONS: usize = 8;
const CALLS_OPEN: usize = 8;
/// A call is cancelled before it is as old as this.
const PATIENCE_MAX: Duration = Duration::from_millis(60);

const COLUMNS: [Column; 10] = [
    (
        "clients beside",
        "clients that wait for their answers, beside calls that are cancelled",
    ),
    ("answered", "calls of those clients that were answered"),
    ("failed", "calls of those clients that got an error"),
    ("p50", "latency that half of their calls stay below or at"),
    ("p99", "latency that 99 % of their calls stay below or at"),
    ("max", "their longest latency"),
    ("memory before", "the server's resident memory before"),
    ("after", "the server's resident memory after"),
    (
        "in flight",
        "requests that the server still counts as under way when all have ended; 0 is right",
    ),
    ("queued", "the same of those that wait"),
];

/// What was measured beside calls that were cancelled.
pub(super) struct BesideCancels {
    steady: UnaryCalls,
    /// How the other calls ended.
    cancelled: u64,
    answered: u64,
    failed: u64,
    elapsed: Duration,
    /// Resident memory of the server before and after them.
    resident: [u64; 2],
    gauges: Gauges,
}

/// Calls that are cancelled at random moments.
struct Cancels {
    pictures: Vec<Input>,
    /// How many are to be made, and have been.
    count: u64,
    made: AtomicU64,
    cancelled: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl BesideCancels {
    pub async fn measure(
        args: &BenchIsolationArgs,
        server: &ServerProcess,
        pictures: &[Input],
    ) -> Result<Self, CliError> {
        let (stopped, before, began) = (Arc::<AtomicBool>::default(), server.resident_bytes(), Instant::now());
        let clients = server.classifiers(STEADY).await?;
        let (until, steady_pictures) = (Until::Stopped(Arc::clone(&stopped)), pictures.to_vec());
        let steady = tokio::spawn(async move { UnaryCalls::run(clients, &steady_pictures, until).await });

        let cancels = Arc::new(Cancels {
            pictures: pictures.to_vec(),
            count: args.cancels,
            made: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let bar = progress(args.cancels, "calls that are cancelled");
        let mut running = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let client = server.classifier().await?;
            for _ in 0..CALLS_OPEN {
                running.spawn(Arc::clone(&cancels).run(client.clone(), bar.clone()));
            }
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|error| CliError::Failed(format!("a client stopped: {error}")))?;
        }
        bar.finish_and_clear();
        stopped.store(true, Ordering::Relaxed);
        let steady = steady.await;
        Ok(Self {
            steady: steady.map_err(|error| CliError::Failed(format!("a client stopped: {error}")))??,
            cancelled: cancels.cancelled.load(Ordering::Relaxed),
            answered: cancels.answered.load(Ordering::Relaxed),
            failed: cancels.failed.load(Ordering::Relaxed),
            elapsed: began.elapsed(),
            gauges: Gauges::once_idle(server).await?,
            resident: [before, server.resident_bytes()],
        })
    }

    /// What must not be.
    pub fn complaints(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.steady.refused > 0 {
            wrong.push(format!(
                "beside calls that were cancelled, {} others failed",
                self.steady.refused
            ));
        }
        if self.failed > 0 {
            wrong.push(format!("{} calls failed before they were cancelled", self.failed));
        }
        if !self.gauges.is_idle() {
            wrong.push("requests that were cancelled are still under way".into());
        }
        wrong
    }

    pub fn report(&self, json: bool) -> Result<(), CliError> {
        let Self {
            steady,
            cancelled,
            answered,
            elapsed,
            gauges,
            ..
        } = self;
        let [before, after] = self.resident;
        if json {
            return print_json(&json!({
                "beside": "calls that are cancelled", "cancelled": cancelled, "answered_before": answered,
                "seconds": elapsed.as_secs_f64(), "steady_clients": STEADY, "answered": steady.answered(),
                "failed": steady.refused, "p50_ms": steady.latency_ms(0.5), "p99_ms": steady.latency_ms(0.99),
                "max_ms": steady.latency_ms(1.0), "resident_bytes": [before, after], "in_flight_after": gauges.in_flight,
                "queue_length_after": gauges.queue_length,
            }));
        }
        let mut rows = BenchTable::new(&COLUMNS);
        rows.add([
            format!(
                "{STEADY} clients, {cancelled} cancelled calls in {:.0} s",
                elapsed.as_secs_f64()
            ),
            steady.answered().to_string(),
            steady.refused.to_string(),
            ms(steady.latency(0.5)),
            ms(steady.latency(0.99)),
            ms(steady.latency(1.0)),
            bytes(before),
            bytes(after),
            gauges.in_flight.to_string(),
            gauges.queue_length.to_string(),
        ]);
        rows.print()?;
        print_line("")
    }
}

impl Cancels {
    /// Makes one call after the other until all have been made.
    async fn run(self: Arc<Self>, mut client: Classifier, bar: indicatif::ProgressBar) {
        loop {
            let index = self.made.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                return;
            }
            let request = ClassifyRequest {
                input: Some(self.pictures[index as usize % self.pictures.len()].clone()),
                ..ClassifyRequest::default()
            };
            let answer = tokio::time::timeout(patience(index), client.classify(request)).await;
            self.count_end(answer.map(|answer| answer.map(drop)));
            bar.inc(1);
        }
    }

    fn count_end(&self, end: Result<Result<(), Status>, tokio::time::error::Elapsed>) {
        let counter = match end {
            Err(_) => &self.cancelled,
            Ok(Ok(())) => &self.answered,
            // That of a call that was given no time at all may be told so by its own side.
            Ok(Err(status)) if status.code() == Code::Cancelled => &self.cancelled,
            Ok(Err(_)) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long a call may take: spread evenly, the same in each run (Knuth's multiplicative hash).
fn patience(index: u64) -> Duration {
    let part = (index as u32).wrapping_mul(2_654_435_761) as f64 / f64::from(u32::MAX);
    PATIENCE_MAX.mul_f64(part)
}
