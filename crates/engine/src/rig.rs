//! Shared parts of the engine's tests: entries, heads, a backend and a decoder that run a test's closure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use headswap_image::{ImageError, Prepared};
use headswap_model::{
    Backend, BackendError, Device, HeadRows, InputRow, Outputs, PlacedHead, Placer, StillWanted, WantedInput,
};
use headswap_spec::{CompleteSpec, PICTURE_BYTES, Preprocessing, Preset};
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::Admission;
use super::class::{Class, FlowId};
use super::cost::PICTURE_COST;
use super::decoders::Decode;
use super::error::EngineError;
use super::metrics::{Counted, EngineMetrics};
use super::request::{Answer, Entry, HeadSource, Heads, Input, Pinned, PinnedHeads, Progress};

pub(super) type Answered = oneshot::Receiver<Result<Answer, EngineError>>;

/// Returns raw pixels of one shade.
pub(super) fn pixels(shade: u8) -> Bytes {
    vec![shade; PICTURE_BYTES].into()
}

pub(super) fn torchvision() -> Preprocessing {
    Preset::Torchvision.preprocessing()
}

/// Returns a decoded picture of one shade.
pub(super) fn prepared(shade: u8) -> Vec<Arc<Prepared>> {
    Prepared::from_pixels(pixels(shade), &torchvision())
        .map(Arc::new)
        .into_iter()
        .collect()
}

pub(super) fn head(classes: usize) -> Arc<PlacedHead> {
    let spec = CompleteSpec::plain(torchvision(), classes);
    Arc::new(PlacedHead::new(&spec, classes, 0, Box::new(())))
}

pub(super) fn metrics() -> EngineMetrics {
    EngineMetrics::register(&mut Registry::default())
}

/// Creates entries and counts them in metrics.
pub(super) struct Entries {
    admission: Admission,
    pub metrics: EngineMetrics,
}

impl Entries {
    pub fn new() -> Self {
        let metrics = metrics();
        Self {
            admission: Admission::new(1000, metrics.in_flight.clone()),
            metrics,
        }
    }

    /// Returns an entry and the receiver of its answer.
    pub async fn entry(&self, class: Class, flow: FlowId, input: Input, heads: Heads) -> (Entry, Answered) {
        let (answer, answered) = oneshot::channel();
        let entry = Entry {
            input,
            heads,
            wanted: Vec::new(),
            cost: PICTURE_COST,
            priced: vec![torchvision()],
            deadline: None,
            flow,
            admitted: self.admission.admit(class, None).await.unwrap(),
            arrived: Instant::now(),
            decode: Duration::ZERO,
            memory: 0,
            progress: Progress::default(),
            in_queue: Some(Counted::new(&self.metrics.queue_length)),
            answer,
        };
        (entry, answered)
    }

    /// Returns an entry with a decoded picture and pinned heads.
    pub async fn picture(&self, class: Class, flow: FlowId, heads: PinnedHeads) -> (Entry, Answered) {
        let picture = Input::Pixels(pixels(0));
        self.entry(class, flow, picture, Heads::Pinned(heads)).await
    }

    /// Returns an entry with an encoded picture and one pinned head.
    pub async fn encoded(&self, class: Class, flow: FlowId, bytes: &'static [u8]) -> (Entry, Answered) {
        let picture = Input::Image(Bytes::from_static(bytes));
        self.entry(class, flow, picture, Heads::Pinned(vec![head(2)])).await
    }
}

/// Heads that are loaded once a test sets `loaded`.
pub(super) struct ColdHeads {
    pub loaded: tokio::sync::watch::Sender<bool>,
    pub pins: AtomicUsize,
    pub fails: AtomicBool,
}

impl ColdHeads {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            loaded: tokio::sync::watch::Sender::new(false),
            pins: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
        })
    }

    fn heads(&self) -> PinnedHeads {
        if self.fails.load(Ordering::Relaxed) {
            Vec::new()
        } else {
            vec![head(2)]
        }
    }
}

