//! The OS thread that drives the network, or one of its lanes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headswap_model::{Backend, BackendError, Outputs, PlacedHead, StillWanted};
use headswap_spec::PICTURE_BYTES;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch::Grouping;
use super::batcher::Batch;
use super::clock::Clock;
use super::error::{EngineError, Stage, StartError};
use super::health::EngineHealth;
use super::metrics::EngineMetrics;
use super::request::{Answer, Entry, Heads, Input, Timing};
use super::together::Member;

/// How often the backbone must fail alone, after a batch has failed, before the device counts as lost.
const PROBES: usize = 2;

pub(super) struct Worker {
    pub network: Box<dyn Backend>,
    /// The names of the network's steps.
    pub steps: Vec<String>,
    /// The device's workers take its batches in turn.
    pub batches: Arc<Mutex<mpsc::UnboundedReceiver<Batch>>>,
    pub finished: mpsc::UnboundedSender<usize>,
    /// The index of the lane's device.
    pub device: usize,
    pub health: EngineHealth,
    pub metrics: EngineMetrics,
    pub clock: Arc<dyn Clock>,
}

/// What a forward pass gave for its batch.
struct Computed {
    grouping: Grouping,
    outputs: Outputs,
    /// The rows that asked for their features, ascending.
    features: Vec<usize>,
    started: Instant,
    compute: Duration,
}

impl Worker {
    /// Prepares the network, proves that it computes a batch of `max_batch` and says so, then runs until the batcher is
    /// gone and every batch is answered, or the device is lost.
    pub fn run(
        mut self,
        max_batch: usize,
        stop: &AtomicBool,
        ready: oneshot::Sender<Result<(), StartError>>,
        own: Member,
    ) {
        let ended = Ended(self.health.clone());
        let prepared = self.prepare(max_batch, stop);
        let works = prepared.is_ok();
        let _ = ready.send(prepared);
        while works
            && !self.health.is_lost()
            && let Some(batch) = self.next()
        {
            self.answer(batch);
            let _ = self.finished.send(self.device);
        }
        std::mem::forget(ended);
        own.end();
    }

    fn prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<(), StartError> {
        guarded(|| self.network.prepare(max_batch, stop))?;
        self.probe(1)?;
        let largest = if max_batch > 1 { self.probe(max_batch) } else { Ok(()) };
        largest.map_err(|error| StartError::MaxBatch { max_batch, error })
    }

    fn next(&self) -> Option<Batch> {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.blocking_recv()
    }

    /// Computes a batch and answers each of its entries.
    pub fn answer(&mut self, batch: Batch) {
        // What has its features needs little, and does not wait for the pictures of its batch.
        let (known, pictures) = split(batch, |entry| matches!(entry.input, Input::Features(_)));
        // A head that has failed before is computed apart, after the others, which would fail with it.
        let (suspected, pictures) = split(pictures, asks_a_suspect);
        self.compute_or_halve(known);
        self.compute_or_halve(pictures);
        for entry in suspected {
            self.compute_or_halve(vec![entry]);
        }
    }

    /// Computes a batch. One that fails is tried again in halves, so that what makes it fail is found and the others get
    /// their answers.
    fn compute_or_halve(&mut self, batch: Batch) {
        let mut batch = self.alive(batch);
        while !batch.is_empty() {
            match self.compute(&batch) {
                Ok(computed) => return self.hand_out(batch, computed),
                Err(BackendError::NotWanted) => batch = self.alive(batch),
                Err(error @ BackendError::Lost(_)) => return self.lose(batch, &error),
                Err(_) if self.health.is_lost() => return self.refuse(batch),
                Err(_) if batch.len() > 1 => {
                    let half = batch.split_off(batch.len() / 2);
                    self.compute_or_halve(batch);
                    return self.compute_or_halve(half);
                }
                Err(error) => return batch.into_iter().for_each(|entry| self.answer_alone(entry, &error)),
            }
        }
    }

