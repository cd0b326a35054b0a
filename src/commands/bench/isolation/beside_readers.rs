//! Unary calls beside streams whose clients do not read, or read a byte a second.

use std::time::{Duration, Instant};

use headswap_loadtest::{ClientThreads, ServerProcess};
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyStreamRequest};
use serde_json::json;
use tonic::Code;

use super::BenchIsolationArgs;
use super::gauges::Gauges;
use super::unary_calls::{UnaryCalls, UnaryClient};
use super::unread_stream::{Reading, Received, UnreadStream};
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::error::CliError;
use crate::commands::output::{bytes, ms, print_json, print_line, spinner};

const CALL_COLUMNS: [Column; 10] = [
    (
        "unary calls beside",
        "streams whose clients read nothing, or a byte a second",
    ),
    ("answered", "unary calls that were answered"),
    ("refused", "unary calls that got an error"),
    ("p50", "latency that half of the unary calls stay below or at"),
    ("p99", "latency that 99 % of the unary calls stay below or at"),
    ("max", "their longest latency"),
    ("longest batch", "the longest forward pass that any answer was part of"),
    ("own pass", "median forward pass of the unary calls' own batches"),
    (
        "p99 of wait",
        "p99 of latency divided by the longest batch and the call's own: what it may have to wait for",
    ),
    ("max of wait", "the largest such ratio"),
];

const SERVER_COLUMNS: [Column; 7] = [
    (
        "the server beside",
        "streams whose clients read nothing, or a byte a second",
    ),
    ("memory before", "resident memory before the streams"),
    ("with the streams", "resident memory when the unary calls had ended"),
    ("after their deadline", "resident memory when the streams had ended"),
    (
        "answers they got",
        "answers that the streams' clients received in the end",
    ),
    (
        "in flight",
        "requests that the server still counts as under way then; 0 is right",
    ),
    ("queued", "the same of those that wait"),
];

/// What was measured beside readers of one kind.
pub(super) struct BesideReaders {
    reading: Reading,
    calls: UnaryCalls,
    /// Of the unary calls, how many were to be answered.
    asked: u64,
    /// Resident memory of the server before the streams, after the unary calls, and after the streams' deadline.
    resident: [u64; 3],
    received: Vec<Received>,
    /// Whether the streams' deadline passed before the unary calls were over.
    too_short: bool,
    /// After the streams' deadline.
    gauges: Gauges,
}

impl BesideReaders {
    pub async fn measure(
        args: &BenchIsolationArgs,
        server: &ServerProcess,
        pictures: &[Input],
        reading: Reading,
    ) -> Result<Self, CliError> {
        let waiting = spinner("unary calls beside streams that are not read");
        let client = UnaryClient::connect(server.address(), pictures).await?;
        let before = server.resident_bytes();
        let crowd = ClientThreads::new()?;
        let mut streams = Vec::new();
        for _ in 0..args.stalled {
            let requests = requests(args.requests, pictures);
            let stream = UnreadStream::start(server.address().to_owned(), requests, args.stall_seconds, reading);
            streams.push(crowd.run(stream).await?);
        }
        let deadline = Instant::now() + Duration::from_secs(args.stall_seconds);

        let calls = client.run(args.unary).await?;
        let middle = server.resident_bytes();
        let too_short = Instant::now() >= deadline;

        tokio::time::sleep_until(deadline.into()).await;
        let gauges = Gauges::once_idle(server).await?;
        let resident = [before, middle, server.resident_bytes()];
        let mut received = Vec::new();
        for stream in streams {
            received.push(stream.read_all().await?);
        }
        waiting.finish_and_clear();
        Ok(Self {
            reading,
            calls,
            asked: args.unary,
            resident,
            received,
            too_short,
            gauges,
        })
    }

