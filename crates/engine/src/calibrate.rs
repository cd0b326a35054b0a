//! The warm-up: proves that the network computes, and finds the batch size from which on larger ones gain nothing.

use std::time::{Duration, Instant};

use headswap_model::{Backend, BackendError};
use headswap_spec::PICTURE_BYTES;

/// A larger batch must be this much faster per picture to be worth its latency and memory.
const WORTHWHILE: f64 = 0.95;

/// What the warm-up found.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The batch size to use.
    pub max_batch: usize,
    /// Each size tried and its time for one picture.
    pub per_picture: Vec<(usize, Duration)>,
}

/// Runs batches of 1, 2, 4, … pictures, each twice, until `ceiling` is reached or `budget` would be exceeded by the faster
/// runs. The batch of one always runs.
///
/// # Errors
/// What the first forward pass that failed said. Running out of memory at a larger batch only ends the search.
pub fn calibrate(network: &mut dyn Backend, ceiling: usize, budget: Duration) -> Result<Calibration, BackendError> {
    // What a size costs the first time, as memory and plans, is not its speed.
    let mut spent = Duration::ZERO;
    let mut per_picture: Vec<(usize, Duration)> = Vec::new();
    let mut size = 1;
    while size <= ceiling {
        // The first run of a size also allocates; the faster of two is its speed.
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

/// Measures a batch size that was chosen already, beside the batch of one.
///
/// # Errors
/// As [`calibrate`].
pub fn measure(network: &mut dyn Backend, max_batch: usize) -> Result<Calibration, BackendError> {
    let mut per_picture = vec![(1, fastest_of(2, network, 1)?)];
    if max_batch > 1 {
        let time = fastest_of(1, network, max_batch)?;
        per_picture.push((max_batch, time / max_batch as u32));
    }
    Ok(Calibration { max_batch, per_picture })
}

/// The shortest of some runs of a batch of grey pictures.
fn fastest_of(runs: usize, network: &mut dyn Backend, size: usize) -> Result<Duration, BackendError> {
    let grey = [127; PICTURE_BYTES];
    let (pictures, rows) = (vec![&grey[..]; size], (0..size).collect::<Vec<_>>());
    let mut fastest = Duration::MAX;
    for _ in 0..runs {
        let started = Instant::now();
        network.forward(&pictures, &[], &rows)?;
        fastest = fastest.min(started.elapsed());
    }
    Ok(fastest)
}

/// The smallest size within [`WORTHWHILE`] of the fastest.
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
    fn the_smallest_size_that_is_nearly_fastest_wins() {
        let check = |times: &[(usize, u64)], expected| {
            let times: Vec<_> = times
                .iter()
                .map(|&(size, us)| (size, Duration::from_micros(us)))
                .collect();
            assert_eq!(best(&times), expected, "{times:?}");
        };
        check(&[(1, 100)], 1);
        check(&[(1, 100), (2, 97)], 1);
        check(&[(1, 100), (2, 60), (4, 59)], 2);
        check(&[(1, 100), (2, 60), (4, 30), (8, 31)], 4);
    }
}
