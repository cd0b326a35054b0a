//! The backbone's whole pass, recorded for each size of batch that is prepared: a batch of that size or fewer runs it
//! without a word to the device in between.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tch::{Kind, Tensor};

use super::accelerator::{Accelerator, Recorded, Search};
use crate::error::Result;

/// From here on there is a size between each power of two and the next: padding costs a third at most.
const FINE_FROM: usize = 32;

/// How long the fastest algorithms may be looked for. The largest sizes come first, which gain most.
const SEARCH_TIME: Duration = Duration::from_secs(60);

/// How many rows a batch is padded to: few different numbers, as algorithms are chosen for each.
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
    /// `[rows, 224, 224, 3]` u8: where a batch's pictures go.
    pixels: Tensor,
    recorded: Recorded,
}

impl Graphs {
    /// Records `run`, from pictures to features, for all sizes up to what batches of `max_batch` are padded to, each after
    /// `before`, which is told the size. The largest comes first, so that the others find room in its memory. A size that
    /// cannot be recorded is left out, and so are all once `stop` says so.
    ///
    /// `like` is any picture or batch of them where they will be.
    pub fn record(
        &mut self,
        accelerator: &dyn Accelerator,
        max_batch: usize,
        stop: &AtomicBool,
        like: &Tensor,
        before: impl Fn(usize) -> Result<()>,
        run: impl Fn(&Tensor) -> Result<Tensor> + Clone + Send + 'static,
    ) {
        let began = Instant::now();
        let sizes = (1..=padded(max_batch)).rev().filter(|&rows| padded(rows) == rows);
        for rows in sizes {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if self.passes.contains_key(&rows) {
                continue;
            }
            let search = match began.elapsed() < SEARCH_TIME {
                true => Search::Measured,
                false => Search::Guessed,
            };
            let mut shape = like.size();
            shape[0] = rows as i64;
            let pass = || -> Result<Pass> {
                let pixels = Tensor::f_zeros(&shape, (Kind::Uint8, like.device()))?;
                let (run, input) = (run.clone(), pixels.shallow_clone());
                let recorded = accelerator.record(search, &|| before(rows), Box::new(move || run(&input)))?;
                Ok(Pass { pixels, recorded })
            };
            match pass() {
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
                    tracing::warn!(%error, rows, "the pass cannot be recorded, batches of this size are slower");
                }
            }
        }
    }

    /// The features of these pictures, which stay until the next pass; nothing if no recorded pass has room for them.
    pub fn run(&self, pixels: &Tensor) -> Result<Option<Tensor>> {
        let rows = pixels.size()[0];
        let Some((_, pass)) = self.passes.range(rows as usize..).next() else {
            return Ok(None);
        };
        // Beyond these rows lie pictures of earlier batches; no row sees another.
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
        fn padding_is_the_least_of_few_sizes(rows in 1usize..1000) {
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
