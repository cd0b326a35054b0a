//! `headswap bench heads`: many heads on one backbone, beside one head or those that fit on the device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use headswap_client::{Admin, describe_status};
use headswap_loadtest::{
    KnownHead, LoadSummary, PHOTOGRAPHS, ServerProcess, SplitMix64, Workload, difference, run_load, tolerance,
};
use headswap_proto::classify_request::Input;
use headswap_proto::replace_head_request::Source;
use headswap_proto::{ClassifyRequest, ClassifyResponse, EmbedRequest, ReplaceHeadRequest, embed_request};
use headswap_spec::Architecture;
use serde_json::json;
use tonic::Status;

use super::legend::{BenchTable, Column};
use super::machine::Machine;
use crate::commands::bench::ModelArgs;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, ms, note, print_json, print_line, progress, spinner};

const EXAMPLES: &str = "\
Examples:
  headswap bench heads                                         1,000 heads, all on the device, beside one
  headswap bench heads --heads 10000 --resident-heads 500      Zipf traffic, most heads in the store";

const COLUMNS: [Column; 8] = [
    (
        "traffic",
        "over these heads, or over all while one is swapped again and again",
    ),
    ("images/s", "answers a second of all clients, median of the repetitions"),
    ("of few", "that rate divided by the one over few heads"),
    ("p50", "latency that half of the requests stay below or at"),
    ("p99", "latency that 99 % of the requests stay below or at"),
    ("hot p99", "the same of requests to the 100 most asked heads"),
    ("failed", "requests that got an error"),
    ("wrong", "answers whose logits, recomputed here, are others"),
];

/// Requests that are looked at more closely go to this many of the most asked heads.
const HOT: usize = 100;

/// Puts many heads on a server and compares traffic over all of them with traffic over few; recomputes every answer.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchHeadsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Number of heads
    #[arg(long, default_value_t = 1000)]
    heads: usize,
    /// Classes of each head
    #[arg(long, default_value_t = 10)]
    classes: usize,
    /// How many heads the server may keep on the device; 0 means all. With a limit, requests choose heads by Zipf's law
    #[arg(long, default_value_t = 0)]
    resident_heads: usize,
    /// Clients at the same time
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Measurements of each kind, in turn; the medians are shown
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Milliseconds from one swap to the next, in the measurement with swaps
    #[arg(long, default_value_t = 100)]
    swap_ms: u64,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: BenchHeadsArgs) -> Result<(), CliError> {
    let waiting = spinner("starting a server");
    let server = ServerProcess::start(args.server_flags()).await?;
    let photographs = photographs(&server).await?;
    let machine = Machine::serving(&args.model.backend(), &server.model().await?);
    waiting.finish_and_clear();
    if args.json {
        machine.print_json()?;
    }

    // A short load first, so that what only traffic takes is not counted for the heads.
    args.load(&server, &photographs, "warm-up", 1).await?;
    let before = server.resident_bytes();
    let mut admin = server.admin().await?;
    let bar = progress(args.heads as u64, "heads");
    for head in 0..args.heads {
        replace(&mut admin, head, args.classes, 0).await?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let tensors = (args.heads * args.head_bytes()) as u64;
    let grown = server.resident_bytes().saturating_sub(before);

    let few = if args.resident_heads == 0 {
        1
    } else {
        args.resident_heads.min(args.heads)
    };
    let mut measured: [Vec<Measured>; 3] = Default::default();
    let mut round = 1;
    for _ in 0..args.repetitions.max(1) {
        measured[0].push(args.load(&server, &photographs, "few heads", few).await?);
        measured[1].push(args.load(&server, &photographs, "all heads", args.heads).await?);
        let stop = Arc::new(AtomicBool::new(false));
        let swapping = tokio::spawn(swap_on(admin.clone(), args.clone(), round, Arc::clone(&stop)));
        measured[2].push(args.load(&server, &photographs, "all, one swapped", args.heads).await?);
        stop.store(true, Ordering::Relaxed);
        round = swapping.await.map_err(|error| CliError::Failed(error.to_string()))??;
    }
    let after = server.resident_bytes();
    args.report(&measured, few, [before, grown, after, tensors])?;
    if !args.json {
        machine.print()?;
    }
    let ended = server.stop().await?.success();
    let faults: u64 = measured.iter().flatten().map(|one| one.failed + one.wrong).sum();
    match ended && faults == 0 {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{faults} answers failed or were wrong"))),
    }
}

/// What is sent, and what answers are compared with.
struct Photographs {
    /// JPEG files and their features.
    files: Vec<(bytes::Bytes, Vec<f32>)>,
    /// How far logits may be off, of the largest.
    tolerance: f64,
}

async fn photographs(server: &ServerProcess) -> Result<Arc<Photographs>, CliError> {
    let mut client = server.classifier().await?;
    let mut files = Vec::new();
    for (_, jpeg) in PHOTOGRAPHS.iter().filter(|(name, _)| name.ends_with(".jpg")) {
        let jpeg = bytes::Bytes::from_static(jpeg);
        let input = Some(embed_request::Input::Image(jpeg.clone()));
        let request = EmbedRequest {
            input,
            ..EmbedRequest::default()
        };
        files.push((jpeg, client.embed(request).await?.into_inner().features));
    }
    let tolerance = tolerance(server).await?;
    Ok(Arc::new(Photographs { files, tolerance }))
}

impl Photographs {
    /// The file of request number `index`, and its features.
    fn at(&self, index: u64) -> &(bytes::Bytes, Vec<f32>) {
        &self.files[index as usize % self.files.len()]
    }
}

fn name(head: usize) -> String {
    format!("head-{head}")
}

/// The version `round` of a head: other numbers each time.
fn numbers(head: usize, classes: usize, round: u64) -> KnownHead {
    KnownHead::new(Architecture::Vgg16, classes, head as u64 + (round << 32))
}

async fn replace(admin: &mut Admin, head: usize, classes: usize, round: u64) -> Result<(), CliError> {
    let request = ReplaceHeadRequest {
        head: name(head),
        source: Some(Source::Safetensors(numbers(head, classes, round).safetensors()?.into())),
        ..ReplaceHeadRequest::default()
    };
    admin.replace_head(request).await?;
    Ok(())
}

/// Swaps the first head, from round `next` on, until it is stopped; gives the round after the last.
async fn swap_on(
    mut admin: Admin,
    args: BenchHeadsArgs,
    mut next: u64,
    stop: Arc<AtomicBool>,
) -> Result<u64, CliError> {
    let mut ticks = tokio::time::interval(Duration::from_millis(args.swap_ms.max(1)));
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        replace(&mut admin, 0, args.classes, next).await?;
        next += 1;
    }
    Ok(next)
}

