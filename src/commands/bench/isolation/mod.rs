//! `headswap bench isolation`: what streams, read or not, and cancelled calls cost those who wait for one answer.

mod beside_bulk;
mod beside_cancels;
mod beside_readers;
mod bulk_streams;
mod gauges;
mod unary_calls;
mod unread_stream;

use clap::Args;
use headswap_image::{self as image, ImageSettings};
use headswap_loadtest::{PHOTOGRAPHS, ServerProcess};
use headswap_model::BackendChoice;
use headswap_proto::classify_request::Input;

use self::beside_bulk::BesideBulk;
use self::beside_cancels::BesideCancels;
use self::beside_readers::BesideReaders;
use self::unread_stream::Reading;
use crate::commands::bench::ModelArgs;
use crate::commands::bench::machine::Machine;
use crate::commands::error::CliError;
use crate::commands::output::spinner;

/// Measures unary calls beside streams that stop reading, read slowly or are served as fast as possible, and beside calls
/// that are cancelled.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchIsolationArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Streams that send requests and read nothing, then as many that read one byte a second; 0 leaves both out
    #[arg(long, default_value_t = 1)]
    stalled: usize,
    /// Requests that each stalled stream sends
    #[arg(long, default_value_t = 600)]
    requests: usize,
    /// Deadline of the stalled streams, in seconds: longer than the unary calls beside them take
    #[arg(long, default_value_t = 60)]
    stall_seconds: u64,
    /// Unary calls beside the stalled streams, one after the other
    #[arg(long, default_value_t = 100)]
    unary: u64,
    /// Streams that are read as fast as their answers come
    #[arg(long, default_value_t = 5)]
    streams: usize,
    /// Requests that each stream that is read keeps unanswered
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Unary clients beside the streams that are read
    #[arg(long, default_value_t = 1)]
    unary_clients: usize,
    /// Unary clients beside the streams that are read, enough to keep the device busy by themselves
    #[arg(long, default_value_t = 64)]
    interactive_clients: usize,
    /// Unary calls that are cancelled at random moments, beside three clients that wait for their answers; 0 leaves them out
    #[arg(long, default_value_t = 20_000)]
    cancels: u64,
    /// Seconds for each measurement beside streams that are read
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Measurements of each kind, in turn; the medians are shown
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// The server's --bulk-share
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    bulk_share: u32,
    /// Limit on pictures in a batch; 0 selects it by a measurement at start
    #[arg(long, default_value_t = 0)]
    max_batch: usize,
    /// Send raw pixels instead of JPEG files
    #[arg(long)]
    pixels: bool,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: BenchIsolationArgs) -> Result<(), CliError> {
    let waiting = spinner("starting a server");
    let server = ServerProcess::start(args.server_flags()).await?;
    let pictures = args.pictures()?;
    let machine = Machine::serving(&args.model.backend(), &server.model().await?);
    waiting.finish_and_clear();
    if args.json {
        machine.print_json()?;
    }

    let mut wrong = Vec::new();
    if args.stalled > 0 {
        let mut readers = Vec::new();
        for reading in [Reading::Nothing, Reading::Slowly] {
            readers.push(BesideReaders::measure(&args, &server, &pictures, reading).await?);
        }
        beside_readers::report(&readers, args.json)?;
        wrong.extend(readers.iter().flat_map(BesideReaders::complaints));
    }
    if args.cancels > 0 {
        let cancels = BesideCancels::measure(&args, &server, &pictures).await?;
        cancels.report(args.json)?;
        wrong.extend(cancels.complaints());
    }
    if args.streams > 0 {
        let bulk = BesideBulk::measure(&args, &server, &pictures).await?;
        bulk.report(&args)?;
        wrong.extend(bulk.complaints());
    }
    if !args.json {
        machine.print()?;
    }
    if !server.stop().await?.success() {
        wrong.push("the server's exit code is not 0".into());
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(CliError::Failed(wrong.join("; "))),
    }
}

impl BenchIsolationArgs {
    fn server_flags(&self) -> Vec<String> {
        let clients = self.interactive_clients.max(self.unary_clients);
        let mut flags = self.model.server_flags();
        for (flag, value) in [
            ("--max-batch", self.max_batch.to_string()),
            ("--bulk-share", self.bulk_share.to_string()),
            // The load is to be served, not refused.
            ("--in-flight-max", clients.max(256).to_string()),
        ] {
            flags.extend([flag.to_owned(), value]);
        }
        flags
    }

    /// What clients send: the photographs that are JPEG files, or their pixels.
    fn pictures(&self) -> Result<Vec<Input>, CliError> {
        let pixels = self.pixels || self.model.backend == BackendChoice::Null;
        let mut pictures = Vec::new();
        for (_, jpeg) in PHOTOGRAPHS.iter().filter(|(name, _)| name.ends_with(".jpg")) {
            if !pixels {
                pictures.push(Input::Image(bytes::Bytes::from_static(jpeg)));
                continue;
            }
            let decoded = image::decode(jpeg, ImageSettings::default());
            let decoded = decoded.map_err(|error| CliError::Failed(error.to_string()))?;
            pictures.push(Input::Pixels(decoded.as_bytes().to_vec().into()));
        }
        Ok(pictures)
    }
}
