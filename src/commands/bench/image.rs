//! `headswap bench image`: from a file's bytes to pixels, on one core.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use headswap_image::{self as image, ImageSettings, JpegScaling, Pixels};
use headswap_loadtest::PHOTOGRAPHS;
use serde_json::json;

use super::bare_forward::Times;
use crate::commands::error::CliError;
use crate::commands::output::{print_json, print_table, table};

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

pub(super) fn run(args: &BenchImageArgs) -> Result<(), CliError> {
    let settings = ImageSettings {
        jpeg_scaling: args.jpeg_scaling,
        ..ImageSettings::default()
    };
    let mut rows = table(&[
        "picture",
        "ms (median)",
        "images/s of one core",
        "mean, 99th percentile and largest difference from all pixels decoded",
    ]);
    for (name, bytes) in args.files()? {
        let decode = |settings| {
            let decoded = image::decode(&bytes, settings);
            decoded.map_err(|error| CliError::Failed(format!("{name}: {error}")))
        };
        let times = Times::of(Duration::from_secs_f64(args.seconds), || decode(settings).map(drop))?;
        let time = times.median().as_secs_f64();
        let difference = Difference::of(&decode(settings)?, &decode(ImageSettings::default())?);
        if args.json {
            let Difference { mean, p99, max } = difference;
            print_json(&json!({ "image": name, "ms": time * 1e3, "mean": mean, "p99": p99, "max": max }));
        }
        let (ms, rate) = (format!("{:.2}", time * 1e3), format!("{:.0}", 1.0 / time));
        rows.add_row([name, ms, rate, difference.to_string()]);
    }
    if !args.json {
        println!("decoding, resizing and cropping, one picture after the other");
        print_table(&rows);
    }
    Ok(())
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

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2}, {}, {}", self.mean, self.p99, self.max)
    }
}

impl BenchImageArgs {
    fn files(&self) -> Result<Vec<(String, Vec<u8>)>, CliError> {
        if self.images.is_empty() {
            let photographs = PHOTOGRAPHS.iter();
            return Ok(photographs
                .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
                .collect());
        }
        let read = |path: &PathBuf| {
            let bytes =
                std::fs::read(path).map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
            Ok((path.display().to_string(), bytes))
        };
        self.images.iter().map(read).collect()
    }
}