impl BenchHeadsArgs {
    fn head_bytes(&self) -> usize {
        self.classes * (Architecture::Vgg16.features() + 1) * size_of::<f32>()
    }

    fn server_flags(&self) -> Vec<String> {
        let mut flags = self.model.server_flags();
        if self.resident_heads > 0 {
            // The backbone's own head of 1000 classes is one more.
            let own = 1000 * (Architecture::Vgg16.features() + 1) * size_of::<f32>();
            let bytes = self.resident_heads * self.head_bytes() + own;
            flags.extend(["--heads-resident-bytes-max".into(), bytes.to_string()]);
        }
        flags
    }

    /// Traffic over the first `heads` heads; before there are any, over the backbone's own.
    async fn load(
        &self,
        server: &ServerProcess,
        photographs: &Arc<Photographs>,
        kind: &'static str,
        heads: usize,
    ) -> Result<Measured, CliError> {
        let waiting = spinner(kind);
        let (mut total, mut cumulated) = (0.0, Vec::new());
        for rank in 0..heads {
            total += match self.resident_heads {
                0 => 1.0,
                // Zipf's law.
                _ => 1.0 / (rank + 1) as f64,
            };
            cumulated.push(total);
        }
        let traffic = Arc::new(Traffic {
            kind,
            classes: self.classes,
            cumulated,
            photographs: Arc::clone(photographs),
            end: Instant::now() + Duration::from_secs_f64(self.seconds),
            hot: Mutex::default(),
            failed: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        });
        let clients = server.classifiers(self.concurrency).await?;
        let load = run_load(clients, Arc::clone(&traffic)).await?;
        waiting.finish_and_clear();
        let mut hot = std::mem::take(&mut *traffic.hot.lock().unwrap_or_else(PoisonError::into_inner));
        hot.sort_unstable();
        let rank = (hot.len() as f64 * 0.99).ceil() as usize;
        Ok(Measured {
            load,
            hot_p99: hot.get(rank.saturating_sub(1)).copied().unwrap_or_default(),
            failed: traffic.failed.load(Ordering::Relaxed),
            wrong: traffic.wrong.load(Ordering::Relaxed),
        })
    }

