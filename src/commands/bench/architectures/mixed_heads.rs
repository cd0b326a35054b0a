//! Heads of five architectures beside as many last Linears: throughput and memory.

use std::sync::Arc;

use headswap_loadtest::ServerProcess;
use serde_json::json;

use super::families::Family;
use super::known_traffic::{KnownLoad, KnownTraffic, Photographs, PlacedHead};
use super::{BenchArchitecturesArgs, median};
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::bench::machine::Machine;
use crate::commands::error::CliError;
use crate::commands::output::{bytes, ms, print_json, print_line, progress, spinner};

const COLUMNS: [Column; 6] = [
    ("heads", "that the requests choose from, each as likely"),
    ("images/s", "answers a second of all clients, median of the repetitions"),
    (
        "of one",
        "that rate divided by the one right before it over heads of one architecture, median",
    ),
    ("p99", "latency that 99 % of the requests stay below or at, median"),
    ("failed", "requests that got an error"),
    ("wrong", "answers whose logits, recomputed here, are others"),
];

/// Memory of the server, in bytes.
struct Memory {
    before: u64,
    /// With all mixed heads placed.
    grown: u64,
    tensors: u64,
    /// The same after the loads, with the heads of one architecture, too.
    grown_after: u64,
    tensors_after: u64,
}

pub(super) async fn run(args: &BenchArchitecturesArgs) -> Result<Machine, CliError> {
    let waiting = spinner("starting a server");
    let server = ServerProcess::start(args.server_flags()).await?;
    let machine = Machine::serving(&args.model.backend(), &server.model().await?);
    let photographs = Arc::new(Photographs::embed(&server).await?);
    waiting.finish_and_clear();
    if args.json {
        machine.print_json()?;
    }
    let load = (args.concurrency, args.seconds);
    // A load before there are heads, so that what only traffic takes is not counted for them.
    KnownTraffic::run(&server, &photographs, &Arc::default(), load).await?;
    let before = server.resident_bytes();
    let mixed = place(args, &server, &photographs, ("mixed", &Family::ALL)).await?;
    let grown = server.resident_bytes().saturating_sub(before);
    let one = place(args, &server, &photographs, ("one", &[Family::LastLinear])).await?;

    let mut measured: [Vec<KnownLoad>; 2] = Default::default();
    for _ in 0..args.repetitions.max(1) {
        for (heads, measured) in [&one, &mixed].into_iter().zip(&mut measured) {
            measured.push(KnownTraffic::run(&server, &photographs, heads, load).await?);
        }
    }
    let memory = Memory {
        before,
        grown,
        tensors: tensor_bytes(&mixed),
        grown_after: server.resident_bytes().saturating_sub(before),
        tensors_after: tensor_bytes(&mixed) + tensor_bytes(&one),
    };
    report(args, &measured, &memory)?;
    let ended = server.stop().await?.success();
    let faults: u64 = measured.iter().flatten().map(|load| load.failed + load.wrong).sum();
    match ended && faults == 0 {
        true => Ok(machine),
        false => Err(CliError::Failed(format!("{faults} answers failed or were wrong"))),
    }
}

/// Sends heads of these families in turn.
async fn place(
    args: &BenchArchitecturesArgs,
    server: &ServerProcess,
    photographs: &Photographs,
    (kind, families): (&'static str, &[Family]),
) -> Result<Arc<Vec<PlacedHead>>, CliError> {
    let mut admin = server.admin().await?;
    let bar = progress(args.heads as u64, kind);
    let mut placed = Vec::with_capacity(args.heads);
    for index in 0..args.heads {
        let family = families[index % families.len()];
        // Other seeds for each kind, as equal tensors are placed once.
        let seed = 2 * index as u64 + u64::from(kind == "one");
        let head = (family, family.head(args.arch, seed));
        placed.push(photographs.place(&mut admin, format!("{kind}-{index}"), head).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Arc::new(placed))
}

fn tensor_bytes(heads: &[PlacedHead]) -> u64 {
    heads.iter().map(|head| head.tensor_bytes as u64).sum()
}

fn report(args: &BenchArchitecturesArgs, measured: &[Vec<KnownLoad>; 2], memory: &Memory) -> Result<(), CliError> {
    let mut rows = BenchTable::new(&COLUMNS);
    let mut found = Vec::new();
    for (kind, loads) in ["one architecture", "five, mixed"].into_iter().zip(measured) {
        let (mut rates, mut ratios, mut p99s) = (Vec::new(), Vec::new(), Vec::new());
        let (mut failed, mut wrong) = (0, 0);
        for (load, one) in loads.iter().zip(&measured[0]) {
            rates.push(load.summary.per_second());
            ratios.push(load.summary.per_second() / one.summary.per_second());
            p99s.push(load.summary.quantile(0.99).as_secs_f64());
            failed += load.failed;
            wrong += load.wrong;
        }
        let (rate, ratio, p99) = (median(rates), median(ratios), median(p99s));
        rows.add([
            format!("{} of {kind}", args.heads),
            format!("{rate:.1}"),
            format!("{ratio:.3}"),
            ms(std::time::Duration::from_secs_f64(p99)),
            failed.to_string(),
            wrong.to_string(),
        ]);
        found.push(
            json!({ "heads": kind, "images_per_second": rate, "of_one": ratio, "p99_ms": p99 * 1e3,
            "failed": failed, "wrong": wrong }),
        );
    }
    let of_tensors = memory.grown as f64 / memory.tensors as f64;
    let of_tensors_after = memory.grown_after as f64 / memory.tensors_after as f64;
    if args.json {
        return print_json(&json!({ "part": "heads", "count": args.heads, "measured": found,
            "resident_bytes_before": memory.before, "grown_bytes": memory.grown, "tensor_bytes": memory.tensors,
            "grown_of_tensors": of_tensors, "grown_of_tensors_after": of_tensors_after }));
    }
    rows.print()?;
    print_line(format_args!(
        "\nresident memory: {} before the heads, {} more with the mixed ones, {of_tensors:.2} of their {} of tensors; \
         {of_tensors_after:.2} of all heads' {} after the loads",
        bytes(memory.before),
        bytes(memory.grown),
        bytes(memory.tensors),
        bytes(memory.tensors_after),
    ))
}
