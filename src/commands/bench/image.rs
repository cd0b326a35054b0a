//! `headswap bench image`: from a file's bytes to pixels, on one core.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use headswap_client::ClientError;
use headswap_image::{self as image, ImageSettings, JpegScaling, Pixels};
use headswap_loadtest::PHOTOGRAPHS;
use serde_json::json;

use super::bare_forward::Times;
use super::legend::{BenchTable, Column};
use super::machine::Machine;
use crate::commands::error::CliError;
use crate::commands::output::{print_json, print_line};

#[derive(Args, Debug)]
pub(crate) struct BenchImageArgs {
    /// Files of pictures; without, the photographs of the demo
    images: Vec<PathBuf>,
    /// Seconds for each picture
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// As `headswap serve --jpeg-scaling`
    #[arg(long, value_enum, default_value = "off")]
    jpeg_scaling: JpegScaling,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

const COLUMNS: [Column; 6] = [
    ("picture", "the file"),
    ("ms", "median time to decode, resize and crop it"),
    ("images/s", "pictures a second of one core at that time"),
    (
        "mean",
        "mean difference of a byte from the picture decoded in full size, of 255",
    ),
    ("p99", "the difference that 99 % of the bytes stay below or at"),
    ("max", "the largest difference"),
];

pub(super) fn run(args: &BenchImageArgs) -> Result<(), CliError> {
    let settings = ImageSettings {
        jpeg_scaling: args.jpeg_scaling,
        ..ImageSettings::default()
    };
    let machine = Machine::decoding(1);
    if args.json {
        machine.print_json()?;
    }
    let mut rows = BenchTable::new(&COLUMNS);
    for (name, bytes) in args.files()? {
        let times = Times::of(Duration::from_secs_f64(args.seconds), || {
            decode(&name, &bytes, settings).map(drop)
        })?;
        let time = times.median().as_secs_f64();
        let ours = decode(&name, &bytes, settings)?;
        let Difference { mean, p99, max } = Difference::of(&ours, &decode(&name, &bytes, ImageSettings::default())?);
        if args.json {
            print_json(&json!({ "image": name, "ms": time * 1e3, "mean": mean, "p99": p99, "max": max }))?;
        }
        let (ms, rate) = (format!("{:.2}", time * 1e3), format!("{:.0}", 1.0 / time));
        rows.add([name, ms, rate, format!("{mean:.2}"), p99.to_string(), max.to_string()]);
    }
    if args.json {
        return Ok(());
    }
    print_line("decoding, resizing and cropping, one picture after the other")?;
    rows.print()?;
    machine.print()
}

fn decode(name: &str, bytes: &[u8], settings: ImageSettings) -> Result<Pixels, CliError> {
    let decoded = image::decode(bytes, settings);
    decoded.map_err(|error| CliError::Failed(format!("{name}: {error}")))
}

/// How far two pictures' bytes are apart.
struct Difference {
    mean: f64,
    p99: u8,
    max: u8,
}

impl Difference {
    fn of(ours: &Pixels, whole: &Pixels) -> Self {
        let pairs = ours.as_bytes().iter().zip(whole.as_bytes());
        let mut each: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
        each.sort_unstable();
        Self {
            mean: each.iter().map(|&value| f64::from(value)).sum::<f64>() / each.len() as f64,
            p99: each[each.len() * 99 / 100],
            max: each[each.len() - 1],
        }
    }
}

impl BenchImageArgs {
    fn files(&self) -> Result<Vec<(String, Vec<u8>)>, CliError> {
        let mut files = Vec::new();
        if self.images.is_empty() {
            for (name, bytes) in PHOTOGRAPHS {
                files.push((name.to_owned(), bytes.to_vec()));
            }
        }
        for path in &self.images {
            let bytes = std::fs::read(path).map_err(|error| ClientError::unreadable(path, error))?;
            files.push((path.display().to_string(), bytes));
        }
        Ok(files)
    }
}
