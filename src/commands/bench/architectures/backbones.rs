//! Heads on two backbones in one server, beside two servers of one backbone with half the load each.

use std::io::{BufWriter, Write as _};
use std::sync::Arc;

use headswap_checkpoint::{StoredDtype, safetensors_header};
use headswap_loadtest::ServerProcess;
use headswap_model::demo_head_from;
use serde_json::json;
use tempfile::NamedTempFile;

use super::families::Family;
use super::known_traffic::{KnownLoad, KnownTraffic, Photographs, PlacedHead};
use super::{BenchArchitecturesArgs, median};
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::bench::machine::Machine;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, print_json, print_line, progress, spinner};

const COLUMNS: [Column; 4] = [
    ("servers", "that hold the two backbones, with as many heads on each"),
    ("images/s", "answers a second of all clients, median of the repetitions"),
    (
        "of two",
        "that rate divided by that of two servers, of half the clients each, in the same round, median",
    ),
    (
        "faults",
        "requests that got an error, or logits that differ from those recomputed here",
    ),
];

/// The name of the second backbone in the server of both.
const OTHER: &str = "other";
/// The seed of its numbers.
const SEED: u64 = 77;

/// A server, and what its heads must answer.
struct Loaded {
    server: ServerProcess,
    photographs: Arc<Photographs>,
    heads: Arc<Vec<PlacedHead>>,
    /// Resident memory after a load without heads.
    before: u64,
}

pub(super) async fn run(args: &BenchArchitecturesArgs) -> Result<Machine, CliError> {
    let waiting = spinner("generating a backbone");
    let file = generated(args)?;
    waiting.finish_and_clear();
    let path = file.path().display().to_string();
    let mut flags = args.server_flags();
    let first = Loaded::start(args, &flags, &[""]).await?;
    let machine = Machine::serving(&args.model.backend(), &first.server.model().await?);
    if args.json {
        machine.print_json()?;
    }
    // The flags begin with the first backbone's weights.
    let mut of_second = flags.clone();
    of_second[1].clone_from(&path);
    let second = Loaded::start(args, &of_second, &[""]).await?;
    flags.extend(["--weights".to_owned(), format!("{OTHER}={path}")]);
    let both = Loaded::start(args, &flags, &["", OTHER]).await?;

    let (mut of_both, mut of_two): (Vec<KnownLoad>, Vec<[KnownLoad; 2]>) = (Vec::new(), Vec::new());
    for _ in 0..args.repetitions.max(1) {
        let half = args.concurrency.div_ceil(2);
        let (first, second) = tokio::join!(first.load(args, half), second.load(args, half));
        of_two.push([first?, second?]);
        of_both.push(both.load(args, args.concurrency).await?);
    }
    let faults = report(args, &of_both, &of_two)?;
    report_memory(args, &both, first.before + second.before)?;
    for loaded in [first, second, both] {
        loaded.server.stop().await?;
    }
    match faults {
        0 => Ok(machine),
        _ => Err(CliError::Failed(format!("{faults} answers failed or were wrong"))),
    }
}

