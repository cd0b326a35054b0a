//! `headswap bench serve`: a server under load, beside the bare forward pass in the same run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use headswap_client::describe_status;
use headswap_image::{self as image, ImageSettings};
use headswap_loadtest::{LoadSummary, PHOTOGRAPHS, ServerProcess, Workload, run_load};
use headswap_model::{BackendChoice, TorchRuntime};
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyResponse, DescribeModelRequest};
use serde_json::json;
use tonic::Status;

use super::bare_forward::BareForward;
use crate::commands::bench::ModelArgs;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, ms, print_json, print_table, spinner, table};

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchServeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Clients at the same time
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    concurrency: Vec<usize>,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Measurements of each concurrency; the medians are shown
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Send raw pixels instead of JPEG files
    #[arg(long)]
    pixels: bool,
    /// Pictures in a batch at most; 0 lets the server measure
    #[arg(long, default_value_t = 0)]
    max_batch: usize,
    /// Over a Unix socket instead of TCP
    #[arg(long)]
    unix: bool,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: BenchServeArgs, torch: Option<&'static dyn TorchRuntime>) -> Result<(), CliError> {
    let waiting = spinner("starting a server");
    let server = ServerProcess::start(args.server_flags()).await?;
    let model = server
        .admin()
        .await?
        .describe_model(DescribeModelRequest::default())
        .await?
        .into_inner();
    let null = args.model.backend == BackendChoice::Null;
    let bare = if null {
        None
    } else {
        Some(BareForward::load(&args.model, torch)?)
    };
    waiting.finish_and_clear();

    let length = Duration::from_secs_f64(args.seconds);
    let pixels = null || args.pixels;
    let pictures = args.pictures(pixels)?;
    let mut measured = Vec::new();
    for &concurrency in &args.concurrency {
        // A lone client's batches have one picture; of many, the server's full batch.
        let batch = (model.max_batch as usize).min(concurrency).max(1);
        let mut runs = Vec::new();
        for _ in 0..args.repetitions.max(1) {
            // Before and after, so that a drifting machine's mean is compared.
            let without_server = || -> Result<_, CliError> {
                let Some(bare) = &bare else { return Ok(None) };
                let forward = bare.measure(batch, length / 4)?.mean();
                let local = match concurrency {
                    1 => Some(bare.measure_pictures(&pictures, length / 4)?.median()),
                    _ => None,
                };
                Ok(Some((forward, local)))
            };
            let before = without_server()?;
            let mut run = Run::measure(&server, &pictures, concurrency, length).await?;
            if let Some(((forward, local), (forward_after, local_after))) = before.zip(without_server()?) {
                run.forward = Some((forward + forward_after) / 2);
                run.local = local.zip(local_after).map(|(before, after)| (before + after) / 2);
            }
            runs.push(run);
        }
        measured.push((concurrency, batch, runs));
    }
    args.report(&measured, server.resident_bytes());
    match server.stop().await?.success() {
        true => Ok(()),
        false => Err(CliError::Failed("the server did not end well".into())),
    }
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

    /// What clients send: the photographs that are JPEG files, or their pixels.
    fn pictures(&self, pixels: bool) -> Result<Vec<Input>, CliError> {
        let jpegs = PHOTOGRAPHS.iter().filter(|(name, _)| name.ends_with(".jpg"));
        jpegs
            .map(|(_, jpeg)| {
                if !pixels {
                    return Ok(Input::Image(bytes::Bytes::from_static(jpeg)));
                }
                let decoded = image::decode(jpeg, ImageSettings::default());
                let decoded = decoded.map_err(|error| CliError::Failed(error.to_string()))?;
                Ok(Input::Pixels(decoded.as_bytes().to_vec().into()))
            })
            .collect()
    }

    fn report(&self, measured: &[(usize, usize, Vec<Run>)], resident: u64) {
        let headings = [
            "clients",
            "batch",
            "images/s",
            "p50",
            "p99",
            "CPU µs/request",
            "bare ms/image",
            "served/bare",
            "over decode+forward",
        ];
        let mut rows = table(&headings);
        for (concurrency, batch, runs) in measured {
            let median = |value: &dyn Fn(&Run) -> f64| {
                let mut values: Vec<f64> = runs.iter().map(value).collect();
                values.sort_unstable_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let rate = median(&|run| run.load.per_second());
            let (p50, p99) = (median(&|run| run.p(0.5)), median(&|run| run.p(0.99)));
            let cpu = median(&|run| run.cpu_us);
            let forward = median(&|run| run.forward.map_or(f64::NAN, |time| time.as_secs_f64()));
            let ratio = median(&|run| {
                run.forward
                    .map_or(f64::NAN, |time| time.as_secs_f64() * run.load.per_second())
            });
            // Only a lone client's latency is one picture decoded, one forward pass, and what the server adds.
            let over = median(&|run| run.over_local().unwrap_or(f64::NAN));
            if self.json {
                print_json(
                    &json!({ "clients": concurrency, "batch": batch, "images_per_second": rate,
                    "p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3, "cpu_us_per_request": cpu,
                    "bare_ms_per_image": forward * 1e3, "served_to_bare": ratio, "over_decode_and_forward_ms": over * 1e3,
                    "server_resident_bytes": resident }),
                );
            }
            let optional = |value: f64, digits: usize| {
                if value.is_nan() {
                    "-".into()
                } else {
                    format!("{value:.digits$}")
                }
            };
            rows.add_row([
                concurrency.to_string(),
                batch.to_string(),
                format!("{rate:.1}"),
                ms(Duration::from_secs_f64(p50)),
                ms(Duration::from_secs_f64(p99)),
                format!("{cpu:.0}"),
                optional(forward * 1e3, 1),
                optional(ratio, 3),
                if over.is_nan() {
                    "-".into()
                } else {
                    format!("{:.2} ms", over * 1e3)
                },
            ]);
        }
        if !self.json {
            print_table(&rows);
            println!("server's resident memory after the load: {}", bytes(resident));
        }
    }
}