    /// Answers an entry whose forward pass failed without company: each of its heads by itself, unless it is the device
    /// that fails.
    fn answer_alone(&mut self, mut entry: Entry, error: &BackendError) {
        let heads = entry.pinned().to_vec();
        let mut logits = Vec::new();
        let mut answer = Answer::default();
        if heads.len() > 1 {
            for head in &heads {
                entry.heads = Heads::Pinned(vec![Arc::clone(head)]);
                match self.compute(std::slice::from_ref(&entry)) {
                    Ok(computed) => {
                        answer = self.answer_of(0, &entry, &computed);
                        logits.append(&mut answer.logits);
                    }
                    // The head is not to blame for a caller that is gone.
                    Err(BackendError::NotWanted) => return drop(self.alive(vec![entry])),
                    Err(error) => logits.push(Err(error.into())),
                }
            }
        } else {
            logits.extend(heads.iter().map(|_| Err(error.clone().into())));
        }
        if logits.iter().all(Result::is_err) && !self.device_works() {
            return self.lose(vec![entry], error);
        }
        for (head, _) in heads.iter().zip(&logits).filter(|(_, logits)| logits.is_err()) {
            head.suspect(true);
        }
        if heads.is_empty() {
            entry.answer(Err(error.clone().into()));
        } else {
            answer.logits = logits;
            entry.answer(Ok(answer));
        }
    }

    /// Whether the backbone computes a grey picture.
    fn device_works(&mut self) -> bool {
        (0..PROBES).any(|_| self.probe(1).is_ok())
    }

    fn probe(&mut self, rows: usize) -> Result<(), BackendError> {
        let grey = [127; PICTURE_BYTES];
        let (pictures, all) = (vec![&grey[..]; rows], (0..rows).collect::<Vec<_>>());
        guarded(|| self.network.forward(&pictures, &[], &all).map(drop))
    }

    fn compute(&mut self, batch: &[Entry]) -> Result<Computed, BackendError> {
        let grouping = Grouping::new(batch.iter().map(Entry::pinned));
        let mut features: Vec<usize> = (0..batch.len()).filter(|&row| batch[row].features).collect();
        let started = self.clock.now();
        for entry in batch {
            entry.progress.set(Stage::Computing);
        }
        let mut look = LastLook::new(batch, &*self.clock);
        let network = &mut self.network;
        let outputs = guarded(|| {
            let known: Vec<&[f32]> = batch.iter().filter_map(known_features).collect();
            if !known.is_empty() {
                features.clear();
                let logits = network.logits(&known, &grouping.heads())?;
                return Ok(Outputs {
                    logits,
                    ..Outputs::default()
                });
            }
            let pictures: Vec<&[u8]> = batch.iter().filter_map(picture).collect();
            network.forward_if(&pictures, &grouping.heads(), &features, &mut look)
        });
        let compute = self.clock.now() - started;
        let outputs = match outputs {
            Err(BackendError::NotWanted) => return Err(BackendError::NotWanted),
            outputs => {
                self.metrics.expired_executed.inc_by(look.late as u64);
                self.metrics.observe_batch(batch.len(), compute);
                outputs
            }
        };
        let outputs = outputs.inspect_err(|error| {
            self.metrics.failed_batches.inc();
            if batch.iter().all(asks_a_suspect) {
                // Known to fail, so that a client that asks for it again and again does not fill the log.
                tracing::debug!(%error, batch_size = batch.len(), "a forward pass failed again");
            } else {
                tracing::error!(%error, batch_size = batch.len(), "a forward pass failed");
            }
        })?;
        self.metrics.observe_steps(&self.steps, &outputs.steps);
        Ok(Computed {
            grouping,
            outputs,
            features,
            started,
            compute,
        })
    }

    fn hand_out(&mut self, batch: Batch, computed: Computed) {
        for (row, entry) in batch.into_iter().enumerate() {
            // A head that answers is trusted with company again.
            for head in entry.pinned().iter().filter(|head| head.is_suspect()) {
                head.suspect(false);
            }
            let answer = self.answer_of(row, &entry, &computed);
            if answer.features.as_deref().is_none_or(all_finite) {
                entry.answer(Ok(answer));
            } else {
                entry.answer(Err(EngineError::NotFinite("features")));
            }
        }
    }

