//! A server of its own under load, beside the bare forward pass in the same run.

use std::time::Duration;

use headswap_loadtest::ServerProcess;
use headswap_model::{BackendChoice, TorchRuntime};
use serde_json::json;

use super::asked::Asked;
use super::closed::{ClosedLoop, median};
use super::{BenchServeArgs, open};
use crate::commands::bench::bare_forward::BareForward;
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::bench::machine::Machine;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, ms, print_json, print_line, spinner};

const COLUMNS: [Column; 9] = [
    ("clients", "each sends its next request when its last is answered"),
    (
        "batch",
        "pictures computed together at most, which the bare forward pass computes, too",
    ),
    (
        "images/s",
        "answers a second of all clients, median of the repetitions, as all that follows",
    ),
    ("p50", "latency that half of the requests stay below or at"),
    ("p99", "latency that 99 % of the requests stay below or at"),
    ("CPU µs/request", "CPU time of the server for a request"),
    (
        "bare ms/image",
        "time of the forward pass for one picture of such a batch, without a server",
    ),
    (
        "served/bare",
        "images/s divided by those of the bare forward pass; 1 if the server costs nothing",
    ),
    (
        "over decode+forward",
        "of a lone client: p50 less decoding and forward pass without a server",
    ),
];

pub(super) async fn run(
    args: &BenchServeArgs,
    asked: Asked,
    torch: Option<&'static dyn TorchRuntime>,
) -> Result<(), CliError> {
    let waiting = spinner("starting a server");
    let server = ServerProcess::start(args.server_flags()).await?;
    let model = server.model().await?;
    waiting.finish_and_clear();
    let machine = Machine::serving(&args.model.backend(), &model);
    if args.json {
        machine.print_json()?;
    }
    match args.rate {
        Some(rate) => open::run(args, server.address(), rate, asked).await?,
        None => {
            let null = args.model.backend == BackendChoice::Null;
            let bare = (!null).then(|| BareForward::load(&args.model, torch)).transpose()?;
            closed(args, &server, model.max_batch as usize, &asked, bare.as_ref()).await?;
        }
    }
    if !args.json {
        machine.print()?;
    }
    match server.stop().await?.success() {
        true => Ok(()),
        false => Err(CliError::Failed("the server's exit code is not 0".into())),
    }
}

async fn closed(
    args: &BenchServeArgs,
    server: &ServerProcess,
    max_batch: usize,
    asked: &Asked,
    bare: Option<&BareForward>,
) -> Result<(), CliError> {
    let length = Duration::from_secs_f64(args.seconds);
    let mut measured = Vec::new();
    for &concurrency in &args.concurrency {
        // A lone client's batches have one picture; of many, the server's full batch.
        let batch = max_batch.min(concurrency).max(1);
        let mut runs = Vec::new();
        for _ in 0..args.repetitions.max(1) {
            // Before and after, so that a drifting machine's mean is compared.
            let before = Bare::measure(bare, batch, concurrency, asked, length / 4)?;
            let mut run = Run::measure(server, asked, concurrency, length).await?;
            let after = Bare::measure(bare, batch, concurrency, asked, length / 4)?;
            run.bare = before.zip(after).map(|(before, after)| before.mean(after));
            runs.push(run);
        }
        measured.push((concurrency, batch, runs));
    }
    args.report(&measured, server.resident_bytes())
}

impl BenchServeArgs {
    fn server_flags(&self) -> Vec<String> {
        let mut flags = self.model.server_flags();
        flags.extend(["--max-batch".to_owned(), self.max_batch.to_string()]);
        // The load is to be served, not refused.
        let in_flight = self.concurrency.iter().copied().max().unwrap_or(1).max(256);
        flags.extend(["--in-flight-max".to_owned(), in_flight.to_string()]);
        if self.unix {
            let path = std::env::temp_dir().join(format!("headswap-{}.sock", std::process::id()));
            flags.extend(["--listen".to_owned(), format!("unix:{}", path.display())]);
        }
        flags
    }

    fn report(&self, measured: &[(usize, usize, Vec<Run>)], resident: u64) -> Result<(), CliError> {
        let mut rows = BenchTable::new(&COLUMNS);
        for (concurrency, batch, runs) in measured {
            let row = Row::of(*concurrency, *batch, runs);
            if self.json {
                row.print_json(resident)?;
            }
            rows.add(row.cells());
        }
        if self.json {
            return Ok(());
        }
        rows.print()?;
        print_line(format_args!(
            "\nserver's resident memory after the load: {}",
            bytes(resident)
        ))
    }
}

