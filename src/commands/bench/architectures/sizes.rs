//! ms an image by the size of the pictures, without a server.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use headswap_image::Prepared;
use headswap_loadtest::SpecHead;
use headswap_model::{Backbone, Backend, Device, HeadRows, InputRow, PlacedHead, TorchRuntime, open_backend};
use headswap_spec::{CompleteSpec, HeadInput, PICTURE_SIDE, Preprocessing, Preset, Resize};
use serde_json::json;

use super::{BenchArchitecturesArgs, median};
use crate::commands::bench::bare_forward::Times;
use crate::commands::bench::legend::{BenchTable, Column};
use crate::commands::bench::machine::Machine;
use crate::commands::error::CliError;
use crate::commands::output::{print_json, print_line, progress};

const COLUMNS: [Column; 6] = [
    ("side", "of the square pictures, in pixels"),
    (
        "features",
        "ms an image for a head of the features, which are made of a map averaged to 7x7",
    ),
    (
        "a pixel",
        "of the time a pixel of 224x224 in the same round, median of the repetitions",
    ),
    (
        "average",
        "ms an image for a head of each channel's mean, which passes the convolutions alone",
    ),
    ("a pixel of average", "as above, for that head"),
    (
        "tiles",
        "multiplications a pixel, of those of 224x224: tiles of 4x4 may exceed a map",
    ),
];

const INPUTS: [HeadInput; 2] = [HeadInput::Features, HeadInput::GlobalAverage];

/// What one lane of the device computes with.
struct Lane {
    backend: Box<dyn Backend>,
    /// Times are CPU time then, which other work on the machine disturbs little.
    on_cpu: bool,
    batch: usize,
    seconds: f64,
}

/// A head for pictures of one size, and its times.
struct SizedHead {
    side: u32,
    preprocessing: Preprocessing,
    placed: PlacedHead,
    /// ms an image, by round.
    times: Vec<f64>,
}

pub(super) fn run(args: &BenchArchitecturesArgs, torch: Option<&dyn TorchRuntime>) -> Result<Machine, CliError> {
    let mut backbone = Backbone::load(&args.model.weights, args.arch).map_err(|error| failed(&error))?;
    backbone.take_last_linear();
    let backend = open_backend(vec![backbone], &args.model.backend(), torch).map_err(|error| failed(&error))?;
    let devices: Vec<String> = backend.devices().iter().map(ToString::to_string).collect();
    let machine = Machine::computing(&args.model.backend(), &devices.join(","), backend.precision());
    if args.json {
        machine.print_json()?;
    }
    let heads = place(args, backend.as_ref())?;
    let Some(backend) = backend.into_lanes().into_iter().flatten().next() else {
        return Err(CliError::Failed("the device has no lane".into()));
    };
    let lane = Lane {
        on_cpu: backend.devices() == [Device::Cpu],
        backend,
        batch: args.batch.max(1),
        seconds: args.seconds,
    };
    let heads = lane.measure(heads, args.repetitions.max(1))?;
    report(args, &heads)?;
    Ok(machine)
}

fn failed(error: &dyn std::error::Error) -> CliError {
    CliError::Failed(error.to_string())
}

/// Returns a head of each input for each side, 224 before the others.
fn place(args: &BenchArchitecturesArgs, backend: &dyn Backend) -> Result<[Vec<SizedHead>; 2], CliError> {
    let reference = PICTURE_SIDE as u32;
    let mut sides = vec![reference];
    sides.extend(args.sides.iter().copied().filter(|side| *side != reference));
    let mut heads: [Vec<SizedHead>; 2] = Default::default();
    for (heads, input) in heads.iter_mut().zip(INPUTS) {
        let width = match input {
            HeadInput::Features => args.arch.features(),
            _ => args.arch.features() / 8,
        };
        for &side in &sides {
            let preprocessing = Preprocessing {
                resize: Some(Resize::Stretch([side; 2])),
                ..Preset::TorchvisionStretch.preprocessing()
            };
            let spec = CompleteSpec {
                input,
                ..CompleteSpec::plain(preprocessing, 10)
            };
            let head = SpecHead::new(spec, &[width, 10], side.into());
            let placed = backend.placer().place(&head.parameters, &head.spec);
            heads.push(SizedHead {
                side,
                preprocessing,
                placed: placed.map_err(|error| failed(&error))?,
                times: Vec::new(),
            });
        }
    }
    Ok(heads)
}

