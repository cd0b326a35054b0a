//! `headswap demo`: the whole main job in one minute, every answer checked.

mod checker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use headswap_client::{Admin, ClientError};
use headswap_loadtest::{KnownHead, LoadSummary, PHOTOGRAPHS, ServerProcess, run_load, tolerance};
use headswap_proto::classify_request::Input;
use headswap_proto::replace_head_request::Source;
use headswap_proto::{ClassifyRequest, EmbedRequest, ReplaceHeadRequest, embed_request};
use headswap_spec::Architecture;
use serde_json::{Value, json};

use self::checker::{Checker, Photograph};
use super::classify::class;
use crate::commands::error::CliError;
use crate::commands::output::{ms, print_json, print_line, print_table, progress, spinner, table};

/// The head that is swapped.
const HEAD: &str = "demo";
/// Class counts, in turn.
const CLASSES: [usize; 3] = [10, 2, 1000];

const TRY_NEXT: &str = r#"Try next: `make run`, and in another terminal
  grpcurl --plaintext 127.0.0.1:50051 list
  echo "{\"image\": \"$(base64 -w0 images/chelsea.png)\"}" | grpcurl --plaintext -d @ 127.0.0.1:50051 headswap.v1.ClassifierService/Classify
  grpcurl --plaintext 127.0.0.1:50052 headswap.v1.HeadAdminService/ListHeads"#;

const EXAMPLES: &str = "\
Examples:
  headswap demo
  headswap demo --clients 64 --seconds 60 --swap-ms 100     a long run with a swap ten times a second";

