//! Clients with five preprocessings beside clients with one, and the feature cache.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use headswap_client::describe_status;
use headswap_loadtest::{LoadSummary, ServerProcess, SpecHead, Workload, run_load};
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyResponse};
use headswap_spec::{CompleteSpec, Preset};
use serde_json::{Value, json};
use tonic::Status;

use super::{BenchArchitecturesArgs, median};
use crate::commands::bench::cache::bmp;
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::bench::machine::Machine;
use crate::commands::bench::name_of;
use crate::commands::error::CliError;
use crate::commands::output::{note, print_json, print_line, spinner};

const PRESETS: [Preset; 5] = [
    Preset::Torchvision,
    Preset::Unit,
    Preset::Half,
    Preset::KerasCaffe,
    Preset::TensorflowCaffe,
];
/// The features of a picture of VGG16 take 16 kB.
const CACHE_BYTES: usize = 256 << 20;

const COLUMNS: [Column; 3] = [
    ("clients'", "preprocessings of the heads that the requests name"),
    ("images/s", "answers a second of all clients, median of the repetitions"),
    (
        "of one",
        "that rate divided by the one right before it with one preprocessing, median",
    ),
];
const CACHE_COLUMNS: [Column; 4] = [
    ("preprocessing", "of the head that the second round names"),
    ("pictures", "requests of the second round"),
    ("hits", "of them that the server found in its feature cache"),
    (
        "wrong",
        "answers of both rounds whose logits are not those of the request alone, bit by bit",
    ),
];

/// A request: the preprocessing and the number of its picture.
type Query = (usize, usize);

pub(super) async fn run(args: &BenchArchitecturesArgs) -> Result<Machine, CliError> {
    let waiting = spinner("starting a server");
    let server = start(args, &[]).await?;
    let machine = Machine::serving(&args.model.backend(), &server.model().await?);
    waiting.finish_and_clear();
    if args.json {
        machine.print_json()?;
    }
    let pictures: Arc<Vec<Bytes>> = Arc::new((0..args.images as u64).map(|seed| bmp(seed).into()).collect());
    let mixed: Vec<Query> = (0..args.images * PRESETS.len())
        .map(|at| (at % PRESETS.len(), at / PRESETS.len()))
        .collect();
    let one: Vec<Query> = mixed.iter().map(|&(_, picture)| (0, picture)).collect();

    let alone = Pass::run(&server, &pictures, &mixed, 1).await?;
    let (mut rates, mut wrong): ([Vec<f64>; 2], u64) = Default::default();
    for _ in 0..args.repetitions.max(1) {
        for (rates, queries) in rates.iter_mut().zip([&one, &mixed]) {
            let pass = Pass::run(&server, &pictures, queries, args.concurrency).await?;
            rates.push(pass.summary.per_second());
            wrong += pass.wrong(&alone);
        }
    }
    let mut ended = server.stop().await?.success();

    let server = start(args, &["--feature-cache-bytes-max", &CACHE_BYTES.to_string()]).await?;
    let first = Pass::run(&server, &pictures, &mixed, args.concurrency).await?;
    let mut cached = Vec::new();
    for (preset, named) in PRESETS.iter().enumerate() {
        let queries: Vec<Query> = mixed.iter().copied().filter(|query| query.0 == preset).collect();
        let before = server.metric("headswap_feature_cache_hits_total").await?;
        let second = Pass::run(&server, &pictures, &queries, args.concurrency).await?;
        let hits = server.metric("headswap_feature_cache_hits_total").await? - before;
        let wrong = first.wrong_of(preset, &alone) + second.wrong(&alone);
        cached.push(Cached {
            preset: name_of(named),
            pictures: queries.len(),
            hits: hits as u64,
            wrong,
        });
    }
    ended &= server.stop().await?.success();
    report(args, &rates, wrong, &cached)?;
    let wrong = wrong + cached.iter().map(|cached| cached.wrong).sum::<u64>();
    match ended && wrong == 0 {
        true => Ok(machine),
        false => Err(CliError::Failed(format!(
            "{wrong} answers differ from those of the requests alone"
        ))),
    }
}

/// What the second round with the feature cache found.
struct Cached {
    preset: String,
    pictures: usize,
    hits: u64,
    wrong: u64,
}

