//! The backbone's whole pass, recorded for each prepared batch size. A batch of at most that size replays it without
//! host–device synchronisation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tch::{Kind, Tensor};

use super::accelerator::{Accelerator, Recorded, Search};
use crate::error::Result;

/// Powers of two from this one on have another size midway below them, so that at most a third of a batch is padding.
const FINE_FROM: usize = 32;

/// Limit of the time for measuring algorithms. The largest sizes, which gain most, come first.
const SEARCH_TIME: Duration = Duration::from_secs(60);

/// Returns the number of rows that a batch is padded to. There are few sizes, because algorithms are chosen for each.
pub(super) fn padded(rows: usize) -> usize {
    let power = rows.next_power_of_two();
    let between = power / 4 * 3;
    if power >= FINE_FROM && rows <= between {
        between
    } else {
        power
    }
}

/// Recorded passes by number of rows.
#[derive(Default)]
pub(super) struct Graphs {
    passes: BTreeMap<usize, Pass>,
}

struct Pass {
    /// `[rows, 224, 224, 3]` u8: the input of the recorded pass.
    pixels: Tensor,
    recorded: Recorded,
}

/// How passes are recorded.
pub(super) struct Recording<'a> {
    pub accelerator: &'a dyn Accelerator,
    /// All sizes up to `padded(max_batch)` are recorded.
    pub max_batch: usize,
    /// Ends the recording once it is true.
    pub stop: &'a AtomicBool,
    /// Any batch of pictures on the device.
    pub like: &'a Tensor,
}

impl Recording<'_> {
    fn pass(
        &self,
        rows: usize,
        search: Search,
        before: &impl Fn(usize) -> Result<()>,
        run: impl Fn(&Tensor) -> Result<Tensor> + Send + 'static,
    ) -> Result<Pass> {
        let mut shape = self.like.size();
        shape[0] = rows as i64;
        let pixels = Tensor::f_zeros(&shape, (Kind::Uint8, self.like.device()))?;
        let input = pixels.shallow_clone();
        let recorded = self
            .accelerator
            .record(search, &|| before(rows), Box::new(move || run(&input)))?;
        Ok(Pass { pixels, recorded })
    }
}

impl Graphs {
    /// Records `run`, from pictures to features, for each size, after calling `before` with the size. The largest comes
    /// first, so that the others fit into its memory. A size that cannot be recorded is skipped.
    pub fn record(
        &mut self,
        recording: &Recording<'_>,
        before: impl Fn(usize) -> Result<()>,
        run: impl Fn(&Tensor) -> Result<Tensor> + Clone + Send + 'static,
    ) {
        let began = Instant::now();
        let sizes = (1..=padded(recording.max_batch))
            .rev()
            .filter(|&rows| padded(rows) == rows);
        for rows in sizes {
            if recording.stop.load(Ordering::Relaxed) {
                return;
            }
            if self.passes.contains_key(&rows) {
                continue;
            }
            let search = match began.elapsed() < SEARCH_TIME {
                true => Search::Measured,
                false => Search::Guessed,
            };
            match recording.pass(rows, search, &before, run.clone()) {
                Ok(pass) => {
                    tracing::info!(
                        rows,
                        measured = search == Search::Measured,
                        elapsed_ms = began.elapsed().as_millis() as u64,
                        "pass recorded"
                    );
                    self.passes.insert(rows, pass);
                }
                Err(error) => {
                    tracing::warn!(%error, rows, "cannot record the pass; batches of this size are slower");
                }
            }
        }
    }

    /// Returns the features of these pictures, which are valid until the next pass; `None` if no recorded pass is large
    /// enough.
    pub fn run(&self, pixels: &Tensor) -> Result<Option<Tensor>> {
        let rows = pixels.size()[0];
        let Some((_, pass)) = self.passes.range(rows as usize..).next() else {
            return Ok(None);
        };
        // The rows after these are pictures of earlier batches. Rows do not affect each other.
        pass.pixels.f_narrow(0, 0, rows)?.f_copy_(pixels)?;
        (pass.recorded.replay)()?;
        Ok(Some(pass.recorded.output.f_narrow(0, 0, rows)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_are_padded_to_the_next_size(rows in 1usize..1000) {
            let size = padded(rows);
            prop_assert!(size >= rows && padded(size) == size);
            prop_assert!((rows..size).all(|fewer| padded(fewer) == size));
            prop_assert!(size < 2 * rows && (rows < FINE_FROM || 2 * size <= 3 * rows));
        }
    }

    #[test]
    fn the_sizes_up_to_256() {
        let sizes: Vec<usize> = (1..=256).filter(|&rows| padded(rows) == rows).collect();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]);
    }
}