    fn answer_of(&self, row: usize, entry: &Entry, computed: &Computed) -> Answer {
        let Computed {
            grouping,
            outputs,
            features,
            started,
            compute,
        } = computed;
        let queue = started
            .saturating_duration_since(entry.arrived)
            .saturating_sub(entry.decode);
        self.metrics.observe_queue(queue);
        let finite = |logits: Vec<f32>| match all_finite(&logits) {
            true => Ok(logits),
            false => Err(EngineError::NotFinite("logits")),
        };
        Answer {
            logits: grouping.logits(row, outputs).into_iter().map(finite).collect(),
            features: features_of(row, features, outputs),
            timing: Timing {
                decode: entry.decode,
                queue,
                compute: *compute,
                batch_size: grouping.rows(),
            },
        }
    }

    /// Leaves out entries whose caller is gone or whose deadline has passed, up to the moment before the forward pass.
    fn alive(&self, mut batch: Batch) -> Batch {
        let now = self.clock.now();
        if batch.iter().any(|entry| entry.cancelled() || entry.expired(now)) {
            let alive = |entry| self.metrics.alive(entry, now);
            batch = batch.into_iter().filter_map(alive).collect();
        }
        batch.iter_mut().for_each(|entry| entry.in_queue = None);
        batch
    }

    fn lose(&self, batch: Batch, error: &BackendError) {
        self.health.report_lost(error.to_string());
        self.refuse(batch);
    }

    fn refuse(&self, batch: Batch) {
        for entry in batch {
            entry.answer(Err(EngineError::DeviceLost));
        }
    }
}

/// Reports a worker that ends by a panic.
struct Ended(EngineHealth);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.report_lost("its thread ended".into());
    }
}

/// The network's last question before it gives a batch to the device.
struct LastLook<'a> {
    batch: &'a [Entry],
    clock: &'a dyn Clock,
    /// Rows whose deadline had passed when it was last asked.
    late: usize,
}

impl<'a> LastLook<'a> {
    fn new(batch: &'a [Entry], clock: &'a dyn Clock) -> Self {
        Self { batch, clock, late: 0 }
    }
}

impl StillWanted for LastLook<'_> {
    fn still_wanted(&mut self) -> bool {
        let now = self.clock.now();
        self.late = self.batch.iter().filter(|entry| entry.expired(now)).count();
        self.late == 0 && !self.batch.iter().any(Entry::cancelled)
    }
}

/// A panic in the network costs its batch an error, not the server its life.
fn guarded<T>(compute: impl FnOnce() -> Result<T, BackendError>) -> Result<T, BackendError> {
    catch_unwind(AssertUnwindSafe(compute))
        .unwrap_or_else(|_| Err(BackendError::Device("the forward pass panicked".into())))
}

/// The entries that are chosen, and the others; without a move where none is.
fn split(batch: Batch, chosen: impl Fn(&Entry) -> bool) -> (Batch, Batch) {
    if batch.iter().any(&chosen) {
        batch.into_iter().partition(chosen)
    } else {
        (Batch::new(), batch)
    }
}

/// Whether there is neither NaN nor infinity: those alone have all bits of the exponent set. Without a branch for each
/// number, so that the compiler looks at several at once.
fn all_finite(numbers: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let odd = |found: bool, number: &f32| found | (number.to_bits() & EXPONENT == EXPONENT);
    !numbers.iter().fold(false, odd)
}

fn asks_a_suspect(entry: &Entry) -> bool {
    entry.pinned().iter().any(|head| PlacedHead::is_suspect(head))
}

fn picture(entry: &Entry) -> Option<&[u8]> {
    match &entry.input {
        Input::Pixels(pixels) => Some(pixels.as_bytes()),
        _ => None,
    }
}

fn known_features(entry: &Entry) -> Option<&[f32]> {
    match &entry.input {
        Input::Features(features) => Some(features),
        _ => None,
    }
}