/// One load and what it cost.
struct Run {
    load: LoadSummary,
    cpu_us: f64,
    /// The bare forward pass for one image, before and after.
    forward: Option<Duration>,
    /// For a lone client, a picture decoded and run without a server, before and after.
    local: Option<Duration>,
}

impl Run {
    async fn measure(
        server: &ServerProcess,
        pictures: &[Input],
        concurrency: usize,
        length: Duration,
    ) -> Result<Self, CliError> {
        let clients = server.classifiers(concurrency).await?;
        let failures = Arc::new(AtomicU64::new(0));
        let endless = Endless {
            pictures: pictures.to_vec(),
            end: Instant::now() + length,
            failures: failures.clone(),
        };
        let cpu = server.cpu_seconds();
        let load = run_load(clients, Arc::new(endless)).await?;
        let cpu_us = (server.cpu_seconds() - cpu) * 1e6 / load.answers().max(1) as f64;
        match failures.load(Ordering::Relaxed) {
            0 => Ok(Self {
                load,
                cpu_us,
                forward: None,
                local: None,
            }),
            failed => Err(CliError::Failed(format!(
                "{failed} of {} requests failed",
                load.answers()
            ))),
        }
    }

    /// The median latency beyond decoding and the forward pass, in seconds.
    fn over_local(&self) -> Option<f64> {
        Some(self.p(0.5) - self.local?.as_secs_f64())
    }

    fn p(&self, share: f64) -> f64 {
        self.load.quantile(share).as_secs_f64()
    }
}

/// The pictures in turn, until the time is over.
struct Endless {
    pictures: Vec<Input>,
    end: Instant,
    failures: Arc<AtomicU64>,
}

impl Workload for Endless {
    fn next(&self, index: u64) -> Option<ClassifyRequest> {
        let input = self.pictures[index as usize % self.pictures.len()].clone();
        (Instant::now() < self.end).then(|| ClassifyRequest {
            input: Some(input),
            ..ClassifyRequest::default()
        })
    }

    fn check(&self, _: u64, _: Instant, answer: Result<ClassifyResponse, Status>) {
        if let Err(status) = answer
            && self.failures.fetch_add(1, Ordering::Relaxed) == 0
        {
            eprintln!("headswap: {}", describe_status(&status));
        }
    }
}
