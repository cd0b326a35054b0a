//! Decode slots: a bounded number of pictures is decoded at a time, on the blocking pool.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headswap_image::{ImageError, ImageSettings, Prepared};
use headswap_spec::Preprocessing;
use tokio::sync::mpsc;

use super::class::Class;
use super::cost::Cost;
use super::decode_budget::DecodeBudget;
use super::error::Stage;
use super::metrics::EngineMetrics;
use super::request::{Entry, Input, PreparedPicture};
use super::scheduler::Scheduled as _;

/// Decodes pictures.
pub trait Decode: Send + Sync {
    /// Returns an upper bound of the bytes of memory that [`Decode::decode`] takes. It reads only the header, so that it
    /// can be called before the picture is scheduled.
    ///
    /// # Errors
    /// [`ImageError`] if the header is refused.
    fn memory(&self, bytes: &Bytes, wanted: &[Preprocessing]) -> Result<u64, ImageError>;

    /// Decodes a picture and prepares it for each of `wanted`, which are distinct; the results are in the same order.
    ///
    /// # Errors
    /// [`ImageError`] if it is refused.
    fn decode(&self, bytes: &Bytes, wanted: &[Preprocessing]) -> Result<Vec<Arc<Prepared>>, ImageError>;
}

/// The decoder of the image crate, with its settings.
#[derive(Clone, Copy, Debug)]
pub struct PictureDecoder(pub ImageSettings);

impl Decode for PictureDecoder {
    fn memory(&self, bytes: &Bytes, wanted: &[Preprocessing]) -> Result<u64, ImageError> {
        headswap_image::memory_to_prepare_all(bytes, self.0, wanted)
    }

    fn decode(&self, bytes: &Bytes, wanted: &[Preprocessing]) -> Result<Vec<Arc<Prepared>>, ImageError> {
        headswap_image::prepare_all(bytes, self.0, wanted)
    }
}

/// A picture that was decoded or refused.
pub(super) struct Decoded {
    pub class: Class,
    pub cost: Cost,
    /// The memory to release, in bytes.
    pub memory: u64,
    /// The entry with its pixels; none if the picture was refused and the entry answered.
    pub entry: Option<Entry>,
}

/// The decode slots and their memory.
pub(super) struct Decoders {
    pub decode: Arc<dyn Decode>,
    pub slots: usize,
    pub busy: usize,
    pub budget: DecodeBudget,
    /// Receives each decoded picture. Bounded by the slots.
    pub done: mpsc::UnboundedSender<Decoded>,
    pub metrics: EngineMetrics,
}

impl Decoders {
    /// Returns true if a slot is free.
    pub fn has_slot(&self) -> bool {
        self.busy < self.slots
    }

    /// Starts to decode an entry's picture, which must fit the budget, in a free slot. The result goes to
    /// [`Decoders::done`].
    pub fn start(&mut self, mut entry: Entry) {
        self.busy += 1;
        self.budget.reserve(entry.memory);
        self.metrics.decode_reserved.inc_by(entry.memory as i64);
        let (decode, done, metrics) = (self.decode.clone(), self.done.clone(), self.metrics.clone());
        entry.progress.set(Stage::Decoding);
        tokio::task::spawn_blocking(move || {
            let (class, cost, memory) = (entry.class(), entry.cost, entry.memory);
            let started = Instant::now();
            let decoded = match &entry.input {
                Input::Image(bytes) => {
                    let wanted = entry.preprocessings();
                    guarded(|| decode.decode(bytes, &wanted)).map(|pictures| prepared(wanted, pictures))
                }
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
            // The receiver is dropped only when the runtime shuts down.
            let _ = done.send(Decoded {
                class,
                cost,
                memory,
                entry,
            });
        });
    }

    /// Releases a slot and its memory. Returns true if pictures may be waiting for the memory.
    pub fn finish(&mut self, memory: u64) -> bool {
        self.busy -= 1;
        self.metrics.decode_reserved.dec_by(memory as i64);
        self.budget.release(memory)
    }
}

fn prepared(wanted: Vec<Preprocessing>, pictures: Vec<Arc<Prepared>>) -> Input {
    let mut prepared = Vec::with_capacity(wanted.len());
    for (preprocessing, picture) in wanted.into_iter().zip(pictures) {
        prepared.push(PreparedPicture { preprocessing, picture });
    }
    Input::Prepared(prepared)
}

/// Turns a decoder's panic into an error for its picture.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    let result = catch_unwind(AssertUnwindSafe(work));
    result.unwrap_or_else(|_| {
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
