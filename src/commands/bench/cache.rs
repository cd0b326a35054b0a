//! `headswap bench cache`: pictures asked for the first and for the second time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::Args;
use headswap_client::describe_status;
use headswap_loadtest::{ServerProcess, Workload, run_load};
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyResponse};
use serde_json::json;
use tonic::Status;

use super::legend::{BenchTable, Column};
use super::machine::Machine;
use crate::commands::bench::ModelArgs;
use crate::commands::error::CliError;
use crate::commands::output::{ms, print_json, print_line, progress};

/// The side of the pictures, which are neither shrunk nor enlarged.
const SIDE: usize = 256;

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchCacheArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Pictures, all different
    #[arg(long, default_value_t = 1000)]
    images: usize,
    /// Clients at the same time
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

const COLUMNS: [Column; 4] = [
    (
        "asked",
        "the first time, or the second, when the features are in the cache",
    ),
    ("images/s", "answers a second of all clients"),
    ("p50", "latency that half of the requests stay below or at"),
    ("p99", "latency that 99 % of the requests stay below or at"),
];

pub(super) async fn run(args: BenchCacheArgs) -> Result<(), CliError> {
    let mut flags = args.model.server_flags();
    flags.extend(["--feature-cache-bytes-max".into(), (64 << 20).to_string()]);
    let server = ServerProcess::start(flags).await?;
    let machine = Machine::serving(&args.model.backend(), &server.model().await?);
    if args.json {
        machine.print_json()?;
    }
    let mut rows = BenchTable::new(&COLUMNS);
    let mut rates = Vec::new();
    let mut logits = Vec::new();
    for time in ["first", "second"] {
        let pass = Arc::new(Pass::new(args.images, time));
        let clients = server.classifiers(args.concurrency).await?;
        let load = run_load(clients, Arc::clone(&pass)).await?;
        pass.bar.finish_and_clear();
        let answers = std::mem::take(&mut *pass.answers.lock().unwrap_or_else(PoisonError::into_inner));
        logits.push(answers.into_iter().collect::<Result<Vec<_>, _>>()?);
        rates.push(load.per_second());
        rows.add([
            time.to_owned(),
            format!("{:.1}", load.per_second()),
            ms(load.quantile(0.5)),
            ms(load.quantile(0.99)),
        ]);
    }
    server.stop().await?;

    let equal = logits[0] == logits[1];
    let ratio = rates[1] / rates[0];
    if args.json {
        print_json(
            &json!({ "images": args.images, "first_per_second": rates[0], "second_per_second": rates[1],
            "ratio": ratio, "bit_equal": equal }),
        )?;
    } else {
        rows.print()?;
        print_line(format_args!(
            "\n{ratio:.1} times as fast, the logits {}",
            if equal { "bit-equal" } else { "DIFFERENT" }
        ))?;
        machine.print()?;
    }
    match equal {
        true => Ok(()),
        false => Err(CliError::Failed(
            "a known picture's logits differ from its first ones".into(),
        )),
    }
}

/// Every picture once, each answer kept.
struct Pass {
    images: u64,
    answers: Mutex<Vec<Result<Vec<f32>, CliError>>>,
    bar: indicatif::ProgressBar,
}

impl Pass {
    fn new(images: usize, time: &'static str) -> Self {
        let mut answers = Vec::new();
        answers.resize_with(images, || Err(CliError::Failed("a picture was not answered".into())));
        Self {
            images: images as u64,
            answers: Mutex::new(answers),
            bar: progress(images as u64, time),
        }
    }
}

impl Workload for Pass {
    fn next(&self, index: u64) -> Option<ClassifyRequest> {
        (index < self.images).then(|| ClassifyRequest {
            input: Some(Input::Image(bmp(index).into())),
            include_logits: true,
            ..ClassifyRequest::default()
        })
    }

    fn check(&self, index: u64, _: Instant, answer: Result<ClassifyResponse, Status>) {
        let logits = answer
            .map(|answer| answer.results.into_iter().flat_map(|result| result.logits).collect())
            .map_err(|status| CliError::Failed(describe_status(&status)));
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)[index as usize] = logits;
        self.bar.inc(1);
    }
}

/// A picture of its own for each seed, as a BMP file: BITMAPFILEHEADER, BITMAPINFOHEADER, rows of blue, green, red.
pub(super) fn bmp(seed: u64) -> Vec<u8> {
    let (side, bytes) = (SIDE as u32, (SIDE * SIDE * 3) as u32);
    let mut file = b"BM".to_vec();
    for number in [54 + bytes, 0, 54, 40, side, side] {
        file.extend(number.to_le_bytes());
    }
    file.extend([1u16.to_le_bytes(), 24u16.to_le_bytes()].concat());
    for number in [0, bytes, 0, 0, 0, 0] {
        file.extend(u32::to_le_bytes(number));
    }
    let mut state = seed;
    file.extend((0..bytes).map(|_| {
        // Knuth's multiplier for linear congruential generators (MMIX).
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    }));
    file
}
