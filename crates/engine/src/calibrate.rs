//! The warm-up: runs the network and finds the batch size beyond which larger ones are not faster per picture.

use std::time::{Duration, Instant};

use headswap_model::{Backend, BackendError};

use super::probe::Probe;

/// A larger batch is worth its latency and memory if it takes less than this fraction of the time per picture.
const WORTHWHILE: f64 = 0.95;

/// The result of the warm-up.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The batch size to use.
    pub max_batch: usize,
    /// Each measured size and its time per picture.
    pub per_picture: Vec<(usize, Duration)>,
}

/// Runs batches of 1, 2, 4, … pictures, each size twice, up to `ceiling` and while the total fits `budget`, estimated
/// as twice the faster run of each size. The batch of one always runs, on every backbone; the first backbone is measured, as
/// all take the same time.
///
/// # Errors
/// [`BackendError`] if a batch of one fails. A failure at a larger size only ends the search.
pub fn calibrate(network: &mut dyn Backend, ceiling: usize, budget: Duration) -> Result<Calibration, BackendError> {
    check_others(network)?;
    let mut spent = Duration::ZERO;
    let mut per_picture: Vec<(usize, Duration)> = Vec::new();
    let mut size = 1;
    while size <= ceiling {
        // The first run of a size also allocates and plans, so the faster of two counts.
        let fastest = match fastest_of(2, network, size) {
            Ok(time) => time / size as u32,
            Err(error) if per_picture.is_empty() => return Err(error),
            Err(_) => break,
        };
        per_picture.push((size, fastest));
        spent += fastest * (2 * size) as u32;
        let next = fastest * (4 * size) as u32; // two runs of twice the size
        if spent + next > budget {
            break;
        }
        size *= 2;
    }
    let max_batch = best(&per_picture);
    Ok(Calibration { max_batch, per_picture })
}

/// Measures a given batch size and the batch of one.
///
/// # Errors
/// As [`calibrate`].
pub fn measure(network: &mut dyn Backend, max_batch: usize) -> Result<Calibration, BackendError> {
    check_others(network)?;
    let mut per_picture = vec![(1, fastest_of(2, network, 1)?)];
    if max_batch > 1 {
        let time = fastest_of(1, network, max_batch)?;
        per_picture.push((max_batch, time / max_batch as u32));
    }
    Ok(Calibration { max_batch, per_picture })
}

/// Runs one picture on each backbone after the first.
fn check_others(network: &mut dyn Backend) -> Result<(), BackendError> {
    let probe = Probe::new();
    for backbone in 1..network.last_inputs().len() {
        probe.forward_on(network, backbone, 1)?;
    }
    Ok(())
}

/// Returns the shortest time of several runs of a batch of grey pictures.
fn fastest_of(runs: usize, network: &mut dyn Backend, size: usize) -> Result<Duration, BackendError> {
    let probe = Probe::new();
    let mut fastest = Duration::MAX;
    for _ in 0..runs {
        let started = Instant::now();
        probe.forward(network, size)?;
        fastest = fastest.min(started.elapsed());
    }
    Ok(fastest)
}

/// Returns the smallest size whose time per picture is within [`WORTHWHILE`] of the fastest.
fn best(per_picture: &[(usize, Duration)]) -> usize {
    let fastest = per_picture
        .iter()
        .map(|(_, time)| time.as_secs_f64())
        .fold(f64::INFINITY, f64::min);
    per_picture
        .iter()
        .find(|(_, time)| time.as_secs_f64() * WORTHWHILE <= fastest)
        .map_or(1, |(size, _)| *size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_size_that_is_nearly_the_fastest_is_chosen() {
        for (times, expected) in [
            (&[(1, 100)][..], 1),
            (&[(1, 100), (2, 97)], 1),
            (&[(1, 100), (2, 60), (4, 59)], 2),
            (&[(1, 100), (2, 60), (4, 30), (8, 31)], 4),
        ] {
            let times: Vec<_> = times
                .iter()
                .map(|&(size, us)| (size, Duration::from_micros(us)))
                .collect();
            assert_eq!(best(&times), expected, "{times:?}");
        }
    }
}