/// Starts a server with untrained weights on free ports, classifies photographs, swaps heads under load and recomputes
/// every answer; succeeds only if none failed and none was wrong.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoArgs {
    /// Photographs instead of the four built in
    #[arg(long, value_name = "FILE")]
    images: Vec<PathBuf>,
    /// Clients that send at the same time
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Heads to swap in
    #[arg(long, default_value_t = 20)]
    swaps: usize,
    /// Swap for this long instead of a number of times
    #[arg(long)]
    seconds: Option<u64>,
    /// Time from one swap to the next, in milliseconds; by default, as long as eight answers take
    #[arg(long)]
    swap_ms: Option<u64>,
    /// Architecture of the backbone
    #[arg(long, value_enum, default_value = "vgg16")]
    arch: Architecture,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: DemoArgs) -> Result<(), CliError> {
    let waiting = spinner("starting a server with untrained weights");
    let arch = clap::ValueEnum::to_possible_value(&args.arch).map(|value| value.get_name().to_owned());
    let arch = arch.unwrap_or_default();
    let server = ServerProcess::start(["--weights", "demo", "--arch", &arch]).await?;
    waiting.finish_and_clear();

    let mut demo = Demo::prepare(&server, &args).await?;
    if !args.json {
        print_line("The photographs, on UNTRAINED weights (the classes mean nothing):")?;
        demo.show_photographs(&server).await?;
    }
    let quiet = demo.load(&server, &args, Phase::Quiet).await?;
    let swapping = demo.load(&server, &args, Phase::Swapping).await?;
    let resident = server.resident_bytes();
    let stopped = server.stop().await?;

    demo.report(&args, &quiet, &swapping, resident)?;
    if !stopped.success() {
        return Err(CliError::Failed(format!("the server ended with {stopped}")));
    }
    match demo.checker.failed() + demo.checker.wrong() {
        0 => Ok(()),
        bad => Err(CliError::Failed(format!(
            "{bad} answers failed or were wrong; this should never happen"
        ))),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Quiet,
    Swapping,
}

struct Demo {
    architecture: Architecture,
    checker: Arc<Checker>,
    admin: Admin,
    heads_sent: usize,
    swaps: Vec<Duration>,
}

impl Demo {
    async fn prepare(server: &ServerProcess, args: &DemoArgs) -> Result<Self, CliError> {
        let mut client = server.classifier().await?;
        let mut photographs = Vec::new();
        for (name, image) in images(args)? {
            let request = EmbedRequest {
                input: Some(embed_request::Input::Image(image.clone())),
                request_id: name.clone(),
                ..EmbedRequest::default()
            };
            let features = client.embed(request).await?.into_inner().features;
            photographs.push(Photograph { name, image, features });
        }
        let mut demo = Self {
            architecture: args.arch,
            checker: Arc::new(Checker::new(photographs, tolerance(server).await?)),
            admin: server.admin().await?,
            heads_sent: 0,
            swaps: Vec::new(),
        };
        demo.swap().await?;
        demo.swaps.clear();
        Ok(demo)
    }

    async fn show_photographs(&self, server: &ServerProcess) -> Result<(), CliError> {
        let mut client = server.classifier().await?;
        let mut rows = table(&["image", "class", "probability", "compute"]);
        for Photograph { name, image, .. } in self.checker.photographs() {
            let request = ClassifyRequest {
                input: Some(Input::Image(image.clone())),
                ..ClassifyRequest::default()
            };
            let response = client.classify(request).await?.into_inner();
            let top = response
                .results
                .first()
                .and_then(|result| result.predictions.first())
                .cloned()
                .unwrap_or_default();
            let compute = ms(Duration::from_micros(response.timing.unwrap_or_default().compute_us));
            rows.add_row([
                name,
                &class(&top),
                &format!("{:.2} %", 100.0 * top.probability),
                &compute,
            ]);
        }
        print_table(&rows)?;
        print_line("")
    }

    /// Makes the next head live.
    async fn swap(&mut self) -> Result<(), CliError> {
        let number = self.heads_sent;
        self.heads_sent += 1;
        let head = KnownHead::new(self.architecture, CLASSES[number % CLASSES.len()], number as u64);
        let request = ReplaceHeadRequest {
            head: HEAD.into(),
            source: Some(Source::Safetensors(head.safetensors()?.into())),
            ..ReplaceHeadRequest::default()
        };
        self.checker.sending(head);
        let started = Instant::now();
        let response = self.admin.replace_head(request).await?.into_inner();
        self.swaps.push(started.elapsed());
        let version = response.head.map_or(0, |head| head.version);
        self.checker.acknowledged(version);
        Ok(())
    }

    /// Keeps all clients busy for a phase; in the second, swaps meanwhile.
    async fn load(&mut self, server: &ServerProcess, args: &DemoArgs, phase: Phase) -> Result<LoadSummary, CliError> {
        self.checker.set_stopped(false);
        let clients = server.classifiers(args.clients).await?;
        let running = tokio::spawn(run_load(clients, Arc::clone(&self.checker)));
        let driven = match phase {
            Phase::Quiet => self.answers(4 * args.clients as u64).await,
            Phase::Swapping => self.swap_many(args).await,
        };
        self.checker.set_stopped(true);
        let summary = running.await.map_err(|error| CliError::Failed(error.to_string()))??;
        driven.map(|()| summary)
    }

    async fn swap_many(&mut self, args: &DemoArgs) -> Result<(), CliError> {
        let began = Instant::now();
        let bar = progress(args.swaps as u64, "swapping heads under load");
        let mut next = Instant::now();
        loop {
            let enough = match args.seconds {
                Some(seconds) => began.elapsed() >= Duration::from_secs(seconds),
                None => self.swaps.len() >= args.swaps,
            };
            if enough {
                break;
            }
            self.swap().await?;
            bar.set_position(self.swaps.len() as u64);
            match args.swap_ms {
                Some(period) => {
                    next += Duration::from_millis(period);
                    tokio::time::sleep_until(next.into()).await;
                }
                None => self.answers(8).await?,
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Waits for this many more answers.
    async fn answers(&self, count: u64) -> Result<(), CliError> {
        let goal = self.checker.answered() + count;
        while self.checker.answered() < goal {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn report(
        &self,
        args: &DemoArgs,
        quiet: &LoadSummary,
        swapping: &LoadSummary,
        resident: u64,
    ) -> Result<(), CliError> {
        let (failed, wrong) = (self.checker.failed(), self.checker.wrong());
        let mut swaps = self.swaps.clone();
        swaps.sort_unstable();
        let median = swaps.get(swaps.len() / 2).copied().unwrap_or_default();
        let longest = swaps.last().copied().unwrap_or_default();
        let versions = self.checker.versions_seen();
        if args.json {
            return print_json(&json!({
                "failed": failed, "wrong": wrong, "swaps": swaps.len(), "versions_seen": versions,
                "without_swaps": load_json(quiet), "with_swaps": load_json(swapping), "server_resident_bytes": resident,
                "swap_ms_p50": median.as_secs_f64() * 1e3, "swap_ms_max": longest.as_secs_f64() * 1e3,
            }));
        }
        let mut rows = table(&["", "without swaps", "with swaps"]);
        for (name, value) in LOAD_ROWS {
            rows.add_row([name.to_owned(), value(quiet), value(swapping)]);
        }
        print_table(&rows)?;
        print_line(format_args!(
            "\nswaps {}, versions seen {versions}, failed {failed}, wrong {wrong}",
            swaps.len()
        ))?;
        print_line(format_args!(
            "a swap took {} (median), {} (longest)",
            ms(median),
            ms(longest)
        ))?;
        print_line(format_args!("\n{TRY_NEXT}"))
    }
}

/// A row of the last table: its name, and its value of a load.
type LoadRow = (&'static str, fn(&LoadSummary) -> String);

const LOAD_ROWS: [LoadRow; 4] = [
    ("requests", |load| load.answers().to_string()),
    ("images/s", |load| format!("{:.1}", load.per_second())),
    ("latency p50", |load| ms(load.quantile(0.5))),
    ("latency p99", |load| ms(load.quantile(0.99))),
];

fn load_json(load: &LoadSummary) -> Value {
    json!({
        "requests": load.answers(), "per_second": load.per_second(),
        "p50_ms": load.quantile(0.5).as_secs_f64() * 1e3, "p99_ms": load.quantile(0.99).as_secs_f64() * 1e3,
    })
}

fn images(args: &DemoArgs) -> Result<Vec<(String, bytes::Bytes)>, CliError> {
    let mut images = Vec::new();
    if args.images.is_empty() {
        for (name, image) in PHOTOGRAPHS {
            images.push((name.to_owned(), bytes::Bytes::from_static(image)));
        }
    }
    for path in &args.images {
        let image = std::fs::read(path).map_err(|error| ClientError::unreadable(path, error))?;
        images.push((path.display().to_string(), image.into()));
    }
    Ok(images)
}