    fn report(&self, measured: &[Vec<Measured>; 3], few: usize, memory: [u64; 4]) -> Result<(), CliError> {
        let [before, grown, after, tensors] = memory;
        let mut rows = BenchTable::new(&COLUMNS);
        let few_rate = median(&measured[0], |one| one.load.per_second());
        let kinds = [
            format!("{few} heads"),
            format!("{} heads", self.heads),
            "one swapped".into(),
        ];
        let mut found = Vec::new();
        for (kind, runs) in kinds.into_iter().zip(measured) {
            let rate = median(runs, |one| one.load.per_second());
            let p50 = median(runs, |one| one.load.quantile(0.5).as_secs_f64());
            let p99 = median(runs, |one| one.load.quantile(0.99).as_secs_f64());
            let hot = median(runs, |one| one.hot_p99.as_secs_f64());
            let failed: u64 = runs.iter().map(|one| one.failed).sum();
            let wrong: u64 = runs.iter().map(|one| one.wrong).sum();
            found.push(
                json!({ "traffic": kind, "images_per_second": rate, "of_few": rate / few_rate,
                "p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3, "hot_p99_ms": hot * 1e3, "failed": failed, "wrong": wrong }),
            );
            rows.add([
                kind,
                format!("{rate:.1}"),
                format!("{:.3}", rate / few_rate),
                ms(Duration::from_secs_f64(p50)),
                ms(Duration::from_secs_f64(p99)),
                ms(Duration::from_secs_f64(hot)),
                failed.to_string(),
                wrong.to_string(),
            ]);
        }
        if self.json {
            return print_json(
                &json!({ "measured": found, "resident_bytes_before": before, "grown_bytes": grown,
                "resident_bytes_after": after, "tensor_bytes": tensors }),
            );
        }
        rows.print()?;
        print_line(format_args!(
            "\nresident memory: {} before the heads, {} more with them ({:.2} of their tensors), {} after the load",
            bytes(before),
            bytes(grown),
            grown as f64 / tensors as f64,
            bytes(after)
        ))
    }
}

/// The middle value of some runs; there is always one.
fn median(runs: &[Measured], value: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Counts, and returns true the first time.
fn is_first(counter: &AtomicU64) -> bool {
    counter.fetch_add(1, Ordering::Relaxed) == 0
}

/// One load and what was wrong with it.
struct Measured {
    load: LoadSummary,
    /// Of the requests to the most asked heads.
    hot_p99: Duration,
    failed: u64,
    wrong: u64,
}

struct Traffic {
    kind: &'static str,
    classes: usize,
    /// Of the heads' shares of the traffic.
    cumulated: Vec<f64>,
    photographs: Arc<Photographs>,
    end: Instant,
    hot: Mutex<Vec<Duration>>,
    failed: AtomicU64,
    wrong: AtomicU64,
}

impl Traffic {
    /// Request number `index` goes to this head.
    fn head(&self, index: u64) -> usize {
        // The same requests in every run.
        let share = SplitMix64::at(index).next_share();
        let total = self.cumulated.last().copied().unwrap_or_default();
        self.cumulated
            .partition_point(|&sum| sum <= share * total)
            .min(self.cumulated.len() - 1)
    }

    /// What is wrong with an answer, if anything.
    fn fault(&self, index: u64, response: &ClassifyResponse) -> Option<String> {
        let [result] = &response.results[..] else {
            return Some(format!("{} results", response.results.len()));
        };
        let (head, features) = (self.head(index), &self.photographs.at(index).1);
        if result.head != name(head) {
            return Some(format!("it is of {}, not of {}", result.head, name(head)));
        }
        // Each round of a head is a version.
        let numbers = numbers(head, self.classes, result.version.saturating_sub(1));
        if numbers.digest != result.digest {
            return Some(format!("version {} has the digest {}", result.version, result.digest));
        }
        difference(result, &numbers.logits(features), self.photographs.tolerance)
    }
}

impl Workload for Traffic {
    fn next(&self, index: u64) -> Option<ClassifyRequest> {
        let heads = match self.kind {
            "warm-up" => Vec::new(),
            _ => vec![name(self.head(index))],
        };
        let picture = self.photographs.at(index).0.clone();
        (Instant::now() < self.end).then(|| ClassifyRequest {
            input: Some(Input::Image(picture)),
            heads,
            include_logits: true,
            ..ClassifyRequest::default()
        })
    }

    fn check(&self, index: u64, sent: Instant, answer: Result<ClassifyResponse, Status>) {
        if self.head(index) < HOT {
            self.hot
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(sent.elapsed());
        }
        match answer {
            Err(status) if is_first(&self.failed) => note(describe_status(&status)),
            Ok(response) if self.kind != "warm-up" => {
                if let Some(fault) = self.fault(index, &response).filter(|_| is_first(&self.wrong)) {
                    note(format_args!("request {index} was answered wrongly: {fault}"));
                }
            }
            _ => {}
        }
    }
}
