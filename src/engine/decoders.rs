//! Decode slots: pictures are decoded on the blocking pool, a bounded number at a time.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::class::Class;
use super::error::Stage;
use super::metrics::EngineMetrics;
use super::request::{Entry, Input};
use super::scheduler::Scheduled as _;
use crate::image::{ImageError, Pixels};

/// Turns encoded bytes into a picture.
pub type Decode = dyn Fn(&Bytes) -> Result<Pixels, ImageError> + Send + Sync;

/// A picture that was decoded, or is refused.
pub(super) struct Decoded {
    pub class: Class,
    /// None if its caller was answered or is gone.
    pub entry: Option<Entry>,
}

/// Starts decoding where a slot is free.
pub(super) struct Decoders {
    pub decode: std::sync::Arc<Decode>,
    pub slots: usize,
    pub busy: usize,
    /// Where each decoded picture goes. Bounded by the slots.
    pub done: mpsc::UnboundedSender<Decoded>,
    pub metrics: EngineMetrics,
}

impl Decoders {
    /// Whether a slot is free.
    pub fn has_slot(&self) -> bool {
        self.busy < self.slots
    }

    /// Decodes an entry's picture in a slot of its own; [`Decoders::done`] gets it afterwards.
    pub fn start(&mut self, mut entry: Entry) {
        self.busy += 1;
        let (decode, done, metrics) = (self.decode.clone(), self.done.clone(), self.metrics.clone());
        entry.progress.set(Stage::Decoding);
        tokio::task::spawn_blocking(move || {
            let class = entry.class();
            let started = Instant::now();
            let decoded = match &entry.input {
                Input::Image(bytes) => guarded(&*decode, bytes).map(Input::Pixels),
                other => Ok(other.clone()),
            };
            entry.decode = started.elapsed();
            metrics.observe_decode(entry.decode);
            let entry = match decoded {
                Ok(input) => {
                    entry.input = input;
                    entry.progress.set(Stage::Waiting);
                    Some(entry)
                }
                Err(error) => {
                    entry.answer(Err(error.into()));
                    None
                }
            };
            // Nothing receives it only if the runtime is shutting down.
            let _ = done.send(Decoded { class, entry });
        });
    }

    /// Frees a slot.
    pub fn finished(&mut self) {
        self.busy -= 1;
    }
}

/// A decoder that panics refuses its picture, and nothing else.
fn guarded(decode: &Decode, bytes: &Bytes) -> Result<Pixels, ImageError> {
    let decoded = catch_unwind(std::panic::AssertUnwindSafe(|| decode(bytes)));
    decoded.unwrap_or_else(|_| {
        let reason = "the decoder failed on it".to_owned();
        Err(ImageError::Malformed {
            format: "encoded",
            reason,
        })
    })
}

impl EngineMetrics {
    fn observe_decode(&self, time: Duration) {
        self.decode.observe(time.as_secs_f64());
    }
}