impl HeadSource for ColdHeads {
    fn resident(&self) -> bool {
        *self.loaded.borrow()
    }

    fn preprocessings(&self) -> Vec<Preprocessing> {
        vec![torchvision()]
    }

    fn pin(self: Arc<Self>) -> Pinned {
        self.pins.fetch_add(1, Ordering::Relaxed);
        if self.resident() {
            return Pinned::Now(self.heads());
        }
        Pinned::Later(Box::pin(async move {
            self.loaded.subscribe().wait_for(|loaded| *loaded).await.unwrap();
            self.heads()
        }))
    }
}

/// The forward pass of a test: maps the groups, the number of pictures and the launch check to the value of all
/// results.
pub(super) trait Forward:
    FnMut(&[HeadRows<'_>], usize, &mut dyn StillWanted) -> Result<f32, BackendError> + Send + 'static
{
}

impl<F> Forward for F where
    F: FnMut(&[HeadRows<'_>], usize, &mut dyn StillWanted) -> Result<f32, BackendError> + Send + 'static
{
}

/// The same of rows: maps the pictures, the groups and the launch check to a value for each picture.
pub(super) trait ForwardRows:
    FnMut(&[InputRow<'_>], &[HeadRows<'_>], &mut dyn StillWanted) -> Result<Vec<f32>, BackendError> + Send + 'static
{
}

impl<F> ForwardRows for F where
    F: FnMut(&[InputRow<'_>], &[HeadRows<'_>], &mut dyn StillWanted) -> Result<Vec<f32>, BackendError> + Send + 'static
{
}

/// Returns a backend that runs `forward`.
pub(super) fn backend(mut forward: impl Forward) -> Box<dyn Backend> {
    backend_of_rows(move |rows, groups, still_wanted| {
        let value = forward(groups, rows.len(), still_wanted)?;
        Ok(vec![value; rows.len()])
    })
}

/// Returns a backend that runs `forward`, which returns the value of all results of each row.
pub(super) fn backend_of_rows<F: ForwardRows>(forward: F) -> Box<dyn Backend> {
    Box::new(FnBackend(forward))
}

struct FnBackend<F>(F);

impl<F: ForwardRows> Backend for FnBackend<F> {
    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>> {
        vec![vec![self]]
    }

    fn forward_if(
        &mut self,
        rows: &[InputRow<'_>],
        groups: &[HeadRows<'_>],
        wanted: &[WantedInput],
        still_wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        let values = (self.0)(rows, groups, still_wanted)?;
        let mut outputs = Outputs::default();
        for group in groups {
            let of_rows = group.rows.iter().map(|&row| vec![values[row]; group.head.classes]);
            outputs.logits.push(of_rows.flatten().collect());
        }
        outputs.inputs = wanted.iter().map(|wanted| vec![values[wanted.row]]).collect();
        Ok(outputs)
    }

    fn logits(&mut self, _: &[&[f32]], _: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
        Err(BackendError::ForeignHead)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        unreachable!("nothing is placed")
    }

    fn steps(&self) -> Vec<String> {
        Vec::new()
    }

    fn devices(&self) -> Vec<Device> {
        vec![Device::Null]
    }

    fn precision(&self) -> &'static str {
        "f32"
    }
}

/// Returns a decoder that needs no memory and runs `decode`.
pub(super) fn decoder<F>(decode: F) -> impl Decode
where
    F: Fn(&Bytes) -> Result<Vec<Arc<Prepared>>, ImageError> + Send + Sync,
{
    FnDecoder(decode)
}

struct FnDecoder<F>(F);

impl<F> Decode for FnDecoder<F>
where
    F: Fn(&Bytes) -> Result<Vec<Arc<Prepared>>, ImageError> + Send + Sync,
{
    fn memory(&self, _: &Bytes, _: &[Preprocessing]) -> Result<u64, ImageError> {
        Ok(0)
    }

    fn decode(&self, bytes: &Bytes, _: &[Preprocessing]) -> Result<Vec<Arc<Prepared>>, ImageError> {
        (self.0)(bytes)
    }
}