/// Starts a server with a head for each preprocessing.
async fn start(args: &BenchArchitecturesArgs, more: &[&str]) -> Result<ServerProcess, CliError> {
    let mut flags = args.server_flags();
    flags.extend(more.iter().map(ToString::to_string));
    let server = ServerProcess::start(flags).await?;
    let mut admin = server.admin().await?;
    for (seed, preset) in PRESETS.iter().enumerate() {
        let spec = CompleteSpec::plain(preset.preprocessing(), 10);
        let head = SpecHead::new(spec, &[args.arch.features(), 10], seed as u64);
        admin.replace_head(head.request(&name_of(preset))?).await?;
    }
    Ok(server)
}

/// Every query once, each answer kept.
struct Pass {
    queries: Vec<Query>,
    logits: Vec<Vec<f32>>,
    summary: LoadSummary,
}

/// A pass while it runs.
struct Asking {
    queries: Vec<Query>,
    pictures: Arc<Vec<Bytes>>,
    logits: Mutex<Vec<Vec<f32>>>,
}

impl Pass {
    async fn run(
        server: &ServerProcess,
        pictures: &Arc<Vec<Bytes>>,
        queries: &[Query],
        concurrency: usize,
    ) -> Result<Self, CliError> {
        let asking = Arc::new(Asking {
            queries: queries.to_vec(),
            pictures: Arc::clone(pictures),
            logits: Mutex::new(vec![Vec::new(); queries.len()]),
        });
        let summary = run_load(server.classifiers(concurrency).await?, Arc::clone(&asking)).await?;
        let logits = std::mem::take(&mut *asking.logits.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Self {
            queries: queries.to_vec(),
            logits,
            summary,
        })
    }

    /// Returns the number of answers that are not those of the same queries in `alone`, which has every query.
    fn wrong(&self, alone: &Self) -> u64 {
        (0..PRESETS.len()).map(|preset| self.wrong_of(preset, alone)).sum()
    }

    fn wrong_of(&self, preset: usize, alone: &Self) -> u64 {
        let mut wrong = 0;
        for (&(of, picture), logits) in self.queries.iter().zip(&self.logits) {
            if of == preset {
                let expected = &alone.logits[picture * PRESETS.len() + of];
                wrong += u64::from(logits.is_empty() || !bits(logits).eq(bits(expected)));
            }
        }
        wrong
    }
}

fn bits(logits: &[f32]) -> impl Iterator<Item = u32> {
    logits.iter().map(|logit| logit.to_bits())
}

impl Workload for Asking {
    fn next(&self, index: u64) -> Option<ClassifyRequest> {
        let &(preset, picture) = self.queries.get(index as usize)?;
        Some(ClassifyRequest {
            input: Some(Input::Image(self.pictures[picture].clone())),
            heads: vec![name_of(&PRESETS[preset])],
            include_logits: true,
            ..ClassifyRequest::default()
        })
    }

    fn check(&self, index: u64, _: Instant, answer: Result<ClassifyResponse, Status>) {
        match answer {
            Ok(answer) => {
                let logits = answer.results.into_iter().flat_map(|result| result.logits).collect();
                self.logits.lock().unwrap_or_else(PoisonError::into_inner)[index as usize] = logits;
            }
            Err(status) => note(describe_status(&status)),
        }
    }
}

fn report(args: &BenchArchitecturesArgs, rates: &[Vec<f64>; 2], wrong: u64, cached: &[Cached]) -> Result<(), CliError> {
    let mut rows = BenchTable::new(&COLUMNS);
    let mut found = Vec::new();
    for (kind, rates_of_kind) in ["one", "five"].into_iter().zip(rates) {
        let ratios = rates_of_kind.iter().zip(&rates[0]).map(|(rate, one)| rate / one);
        let (rate, ratio) = (median(rates_of_kind.clone()), median(ratios.collect()));
        rows.add([kind.to_owned(), format!("{rate:.1}"), format!("{ratio:.3}")]);
        found.push(json!({ "preprocessings": kind, "images_per_second": rate, "of_one": ratio }));
    }
    let mut cache_rows = BenchTable::new(&CACHE_COLUMNS);
    for one in cached {
        cache_rows.add([
            one.preset.clone(),
            one.pictures.to_string(),
            one.hits.to_string(),
            one.wrong.to_string(),
        ]);
    }
    if args.json {
        return print_json(&json!({ "part": "preprocessings", "measured": found, "wrong": wrong,
            "second_round": cached.iter().map(Cached::json).collect::<Vec<_>>() }));
    }
    rows.print()?;
    print_line(format_args!(
        "\n{wrong} answers differ from those of the requests alone\n\nwith the feature cache:"
    ))?;
    cache_rows.print()
}

impl Cached {
    fn json(&self) -> Value {
        json!({ "preprocessing": self.preset, "pictures": self.pictures, "hits": self.hits, "wrong": self.wrong })
    }
}