    /// What must not be.
    pub fn complaints(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let name = self.name();
        if self.calls.answered() != self.asked {
            let missing = self.asked - self.calls.answered();
            wrong.push(format!(
                "beside {name}, {missing} of {} unary calls were not answered",
                self.asked
            ));
        }
        if self.too_short {
            wrong.push(format!(
                "the deadline of {name} passed before the unary calls were over; raise --stall-seconds"
            ));
        }
        if !self.gauges.is_idle() {
            wrong.push(format!("requests of {name} are still under way after their deadline"));
        }
        if let Some(stream) = self
            .received
            .iter()
            .find(|stream| stream.code != Code::DeadlineExceeded)
        {
            wrong.push(format!(
                "one of {name} ended with {:?}, not at its deadline",
                stream.code
            ));
        }
        wrong
    }

    fn name(&self) -> &'static str {
        match self.reading {
            Reading::Nothing => "streams that read nothing",
            Reading::Slowly => "streams that read a byte a second",
        }
    }

    /// The longest forward pass that any answer was part of.
    fn longest(&self) -> Duration {
        let streams = self.received.iter().map(|stream| stream.longest);
        streams.max().unwrap_or_default().max(self.calls.longest_own())
    }
}

/// Prints what was measured beside each kind of readers.
pub(super) fn report(measured: &[BesideReaders], json: bool) -> Result<(), CliError> {
    let (mut calls, mut server) = (BenchTable::new(&CALL_COLUMNS), BenchTable::new(&SERVER_COLUMNS));
    // Readers of single bytes see hardly any answer, so what the others saw of the same batches counts for them, too.
    let longest = measured.iter().map(BesideReaders::longest).max().unwrap_or_default();
    for beside in measured {
        let seen = &beside.calls;
        let [before, middle, after] = beside.resident;
        let received: u64 = beside.received.iter().map(|stream| stream.answers).sum();
        let (ratio_p99, ratio_max) = (seen.ratio(longest, 0.99), seen.ratio(longest, 1.0));
        if json {
            print_json(&json!({
                "beside": beside.name(), "streams": beside.received.len(),
                "answered": seen.answered(), "refused": seen.refused,
                "p50_ms": seen.latency_ms(0.5), "p99_ms": seen.latency_ms(0.99),
                "max_ms": seen.latency_ms(1.0), "longest_batch_ms": longest.as_secs_f64() * 1e3,
                "own_pass_ms": seen.own().as_secs_f64() * 1e3, "latency_ratio_p99": ratio_p99, "latency_ratio_max": ratio_max,
                "resident_bytes": [before, middle, after], "answers_to_streams": received,
                "in_flight_after": beside.gauges.in_flight, "queue_length_after": beside.gauges.queue_length,
            }))?;
            continue;
        }
        calls.add([
            format!("{} {}", beside.received.len(), beside.name()),
            seen.answered().to_string(),
            seen.refused.to_string(),
            ms(seen.latency(0.5)),
            ms(seen.latency(0.99)),
            ms(seen.latency(1.0)),
            ms(longest),
            ms(seen.own()),
            format!("{ratio_p99:.2}"),
            format!("{ratio_max:.2}"),
        ]);
        server.add([
            format!("{} {}", beside.received.len(), beside.name()),
            bytes(before),
            bytes(middle),
            bytes(after),
            received.to_string(),
            beside.gauges.in_flight.to_string(),
            beside.gauges.queue_length.to_string(),
        ]);
    }
    if json {
        return Ok(());
    }
    calls.print()?;
    print_line("")?;
    server.print()?;
    print_line("")
}

fn requests(count: usize, pictures: &[Input]) -> Vec<ClassifyStreamRequest> {
    let mut requests = Vec::with_capacity(count);
    for index in 0..count {
        requests.push(ClassifyStreamRequest {
            request: Some(ClassifyRequest {
                input: Some(pictures[index % pictures.len()].clone()),
                request_id: index.to_string(),
                ..ClassifyRequest::default()
            }),
        });
    }
    requests
}