/// Writes a whole network of other numbers than the demo's to a temporary file.
fn generated(args: &BenchArchitecturesArgs) -> Result<NamedTempFile, CliError> {
    let parameters = demo_head_from(args.arch, "features.0", 1000, SEED);
    let mut file = tempfile::Builder::new().suffix(".safetensors").tempfile()?;
    let mut out = BufWriter::new(file.as_file_mut());
    let tensors = parameters
        .iter()
        .map(|(name, tensor)| (name.as_str(), &tensor.shape[..]));
    out.write_all(&safetensors_header(tensors, StoredDtype::F32, &Default::default()))?;
    for tensor in parameters.values() {
        for value in &tensor.values {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    out.flush()?;
    drop(out);
    Ok(file)
}

impl Loaded {
    /// Starts a server and places as many heads on each of these backbones.
    async fn start(args: &BenchArchitecturesArgs, flags: &[String], backbones: &[&str]) -> Result<Self, CliError> {
        let waiting = spinner("starting a server");
        let server = ServerProcess::start(flags).await?;
        waiting.finish_and_clear();
        let mut photographs = Vec::new();
        for backbone in backbones {
            photographs.push(Arc::new(Photographs::embed_on(&server, backbone).await?));
        }
        // A load before there are heads, so that what only traffic takes is not counted for them.
        let load = (args.concurrency, args.seconds);
        KnownTraffic::run(&server, &photographs[0], &Arc::default(), load).await?;
        let before = server.resident_bytes();
        let count = args.heads / 2;
        let bar = progress((count * backbones.len()) as u64, "heads");
        let mut admin = server.admin().await?;
        let mut heads = Vec::new();
        for (backbone, photographs) in backbones.iter().zip(&photographs) {
            for index in 0..count {
                let family = Family::ALL[index % Family::ALL.len()];
                // Other seeds for each backbone, as equal tensors are placed once.
                let seed = 2 * index as u64 + u64::from(!backbone.is_empty());
                let head = family.head(args.arch, seed);
                let name = format!("{backbone}-head-{index}").trim_start_matches('-').to_owned();
                heads.push(
                    photographs
                        .place_on(&mut admin, backbone, name, (family, &head))
                        .await?,
                );
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(Self {
            server,
            photographs: Arc::clone(&photographs[0]),
            heads: Arc::new(heads),
            before,
        })
    }

    async fn load(&self, args: &BenchArchitecturesArgs, clients: usize) -> Result<KnownLoad, CliError> {
        KnownTraffic::run(&self.server, &self.photographs, &self.heads, (clients, args.seconds)).await
    }
}

/// Prints the rates. Returns the number of answers that failed or were wrong.
fn report(args: &BenchArchitecturesArgs, of_both: &[KnownLoad], of_two: &[[KnownLoad; 2]]) -> Result<u64, CliError> {
    let (mut rates, mut two_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut faults, mut two_faults) = (0, 0);
    for (both, two) in of_both.iter().zip(of_two) {
        let (rate, two_rate) = (
            both.summary.per_second(),
            two.iter().map(|one| one.summary.per_second()).sum(),
        );
        rates.push(rate);
        two_rates.push(two_rate);
        ratios.push(rate / two_rate);
        faults += both.failed + both.wrong;
        two_faults += two.iter().map(|one| one.failed + one.wrong).sum::<u64>();
    }
    let (rate, two_rate, ratio) = (median(rates), median(two_rates), median(ratios));
    if args.json {
        print_json(
            &json!({ "part": "backbones", "heads_on_each": args.heads / 2, "images_per_second": rate,
            "images_per_second_of_two": two_rate, "of_two": ratio, "faults": faults + two_faults }),
        )?;
    } else {
        let mut rows = BenchTable::new(&COLUMNS);
        rows.add([
            "two, of one each".to_owned(),
            format!("{two_rate:.1}"),
            "1.000".to_owned(),
            two_faults.to_string(),
        ]);
        rows.add([
            "one, of both".to_owned(),
            format!("{rate:.1}"),
            format!("{ratio:.3}"),
            faults.to_string(),
        ]);
        rows.print()?;
    }
    Ok(faults + two_faults)
}

/// Prints the memory of the server of both backbones after the loads; `of_two` is that of two servers without heads.
fn report_memory(args: &BenchArchitecturesArgs, both: &Loaded, of_two: u64) -> Result<(), CliError> {
    let resident = both.server.resident_bytes();
    let tensors: u64 = both.heads.iter().map(|head| head.tensor_bytes as u64).sum();
    let grown = resident.saturating_sub(both.before);
    let of_tensors = grown as f64 / tensors as f64;
    if args.json {
        return print_json(
            &json!({ "part": "backbones", "resident_bytes": resident, "resident_bytes_before": both.before,
            "resident_bytes_of_two": of_two, "tensor_bytes": tensors, "grown_of_tensors": of_tensors }),
        );
    }
    print_line(format_args!(
        "\nresident memory: {} before the heads, where two servers have {}; {} with them, {of_tensors:.2} of their {} of \
         tensors more",
        bytes(both.before),
        bytes(of_two),
        bytes(resident),
        bytes(tensors),
    ))
}
