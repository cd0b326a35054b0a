//! `headswap bench upload`: what others notice of a head of 495 MB that is uploaded.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use headswap_client::{describe_status, upload};
use headswap_loadtest::{ClientThreads, KnownHead, LoadSummary, PHOTOGRAPHS, ServerProcess, Workload, run_load};
use headswap_model::demo_head_from;
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyResponse, ReplaceHeadResponse, UploadHeadHeader};
use headswap_spec::Architecture;
use serde_json::json;
use tonic::Status;

use super::legend::{BenchTable, Column};
use super::machine::Machine;
use super::small_swaps::SmallSwaps;
use crate::commands::bench::ModelArgs;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, ms, note, print_json, print_line, spinner};

/// How often the server's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long small heads are swapped without an upload.
const SWAPS_ALONE: Duration = Duration::from_secs(3);

const COLUMNS: [Column; 6] = [
    ("load", "before the upload, or beside it"),
    ("requests", "answers, failures included"),
    ("images/s", "answers a second of all clients"),
    ("p50", "latency that half of the requests stay below or at"),
    ("p99", "latency that 99 % of the requests stay below or at"),
    ("failed", "requests that got an error"),
];

/// Uploads a head under load, and beside swaps of a small one, and compares the latency of others with that before.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchUploadArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The head overrides everything from this layer on
    #[arg(long, default_value = "classifier.0")]
    split: String,
    /// Clients at the same time
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: BenchUploadArgs) -> Result<(), CliError> {
    let waiting = spinner("starting a server and writing a head");
    let server = ServerProcess::start(args.model.server_flags()).await?;
    let head = KnownHead::from(demo_head_from(Architecture::Vgg16, &args.split, 10, 1));
    let mut file = tempfile::NamedTempFile::new()?;
    let contents = head.safetensors()?;
    file.write_all(&contents)?;
    drop((contents, head));
    let path = file.path().to_owned();
    waiting.finish_and_clear();

    let machine = Machine::serving(&args.model.backend(), &server.model().await?);
    if args.json {
        machine.print_json()?;
    }
    let length = Duration::from_secs_f64(args.seconds);
    load(&server, args.concurrency, length / 10).await?;
    let quiet = load(&server, args.concurrency, length).await?;
    let before = server.resident_bytes();
    let (mut admin, large) = (server.admin().await?, path.clone());
    let uploading = tokio::spawn(async move { upload(&mut admin, header("large"), &large, Arc::new(())).await });
    let look = async {
        let mut peak = 0;
        loop {
            peak = peak.max(server.resident_bytes());
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = std::future::ready(()), if uploading.is_finished() => return peak,
            }
        }
    };
    let (busy, peak) = tokio::join!(load(&server, args.concurrency, length), look);
    let uploaded = uploading.await.map_err(|error| CliError::Failed(error.to_string()))??;
    let busy = busy?;
    let swaps = BesideUpload::measure(&server, file.path().to_owned()).await?;
    args.report(&quiet, &busy, peak.saturating_sub(before), &uploaded, &swaps)?;
    if !args.json {
        machine.print()?;
    }
    let failed = quiet.failed + busy.failed;
    match server.stop().await?.success() && failed == 0 {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{failed} requests failed"))),
    }
}

impl BenchUploadArgs {
    fn report(
        &self,
        quiet: &Measured,
        busy: &Measured,
        extra: u64,
        uploaded: &ReplaceHeadResponse,
        swaps: &BesideUpload,
    ) -> Result<(), CliError> {
        let tensors = uploaded.head.as_ref().map_or(0, |head| head.resident_bytes);
        let ratio = busy.load.quantile(0.99).as_secs_f64() / quiet.load.quantile(0.99).as_secs_f64();
        if self.json {
            return print_json(
                &json!({ "p99_ratio": ratio, "failed": quiet.failed + busy.failed, "extra_bytes": extra,
                "tensor_bytes": tensors, "validate_us": uploaded.validate_us, "store_us": uploaded.store_us,
                "sync_us": uploaded.sync_us, "small_swaps": SmallSwaps::json(&swaps.alone, &swaps.beside, swaps.upload) }),
            );
        }
        let mut rows = BenchTable::new(&COLUMNS);
        for (kind, measured) in [("before", quiet), ("with an upload", busy)] {
            rows.add([
                kind.to_owned(),
                measured.load.answers().to_string(),
                format!("{:.1}", measured.load.per_second()),
                ms(measured.load.quantile(0.5)),
                ms(measured.load.quantile(0.99)),
                measured.failed.to_string(),
            ]);
        }
        rows.print()?;
        print_line(format_args!(
            "\np99 {ratio:.2} times that before; the server took {} more at most for {} of tensors ({:.2} of them)",
            bytes(extra),
            bytes(tensors),
            extra as f64 / tensors as f64
        ))?;
        print_line("")?;
        SmallSwaps::print(&swaps.alone, &swaps.beside, swaps.upload)
    }
}

/// Small swaps of another head, alone and while the large one is uploaded again.
struct BesideUpload {
    alone: SmallSwaps,
    beside: SmallSwaps,
    /// How long the upload took.
    upload: Duration,
}

impl BesideUpload {
    async fn measure(server: &ServerProcess, path: PathBuf) -> Result<Self, CliError> {
        let end = Instant::now() + SWAPS_ALONE;
        let alone = SmallSwaps::run(server.admin().await?, || Instant::now() >= end).await?;
        let (mut admin, uploaded) = (server.admin().await?, Arc::<AtomicBool>::default());
        let crowd = ClientThreads::new()?;
        let done = Arc::clone(&uploaded);
        let upload = crowd.run(async move {
            let began = Instant::now();
            let answer = upload(&mut admin, header("another"), &path, Arc::new(())).await;
            done.store(true, Ordering::Relaxed);
            answer.map(|_| began.elapsed()).map_err(CliError::from)
        });
        let swaps = SmallSwaps::run(server.admin().await?, || uploaded.load(Ordering::Relaxed));
        let (upload, beside) = tokio::try_join!(upload, swaps)?;
        Ok(Self { alone, beside, upload })
    }
}

fn header(head: &str) -> UploadHeadHeader {
    UploadHeadHeader {
        head: head.into(),
        ..UploadHeadHeader::default()
    }
}

struct Measured {
    load: LoadSummary,
    failed: u64,
}

async fn load(server: &ServerProcess, concurrency: usize, length: Duration) -> Result<Measured, CliError> {
    let traffic = Arc::new(Traffic {
        end: Instant::now() + length,
        failed: AtomicU64::new(0),
    });
    let load = run_load(server.classifiers(concurrency).await?, Arc::clone(&traffic)).await?;
    let failed = traffic.failed.load(Ordering::Relaxed);
    Ok(Measured { load, failed })
}

struct Traffic {
    end: Instant,
    failed: AtomicU64,
}

impl Workload for Traffic {
    fn next(&self, index: u64) -> Option<ClassifyRequest> {
        let (_, photograph) = PHOTOGRAPHS[index as usize % PHOTOGRAPHS.len()];
        (Instant::now() < self.end).then(|| ClassifyRequest {
            input: Some(Input::Image(bytes::Bytes::from_static(photograph))),
            ..ClassifyRequest::default()
        })
    }

    fn check(&self, _: u64, _: Instant, answer: Result<ClassifyResponse, Status>) {
        if let Err(status) = answer
            && self.failed.fetch_add(1, Ordering::Relaxed) == 0
        {
            note(describe_status(&status));
        }
    }
}