/// Medians over the repetitions with one number of clients; times in seconds, NaN where there is none.
struct Row {
    concurrency: usize,
    batch: usize,
    rate: f64,
    p50: f64,
    p99: f64,
    cpu_us: f64,
    forward: f64,
    ratio: f64,
    over: f64,
}

impl Row {
    fn of(concurrency: usize, batch: usize, runs: &[Run]) -> Self {
        Self {
            concurrency,
            batch,
            rate: median(runs, |run| run.closed.load.per_second()),
            p50: median(runs, |run| run.closed.quantile_s(0.5)),
            p99: median(runs, |run| run.closed.quantile_s(0.99)),
            cpu_us: median(runs, |run| run.cpu_us),
            forward: median(runs, Run::forward),
            ratio: median(runs, |run| run.forward() * run.closed.load.per_second()),
            // Only a lone client's latency is one picture decoded, one forward pass, and what the server adds.
            over: median(runs, Run::over_local),
        }
    }

    fn print_json(&self, resident: u64) -> Result<(), CliError> {
        print_json(
            &json!({ "clients": self.concurrency, "batch": self.batch, "images_per_second": self.rate,
            "p50_ms": self.p50 * 1e3, "p99_ms": self.p99 * 1e3, "cpu_us_per_request": self.cpu_us,
            "bare_ms_per_image": self.forward * 1e3, "served_to_bare": self.ratio,
            "over_decode_and_forward_ms": self.over * 1e3, "server_resident_bytes": resident }),
        )
    }

    fn cells(&self) -> [String; 9] {
        [
            self.concurrency.to_string(),
            self.batch.to_string(),
            format!("{:.1}", self.rate),
            ms(Duration::from_secs_f64(self.p50)),
            ms(Duration::from_secs_f64(self.p99)),
            format!("{:.0}", self.cpu_us),
            optional(self.forward * 1e3, 1, ""),
            optional(self.ratio, 3, ""),
            optional(self.over * 1e3, 2, " ms"),
        ]
    }
}

fn optional(value: f64, digits: usize, unit: &str) -> String {
    if value.is_nan() {
        return "-".to_owned();
    }
    format!("{value:.digits$}{unit}")
}

/// What the same takes without a server.
#[derive(Clone, Copy)]
struct Bare {
    /// The forward pass for one picture.
    forward: Duration,
    /// For a lone client, a picture decoded and computed.
    local: Option<Duration>,
}

impl Bare {
    fn measure(
        bare: Option<&BareForward>,
        batch: usize,
        concurrency: usize,
        asked: &Asked,
        length: Duration,
    ) -> Result<Option<Self>, CliError> {
        let Some(bare) = bare else { return Ok(None) };
        let forward = bare.measure(batch, length)?.mean();
        let local = match concurrency {
            1 => Some(bare.measure_pictures(&asked.pictures, length)?.median()),
            _ => None,
        };
        Ok(Some(Self { forward, local }))
    }

    fn mean(self, other: Self) -> Self {
        Self {
            forward: (self.forward + other.forward) / 2,
            local: self.local.zip(other.local).map(|(one, two)| (one + two) / 2),
        }
    }
}

/// One load and what it cost.
struct Run {
    closed: ClosedLoop,
    cpu_us: f64,
    /// The mean of before and after.
    bare: Option<Bare>,
}

impl Run {
    async fn measure(
        server: &ServerProcess,
        asked: &Asked,
        concurrency: usize,
        length: Duration,
    ) -> Result<Self, CliError> {
        let clients = server.classifiers(concurrency).await?;
        let cpu = server.cpu_seconds();
        let closed = ClosedLoop::run(clients, asked, length).await?;
        let answers = closed.load.answers();
        let cpu_us = (server.cpu_seconds() - cpu) * 1e6 / answers.max(1) as f64;
        match closed.failed() {
            0 => Ok(Self {
                closed,
                cpu_us,
                bare: None,
            }),
            failed => Err(CliError::Failed(format!("{failed} of {answers} requests failed"))),
        }
    }

    /// The bare forward pass for one picture, in seconds.
    fn forward(&self) -> f64 {
        self.bare.map_or(f64::NAN, |bare| bare.forward.as_secs_f64())
    }

    /// The median latency beyond decoding and the forward pass, in seconds.
    fn over_local(&self) -> f64 {
        let local = self.bare.and_then(|bare| bare.local);
        local.map_or(f64::NAN, |local| self.closed.quantile_s(0.5) - local.as_secs_f64())
    }
}