impl Lane {
    fn measure(mut self, mut heads: [Vec<SizedHead>; 2], rounds: usize) -> Result<[Vec<SizedHead>; 2], CliError> {
        let prepared = self.backend.prepare(self.batch, &AtomicBool::new(false));
        prepared.map_err(|error| failed(&error))?;
        let bar = progress((rounds * 2 * heads[0].len()) as u64, "sizes");
        for _ in 0..rounds {
            for head in heads.iter_mut().flatten() {
                let time = self.time(head)?;
                head.times.push(time);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(heads)
    }

    /// Returns ms an image.
    fn time(&mut self, head: &SizedHead) -> Result<f64, CliError> {
        let side = head.side as usize;
        let picture = Prepared::Bytes {
            size: [side; 2],
            values: (0..side * side * 3).map(|at| (at * 31 % 251) as u8).collect(),
        };
        let row = InputRow {
            picture: &picture,
            preprocessing: &head.preprocessing,
        };
        let rows = vec![row; self.batch];
        let groups = [HeadRows {
            head: &head.placed,
            rows: (0..self.batch).collect(),
        }];
        let mut runs = 0;
        let before = cpu_time();
        let times = Times::of(Duration::from_secs_f64(self.seconds), || {
            runs += 1;
            let outputs = self.backend.forward(&rows, &groups, &[]);
            outputs.map(drop).map_err(|error| failed(&error))
        })?;
        let time = match (before, cpu_time()) {
            (Some(before), Some(after)) if self.on_cpu => (after - before) / runs,
            _ => times.median(),
        };
        Ok(time.as_secs_f64() * 1e3 / self.batch as f64)
    }
}

/// Returns the CPU time of all threads of this process; none where the system does not tell.
fn cpu_time() -> Option<Duration> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        // sched-stats.rst: the first number is the time spent on a CPU, in nanoseconds.
        let schedstat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += schedstat.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanoseconds))
}

impl SizedHead {
    /// Returns the median time in ms an image, and the median of the times a pixel of those of `reference` in the same round.
    fn medians(&self, reference: &Self) -> [f64; 2] {
        let pixels = f64::from(self.side).powi(2) / f64::from(reference.side).powi(2);
        let ratios = self.times.iter().zip(&reference.times);
        let ratios = ratios.map(|(time, reference)| time / reference / pixels);
        [median(self.times.clone()), median(ratios.collect())]
    }
}

/// Returns the multiplications of the convolutions a pixel, with maps rounded up to whole tiles of 4x4. Each of VGG16's five
/// blocks has its share of them; the first convolution is computed without tiles.
fn multiplications_a_pixel(side: u32) -> f64 {
    // 64x64, 64x128, 128x128, ...: products of channels, in units of 64x64.
    const BLOCKS: [f64; 5] = [1.0, 2.0 + 4.0, 8.0 + 2.0 * 16.0, 32.0 + 2.0 * 64.0, 3.0 * 64.0];
    let (mut map, mut sum) = (side, 0.0);
    for products in BLOCKS {
        sum += products * f64::from(map.next_multiple_of(4)).powi(2);
        map /= 2;
    }
    sum / f64::from(side).powi(2)
}

fn report(args: &BenchArchitecturesArgs, heads: &[Vec<SizedHead>; 2]) -> Result<(), CliError> {
    let [features, averages] = heads;
    let mut rows = BenchTable::new(&COLUMNS);
    for (feature, average) in features.iter().zip(averages) {
        let [ms, of_pixel] = feature.medians(&features[0]);
        let [average_ms, average_of_pixel] = average.medians(&averages[0]);
        let tiles = multiplications_a_pixel(feature.side) / multiplications_a_pixel(features[0].side);
        if args.json {
            print_json(
                &json!({ "part": "sizes", "side": feature.side, "batch": args.batch, "ms_per_image": ms,
                "a_pixel": of_pixel, "average_ms_per_image": average_ms, "average_a_pixel": average_of_pixel,
                "tiles": tiles }),
            )?;
        }
        rows.add([
            feature.side.to_string(),
            format!("{ms:.2}"),
            format!("{of_pixel:.3}"),
            format!("{average_ms:.2}"),
            format!("{average_of_pixel:.3}"),
            format!("{tiles:.3}"),
        ]);
    }
    if args.json {
        return Ok(());
    }
    print_line(format_args!(
        "batches of {}, u8 pixels to logits; on a CPU, the CPU time of all threads",
        args.batch
    ))?;
    rows.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_that_tiles_divide_multiply_least() {
        let least = multiplications_a_pixel(256);
        assert_eq!(multiplications_a_pixel(320), least);
        for side in [150, 180, 224, 300] {
            assert!(multiplications_a_pixel(side) > least, "{side}");
        }
    }
}
