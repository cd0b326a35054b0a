//! Decode slots: pictures are decoded on the blocking pool, a bounded number at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headswap_image::{ImageError, ImageSettings, Pixels};
use tokio::sync::mpsc;

use super::class::Class;
use super::decode_budget::DecodeBudget;
use super::error::Stage;
use super::metrics::EngineMetrics;
use super::request::{Entry, Input};
use super::scheduler::Scheduled as _;

/// What turns encoded bytes into a picture.
pub trait Decode: Send + Sync {
    /// The most bytes of memory that [`Decode::decode`] takes for this picture. Quick, for it is asked before the picture
    /// waits for its turn.
    ///
    /// # Errors
    /// If the picture's header alone refuses it.
    fn memory(&self, bytes: &Bytes) -> Result<u64, ImageError>;

    /// The picture.
    ///
    /// # Errors
    /// If it is refused.
    fn decode(&self, bytes: &Bytes) -> Result<Pixels, ImageError>;
}

/// Decodes with these settings.
#[derive(Clone, Copy, Debug)]
pub struct PictureDecoder(pub ImageSettings);

impl Decode for PictureDecoder {
    fn memory(&self, bytes: &Bytes) -> Result<u64, ImageError> {
        headswap_image::open(bytes, self.0).map(|picture| picture.memory())
    }

    fn decode(&self, bytes: &Bytes) -> Result<Pixels, ImageError> {
        headswap_image::decode(bytes, self.0)
    }
}

/// A picture that was decoded, or is refused.
pub(super) struct Decoded {
    pub class: Class,
    /// The memory that is free again.
    pub memory: u64,
    /// None if its caller was answered or is gone.
    pub entry: Option<Entry>,
}

/// Starts decoding where a slot is free.
pub(super) struct Decoders {
    pub decode: Arc<dyn Decode>,
    pub slots: usize,
    pub busy: usize,
    pub budget: DecodeBudget,
    /// Where each decoded picture goes. Bounded by the slots.
    pub done: mpsc::UnboundedSender<Decoded>,
    pub metrics: EngineMetrics,
}

impl Decoders {
    /// Whether a slot is free.
    pub fn has_slot(&self) -> bool {
        self.busy < self.slots
    }

    /// Decodes an entry's picture, for which there is room, in a slot of its own; [`Decoders::done`] gets it afterwards.
    pub fn start(&mut self, mut entry: Entry) {
        self.busy += 1;
        self.budget.take(entry.memory);
        self.metrics.decode_reserved.inc_by(entry.memory as i64);
        let (decode, done, metrics) = (self.decode.clone(), self.done.clone(), self.metrics.clone());
        entry.progress.set(Stage::Decoding);
        tokio::task::spawn_blocking(move || {
            let (class, memory) = (entry.class(), entry.memory);
            let started = Instant::now();
            let decoded = match &entry.input {
                Input::Image(bytes) => guarded(|| decode.decode(bytes)).map(Input::Pixels),
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
            let _ = done.send(Decoded { class, memory, entry });
        });
    }

    /// Frees a slot and this much memory. Returns whether pictures may have waited for the memory.
    pub fn finished(&mut self, memory: u64) -> bool {
        self.busy -= 1;
        self.metrics.decode_reserved.dec_by(memory as i64);
        self.budget.give(memory)
    }
}

/// A decoder that panics refuses its picture, and nothing else.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|_| {
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
