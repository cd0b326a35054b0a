//! Streams that are read as fast as they are answered, alone and beside unary clients.

use std::time::{Duration, Instant};

use headswap_loadtest::ServerProcess;
use headswap_proto::classify_request::Input;
use serde_json::{Value, json};

use super::BenchIsolationArgs;
use super::bulk_streams::{BulkStreams, Totals};
use super::unary_calls::{UnaryCalls, Until};
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::error::CliError;
use crate::commands::output::{ms, print_json, print_line, progress};

const COLUMNS: [Column; 10] = [
    (
        "clients",
        "streams that are read as fast as they are answered, and unary clients beside them",
    ),
    ("images/s", "answers a second of both, median of the repetitions"),
    (
        "of alone",
        "that rate divided by the streams' alone right before and after",
    ),
    ("streams' part", "the streams' answers divided by all answers"),
    ("refused", "unary calls that got an error"),
    ("p50", "latency that half of the unary calls stay below or at"),
    ("p99", "latency that 99 % of the unary calls stay below or at"),
    ("max", "longest latency of a unary call"),
    (
        "p99 of wait",
        "p99 of latency divided by the longest batch and the call's own: what it may have to wait for",
    ),
    ("max of wait", "the largest such ratio"),
];

/// What was measured beside these streams.
pub(super) struct BesideBulk {
    /// One more than beside few clients: each of those is compared with the mean of the ones before and after it.
    alone: Vec<Window>,
    beside_few: Vec<Window>,
    beside_many: Vec<Window>,
    /// The longest forward pass that any answer was part of.
    longest: Duration,
    totals: Totals,
}

/// The answers of some time.
struct Window {
    elapsed: Duration,
    bulk: u64,
    unary: UnaryCalls,
}

impl BesideBulk {
    pub async fn measure(
        args: &BenchIsolationArgs,
        server: &ServerProcess,
        pictures: &[Input],
    ) -> Result<Self, CliError> {
        let measurement = Measurement {
            streams: BulkStreams::start(server, args.streams, args.in_flight, pictures).await?,
            server,
            pictures,
            length: Duration::from_secs_f64(args.seconds),
        };
        let repetitions = args.repetitions.max(1);
        let bar = progress(2 * repetitions as u64, "streams alone, and beside unary clients");
        // Until the streams have as many requests under way as they will.
        tokio::time::sleep(measurement.length / 4).await;
        let mut alone = vec![measurement.window(0).await?];
        let mut beside_few = Vec::new();
        for _ in 0..repetitions {
            beside_few.push(measurement.window(args.unary_clients).await?);
            alone.push(measurement.window(0).await?);
            bar.inc(1);
        }
        let mut beside_many = Vec::new();
        if args.interactive_clients > 0 {
            for _ in 0..repetitions {
                beside_many.push(measurement.window(args.interactive_clients).await?);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let unary = beside_few
            .iter()
            .chain(&beside_many)
            .map(|window| window.unary.longest_own());
        Ok(Self {
            longest: measurement.streams.longest().max(unary.max().unwrap_or_default()),
            alone,
            beside_few,
            beside_many,
            totals: measurement.streams.stop().await?,
        })
    }

    /// What must not be.
    pub fn complaints(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let refused: u64 = self
            .beside_few
            .iter()
            .chain(&self.beside_many)
            .map(|window| window.unary.refused)
            .sum();
        if refused > 0 {
            wrong.push(format!("beside streams, {refused} unary calls were refused"));
        }
        let Totals { sent, answered, failed } = self.totals;
        if sent != answered || failed > 0 {
            wrong.push(format!(
                "of {sent} requests of streams {answered} were answered, {failed} of them with an error"
            ));
        }
        wrong
    }

    pub fn report(&self, args: &BenchIsolationArgs) -> Result<(), CliError> {
        let mut rows = BenchTable::new(&COLUMNS);
        let rate = median(self.alone.iter().map(Window::per_second));
        let mut cells = [(); 10].map(|()| "-".to_owned());
        cells[0] = format!("{} streams", args.streams);
        cells[1] = format!("{rate:.1}");
        cells[2] = "1".into();
        cells[3] = "1".into();
        rows.add(cells);
        if args.json {
            print_json(
                &json!({ "streams": args.streams, "in_flight": args.in_flight, "unary_clients": 0,
                "images_per_second": rate }),
            )?;
        }
        for (clients, windows) in [
            (args.unary_clients, &self.beside_few),
            (args.interactive_clients, &self.beside_many),
        ] {
            if windows.is_empty() {
                continue;
            }
            let row = Row::new(windows, self, clients);
            if args.json {
                print_json(&row.json(args))?;
            }
            rows.add(row.cells(args));
        }
        if args.json {
            return Ok(());
        }
        rows.print()?;
        print_line(format_args!(
            "\nlongest batch {}; streams keep {} % (--bulk-share) of what the device computes while both wait; {} of {} \
             requests of streams answered",
            ms(self.longest),
            args.bulk_share,
            self.totals.answered,
            self.totals.sent
        ))
    }

    /// How many images/s there are in each of these windows, for one without unary clients right before and after.
    fn ratios(&self) -> impl Iterator<Item = f64> {
        let alone = self
            .alone
            .windows(2)
            .map(|two| (two[0].per_second() + two[1].per_second()) / 2.0);
        self.beside_few
            .iter()
            .zip(alone)
            .map(|(window, alone)| window.per_second() / alone)
    }
}

/// What windows are measured with.
struct Measurement<'a> {
    streams: BulkStreams,
    server: &'a ServerProcess,
    pictures: &'a [Input],
    length: Duration,
}

impl Measurement<'_> {
    async fn window(&self, clients: usize) -> Result<Window, CliError> {
        let clients = self.server.classifiers(clients).await?;
        let (began, before) = (Instant::now(), self.streams.answered());
        let mut unary = UnaryCalls::default();
        if clients.is_empty() {
            tokio::time::sleep(self.length).await;
        } else {
            unary = UnaryCalls::run(clients, self.pictures, Until::Time(began + self.length)).await?;
        }
        Ok(Window {
            bulk: self.streams.answered() - before,
            elapsed: began.elapsed(),
            unary,
        })
    }
}