/// A row's features, if it is one of those that asked for them.
fn features_of(row: usize, asked: &[usize], outputs: &Outputs) -> Option<Vec<f32>> {
    let position = asked.binary_search(&row).ok()?;
    let width = outputs.features.len() / asked.len();
    Some(outputs.features[position * width..(position + 1) * width].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Class;
    use crate::rig::{Answered, Entries, Forward, head, told};
    use headswap_model::HeadRows;

    /// A clock that a test sets.
    struct ManualClock(Mutex<Instant>);

    impl Clock for ManualClock {
        fn now(&self) -> Instant {
            *self.0.lock().unwrap()
        }
    }

    impl ManualClock {
        fn advance(&self, by: Duration) {
            *self.0.lock().unwrap() += by;
        }
    }

    struct Rig {
        worker: Worker,
        entries: Entries,
        clock: Arc<ManualClock>,
    }

    fn rig(forward: impl Forward) -> Rig {
        let entries = Entries::new();
        let clock = Arc::new(ManualClock(Mutex::new(Instant::now())));
        let worker = Worker {
            network: told(forward),
            steps: Vec::new(),
            batches: Arc::new(Mutex::new(mpsc::unbounded_channel().1)),
            finished: mpsc::unbounded_channel().0,
            device: 0,
            health: EngineHealth::default(),
            metrics: entries.metrics.clone(),
            clock: clock.clone(),
        };
        Rig { worker, entries, clock }
    }

    fn failed() -> BackendError {
        BackendError::Device("a test".into())
    }

    fn has(groups: &[HeadRows<'_>], classes: usize) -> bool {
        groups.iter().any(|group| group.head.classes == classes)
    }

    impl Rig {
        /// A batch of one row for each list of heads, given by their classes.
        async fn batch(&self, rows: &[&[usize]]) -> (Batch, Vec<Answered>) {
            let (mut batch, mut answers) = (Vec::new(), Vec::new());
            for classes in rows {
                let heads = classes.iter().map(|&classes| head(classes)).collect();
                let (entry, answered) = self.entries.picture(Class::Interactive, 1, heads).await;
                batch.push(entry);
                answers.push(answered);
            }
            (batch, answers)
        }
    }

    /// For each head of an answer, whether it has logits.
    fn outcomes(answered: &mut Answered) -> Result<Vec<bool>, EngineError> {
        let answer = answered.try_recv().expect("every entry is answered")?;
        Ok(answer.logits.iter().map(Result::is_ok).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_poisonous_head_fails_alone_and_from_then_on_apart() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let mut rig = rig(move |groups, rows, _| {
            seen.lock().unwrap().push(rows);
            if has(groups, 13) { Err(failed()) } else { Ok(1.0) }
        });
        let (batch, mut answers) = rig.batch(&[&[2], &[13], &[2, 3], &[3, 13]]).await;
        let poisonous = [Arc::clone(&batch[1].pinned()[0]), Arc::clone(&batch[3].pinned()[1])];
        rig.worker.answer(batch);
        let all: Vec<_> = answers.iter_mut().map(|answered| outcomes(answered).unwrap()).collect();
        assert_eq!(all, [vec![true], vec![false], vec![true, true], vec![true, false]]);
        assert!(!rig.worker.health.is_lost());
        assert!(poisonous.iter().all(|head| head.is_suspect()));

        // Now known, it is computed after the others.
        sizes.lock().unwrap().clear();
        let (mut batch, mut answers) = rig.batch(&[&[2], &[13], &[3]]).await;
        batch[1].heads = Heads::Pinned(vec![Arc::clone(&poisonous[0])]);
        rig.worker.answer(batch);
        assert_eq!(sizes.lock().unwrap()[0], 2);
        let all: Vec<_> = answers.iter_mut().map(|answered| outcomes(answered).unwrap()).collect();
        assert_eq!(all, [vec![true], vec![false], vec![true]]);
        // A head that fails alone while the backbone computes does not cost the server its life.
        assert!(!rig.worker.health.is_lost());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_computes_again_is_trusted_again() {
        let mut rig = rig(|_, _, _| Ok(1.0));
        let (batch, mut answers) = rig.batch(&[&[2]]).await;
        let head = Arc::clone(&batch[0].pinned()[0]);
        head.suspect(true);
        rig.worker.answer(batch);
        assert_eq!(outcomes(&mut answers[0]).unwrap(), [true]);
        assert!(!head.is_suspect());
    }

    /// A caller that leaves while the heads of its failed batch are tried one by one.
    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_casts_no_suspicion_on_a_head() {
        let caller = Arc::new(Mutex::new(None::<Answered>));
        let leaving = Arc::clone(&caller);
        let mut rig = rig(move |groups, _, wanted| {
            if groups.len() > 1 {
                drop(leaving.lock().unwrap().take());
                return Err(failed());
            }
            if wanted.still_wanted() {
                Ok(1.0)
            } else {
                Err(BackendError::NotWanted)
            }
        });
        let (batch, mut answers) = rig.batch(&[&[2, 3]]).await;
        let heads = batch[0].pinned().to_vec();
        *caller.lock().unwrap() = answers.pop();
        rig.worker.answer(batch);
        assert!(!heads.iter().any(|head| head.is_suspect()));
        assert_eq!(rig.entries.metrics.cancelled.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_fails_alone_is_lost_and_everything_is_answered() {
        for error in [failed(), BackendError::Lost("a test".into())] {
            let mut rig = rig(move |_, _, _| Err(error.clone()));
            let (batch, mut answers) = rig.batch(&[&[2], &[3], &[2, 3]]).await;
            rig.worker.answer(batch);
            for answered in &mut answers {
                assert!(matches!(outcomes(answered), Err(EngineError::DeviceLost)));
            }
            assert!(rig.worker.health.is_lost());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failed_batch() {
        let mut rig = rig(|groups, _, _| {
            if has(groups, 13) {
                std::panic::panic_any("a defect")
            } else {
                Ok(1.0)
            }
        });
        let (batch, mut answers) = rig.batch(&[&[13], &[2]]).await;
        rig.worker.answer(batch);
        let all: Vec<_> = answers.iter_mut().map(|answered| outcomes(answered).unwrap()).collect();
        assert_eq!(all, [vec![false], vec![true]]);
    }

    #[tokio::test(start_paused = true)]
    async fn numbers_that_are_not_finite_are_an_error() {
        let mut rig = rig(|_, _, _| Ok(f32::NAN));
        let (mut batch, mut answers) = rig.batch(&[&[2], &[2]]).await;
        batch[1].features = true;
        rig.worker.answer(batch);
        assert_eq!(outcomes(&mut answers[0]).unwrap(), [false]);
        assert!(matches!(
            outcomes(&mut answers[1]),
            Err(EngineError::NotFinite("features"))
        ));
    }

    /// Time passes between the batch's departure and its turn on the device, as on a GPU.
    #[tokio::test(start_paused = true)]
    async fn what_expires_before_the_launch_is_not_computed() {
        let computed = Arc::new(Mutex::new(Vec::new()));
        let clock = Arc::new(Mutex::new(None::<Arc<ManualClock>>));
        let (seen, at_launch) = (Arc::clone(&computed), Arc::clone(&clock));
        let mut rig = rig(move |_, rows, wanted| {
            at_launch
                .lock()
                .unwrap()
                .as_ref()
                .unwrap()
                .advance(Duration::from_millis(10));
            if !wanted.still_wanted() {
                return Err(BackendError::NotWanted);
            }
            seen.lock().unwrap().push(rows);
            Ok(1.0)
        });
        *clock.lock().unwrap() = Some(rig.clock.clone());
        let (mut batch, mut answers) = rig.batch(&[&[2], &[2], &[2]]).await;
        let now = rig.clock.now();
        batch[0].deadline = Some(now + Duration::from_millis(5));
        batch[1].deadline = Some(now + Duration::from_millis(60));
        drop(answers.pop());
        rig.worker.answer(batch);
        assert!(matches!(outcomes(&mut answers[0]), Err(EngineError::Expired(_))));
        assert_eq!(outcomes(&mut answers[1]).unwrap(), [true]);
        assert_eq!(*computed.lock().unwrap(), [1]);
        assert_eq!(rig.entries.metrics.expired_executed.get(), 0);
    }

    /// The counter is measured: a network that computes what it was told to leave shows.
    #[tokio::test(start_paused = true)]
    async fn what_is_computed_late_is_counted() {
        let clock = Arc::new(Mutex::new(None::<Arc<ManualClock>>));
        let at_launch = Arc::clone(&clock);
        let mut rig = rig(move |_, _, wanted| {
            at_launch
                .lock()
                .unwrap()
                .as_ref()
                .unwrap()
                .advance(Duration::from_millis(10));
            wanted.still_wanted();
            Ok(1.0)
        });
        *clock.lock().unwrap() = Some(rig.clock.clone());
        let (mut batch, _answers) = rig.batch(&[&[2], &[2]]).await;
        batch[0].deadline = Some(rig.clock.now() + Duration::from_millis(5));
        rig.worker.answer(batch);
        assert_eq!(rig.entries.metrics.expired_executed.get(), 1);
    }
}
