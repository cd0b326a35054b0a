//! `headswap bench image`: from a file's bytes to pixels, on one core.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::bare_forward::Times;
use super::demo::PHOTOGRAPHS;
use super::error::CliError;
use super::output::{print_json, print_table, table};
use crate::image::{self, ImageLimits};

#[derive(Args, Debug)]
pub(super) struct BenchImageArgs {
    /// Files of pictures; without, the photographs of the demo
    images: Vec<PathBuf>,
    /// Seconds for each picture
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BenchImageArgs) -> Result<(), CliError> {
    let mut rows = table(&["picture", "ms (median)", "images/s of one core"]);
    for (name, bytes) in args.files()? {
        let decode = || {
            let decoded = image::decode(&bytes, ImageLimits::default());
            decoded
                .map(drop)
                .map_err(|error| CliError::Failed(format!("{name}: {error}")))
        };
        let times = Times::of(Duration::from_secs_f64(args.seconds), decode)?;
        let time = times.median().as_secs_f64();
        if args.json {
            print_json(&json!({ "image": name, "ms": time * 1e3 }));
        }
        rows.add_row([name, format!("{:.2}", time * 1e3), format!("{:.0}", 1.0 / time)]);
    }
    if !args.json {
        println!("decoding, resizing and cropping, one picture after the other");
        print_table(&rows);
    }
    Ok(())
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