impl Window {
    fn per_second(&self) -> f64 {
        (self.bulk + self.unary.answered()) as f64 / self.elapsed.as_secs_f64()
    }

    /// The streams' part of all answers.
    fn bulk_part(&self) -> f64 {
        self.bulk as f64 / (self.bulk + self.unary.answered()) as f64
    }
}

/// Medians over windows with as many unary clients, and all of their calls.
struct Row {
    clients: usize,
    rate: f64,
    /// Of the streams alone; those beside many clients are too far from the windows without.
    ratio: Option<f64>,
    bulk_part: f64,
    unary: UnaryCalls,
    longest: Duration,
}

impl Row {
    fn new(windows: &[Window], measured: &BesideBulk, clients: usize) -> Self {
        let mut unary = UnaryCalls::default();
        for window in windows {
            unary.extend(&window.unary);
        }
        let beside_few = std::ptr::eq(windows, &*measured.beside_few);
        Self {
            clients,
            rate: median(windows.iter().map(Window::per_second)),
            ratio: beside_few.then(|| median(measured.ratios())),
            bulk_part: median(windows.iter().map(Window::bulk_part)),
            unary,
            longest: measured.longest,
        }
    }

    /// Of few clients' calls; many wait for each other, too.
    fn latency_ratio(&self, share: f64) -> Option<f64> {
        self.ratio.map(|_| self.unary.ratio(self.longest, share))
    }

    fn cells(&self, args: &BenchIsolationArgs) -> [String; 10] {
        [
            format!("{} streams, {} unary", args.streams, self.clients),
            format!("{:.1}", self.rate),
            self.ratio.map_or("-".into(), |ratio| format!("{ratio:.3}")),
            format!("{:.3}", self.bulk_part),
            self.unary.refused.to_string(),
            ms(self.unary.latency(0.5)),
            ms(self.unary.latency(0.99)),
            ms(self.unary.latency(1.0)),
            self.latency_ratio(0.99)
                .map_or("-".into(), |ratio| format!("{ratio:.2}")),
            self.latency_ratio(1.0)
                .map_or("-".into(), |ratio| format!("{ratio:.2}")),
        ]
    }

    fn json(&self, args: &BenchIsolationArgs) -> Value {
        json!({
            "streams": args.streams, "in_flight": args.in_flight, "unary_clients": self.clients,
            "images_per_second": self.rate, "of_streams_alone": self.ratio, "bulk_part": self.bulk_part,
            "bulk_share": args.bulk_share, "unary_answered": self.unary.answered(), "refused": self.unary.refused,
            "p50_ms": self.unary.latency_ms(0.5), "p99_ms": self.unary.latency_ms(0.99),
            "max_ms": self.unary.latency_ms(1.0),
            "longest_batch_ms": self.longest.as_secs_f64() * 1e3,
            "latency_ratio_p99": self.latency_ratio(0.99), "latency_ratio_max": self.latency_ratio(1.0),
        })
    }
}

/// The middle one of the values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
