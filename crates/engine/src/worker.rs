//! The OS thread that runs one lane of a device.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headswap_model::{Backend, BackendError, Outputs, PlacedHead};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch::{Grouping, HeadInputRows, PictureRows, add_part};
use super::batcher::Batch;
use super::clock::Clock;
use super::cost::PICTURE_COST;
use super::error::{EngineError, Stage, StartError};
use super::health::EngineHealth;
use super::launch_check::LaunchCheck;
use super::metrics::EngineMetrics;
use super::probe::Probe;
use super::request::{Answer, Entry, Heads, Input, Timing};
use super::together::Member;

/// The number of times that the backbone alone must fail, after a batch has failed, before the device counts as lost.
const PROBES: usize = 2;

pub(super) struct Worker {
    pub network: Box<dyn Backend>,
    /// The names of the network's steps.
    pub steps: Vec<String>,
    /// Shared by the workers of a device.
    pub batches: Arc<Mutex<mpsc::UnboundedReceiver<Batch>>>,
    pub finished: mpsc::UnboundedSender<usize>,
    /// The device's index.
    pub device: usize,
    pub health: EngineHealth,
    pub metrics: EngineMetrics,
    pub clock: Arc<dyn Clock>,
    /// The largest cost of one forward pass, in pictures.
    pub max_batch: usize,
}

/// The result of a batch's forward pass.
struct Computed {
    grouping: Grouping,
    outputs: Outputs,
    /// The range of each entry's wanted inputs in the outputs.
    wanted: Vec<Range<usize>>,
    started: Instant,
    compute: Duration,
}

impl Worker {
    /// Prepares the network, runs a batch of `max_batch` and reports the result to `ready`. Then it computes batches until
    /// the batcher has ended or the device is lost.
    pub fn run(mut self, stop: &AtomicBool, ready: oneshot::Sender<Result<(), StartError>>, member: Member) {
        let panic_guard = ReportPanic(self.health.clone());
        let prepared = self.prepare(stop);
        let is_ready = prepared.is_ok();
        let _ = ready.send(prepared);
        while is_ready
            && !self.health.is_lost()
            && let Some(batch) = self.next()
        {
            self.answer(batch);
            let _ = self.finished.send(self.device);
        }
        std::mem::forget(panic_guard);
        member.finish();
    }

    fn prepare(&mut self, stop: &AtomicBool) -> Result<(), StartError> {
        let max_batch = self.max_batch;
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
    pub fn answer(&mut self, mut batch: Batch) {
        batch.iter_mut().for_each(Entry::prepare_pixels);
        // Entries with cached inputs need little time, so they come before the pictures.
        let (from_inputs, pictures) = split(batch, |entry| matches!(entry.input, Input::HeadInputs(_)));
        // A head that failed before would make the others fail, too, so its entries run alone, after them.
        let (suspect, pictures) = split(pictures, has_suspect_head);
        self.compute_or_halve(from_inputs);
        self.compute_or_halve(pictures);
        for entry in suspect {
            self.compute_or_halve(vec![entry]);
        }
    }

    /// Computes a batch. If it fails, its halves are tried again, until the failing entries are found and the others are
    /// answered.
    fn compute_or_halve(&mut self, batch: Batch) {
        let mut batch = self.alive(batch);
        while !batch.is_empty() {
            match self.compute(&batch) {
                Ok(computed) => return self.send_answers(batch, computed),
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

    /// Answers an entry that failed in a batch of its own: tries each of its heads alone, unless the device fails.
    fn answer_alone(&mut self, mut entry: Entry, error: &BackendError) {
        let heads = entry.pinned().to_vec();
        let mut logits = Vec::new();
        let mut answer = Answer::default();
        let (input, mut inputs) = (entry.input.clone(), Vec::new());
        if heads.len() > 1 {
            for head in &heads {
                entry.heads = Heads::Pinned(vec![Arc::clone(head)]);
                entry.input = input.clone();
                entry.leave_out_pictures();
                match self.compute(std::slice::from_ref(&entry)) {
                    Ok(computed) => {
                        answer = self.answer_of(0, &entry, &computed);
                        logits.append(&mut answer.logits);
                        // The first head that computes gives them for all.
                        if !entry.wanted.is_empty() {
                            inputs = std::mem::take(&mut answer.inputs);
                            entry.wanted.clear();
                        }
                    }
                    // The caller gave up, so the head did not fail.
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
            head.set_suspect(true);
        }
        if heads.is_empty() {
            entry.answer(Err(error.clone().into()));
        } else {
            answer.logits = logits;
            answer.inputs = inputs;
            entry.answer(Ok(answer));
        }
    }

    /// Returns true if the backbone computes a grey picture.
    fn device_works(&mut self) -> bool {
        (0..PROBES).any(|_| self.probe(1).is_ok())
    }

    fn probe(&mut self, rows: usize) -> Result<(), BackendError> {
        guarded(|| Probe::new().forward(&mut *self.network, rows))
    }

    fn compute(&mut self, batch: &[Entry]) -> Result<Computed, BackendError> {
        let pictures = PictureRows::new(batch);
        let inputs = HeadInputRows::new(batch);
        let grouping = Grouping::new(batch.iter().map(Entry::pinned), |entry, head| {
            inputs
                .of_head(batch, entry, head)
                .or_else(|| pictures.of_head(batch, entry, head))
        });
        let started = self.clock.now();
        for entry in batch {
            entry.progress.set(Stage::Computing);
        }
        let mut launch_check = LaunchCheck::new(batch, &*self.clock);
        let (network, cost_max) = (&mut self.network, self.max_batch * PICTURE_COST);
        let outputs = guarded(|| {
            let mut outputs = grouping.empty_outputs();
            if !inputs.rows.is_empty() {
                let (heads, groups) = grouping.heads(&(0..inputs.rows.len()));
                let part = Outputs {
                    logits: network.logits(&inputs.rows, &heads)?,
                    ..Outputs::default()
                };
                add_part(&mut outputs, part, groups, Vec::new());
                return Ok(outputs);
            }
            outputs.inputs = vec![Vec::new(); pictures.wanted.len()];
            for part in pictures.parts(cost_max) {
                let (heads, groups) = grouping.heads(&part);
                let (wanted, indices) = pictures.wanted_in(&part);
                let computed = network.forward_if(&pictures.rows[part], &heads, &wanted, &mut launch_check)?;
                add_part(&mut outputs, computed, groups, indices);
            }
            Ok(outputs)
        });
        let compute = self.clock.now() - started;
        let outputs = match outputs {
            Err(BackendError::NotWanted) => return Err(BackendError::NotWanted),
            outputs => {
                self.metrics.expired_executed.inc_by(launch_check.expired as u64);
                self.metrics.observe_batch(batch.len(), compute);
                outputs
            }
        };
        let outputs = outputs.inspect_err(|error| {
            self.metrics.failed_batches.inc();
            if batch.iter().all(has_suspect_head) {
                // At a lower level, so that a client that repeats such requests does not fill the log.
                tracing::debug!(%error, batch_size = batch.len(), "a forward pass failed again");
            } else {
                tracing::error!(%error, batch_size = batch.len(), "a forward pass failed");
            }
        })?;
        self.metrics.observe_steps(&self.steps, &outputs.steps);
        Ok(Computed {
            grouping,
            outputs,
            wanted: (0..batch.len()).map(|entry| pictures.wanted_of(entry)).collect(),
            started,
            compute,
        })
    }

    fn send_answers(&mut self, batch: Batch, computed: Computed) {
        for (index, entry) in batch.into_iter().enumerate() {
            // A head that computes may share batches again.
            for head in entry.pinned().iter().filter(|head| head.is_suspect()) {
                head.set_suspect(false);
            }
            let answer = self.answer_of(index, &entry, &computed);
            // One head's inputs that are not finite are no other head's fault.
            if answer.logits.iter().any(Result::is_ok) || answer.inputs.iter().all(|input| all_finite(input)) {
                entry.answer(Ok(answer));
            } else {
                entry.answer(Err(EngineError::NotFinite("features")));
            }
        }
    }

    fn answer_of(&self, index: usize, entry: &Entry, computed: &Computed) -> Answer {
        let Computed {
            grouping,
            outputs,
            wanted,
            started,
            compute,
        } = computed;
        let queue = started
            .saturating_duration_since(entry.arrived)
            .saturating_sub(entry.decode);
        self.metrics.observe_queue(queue);
        let mut logits = Vec::with_capacity(entry.pinned().len());
        for (head, of_head) in entry.pinned().iter().zip(grouping.logits(index, outputs)) {
            logits.push(match of_head {
                Some(of_head) => check_finite(of_head),
                None => Err(no_row(entry, head)),
            });
        }
        Answer {
            logits,
            inputs: outputs.inputs[wanted[index].clone()].to_vec(),
            timing: Timing {
                decode: entry.decode,
                queue,
                compute: *compute,
                batch_size: grouping.entries(),
            },
        }
    }

    /// Removes expired and cancelled entries right before the forward pass.
    fn alive(&self, mut batch: Batch) -> Batch {
        let now = self.clock.now();
        if !batch.iter().all(|entry| entry.is_alive(now)) {
            let entries = batch.into_iter();
            batch = entries.filter_map(|entry| self.metrics.alive(entry, now)).collect();
        }
        for entry in &mut batch {
            entry.in_queue = None;
        }
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

/// Reports the device as lost if the worker panics; forgotten otherwise.
struct ReportPanic(EngineHealth);

impl Drop for ReportPanic {
    fn drop(&mut self) {
        self.0.report_lost("its thread ended".into());
    }
}

/// Turns a panic in the network into an error for its batch.
fn guarded<T>(compute: impl FnOnce() -> Result<T, BackendError>) -> Result<T, BackendError> {
    catch_unwind(AssertUnwindSafe(compute))
        .unwrap_or_else(|_| Err(BackendError::Device("the forward pass panicked".into())))
}

/// Splits a batch into the entries that match and the others, without copying if none matches.
fn split(batch: Batch, matches: impl Fn(&Entry) -> bool) -> (Batch, Batch) {
    if batch.iter().any(&matches) {
        batch.into_iter().partition(matches)
    } else {
        (Batch::new(), batch)
    }
}

/// Returns true if there is neither NaN nor infinity, which have all bits of the exponent set. It does not branch on each
/// number, so that the compiler can vectorise it.
fn all_finite(numbers: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let mut found = false;
    for number in numbers {
        found |= number.to_bits() & EXPONENT == EXPONENT;
    }
    !found
}

fn check_finite(logits: Vec<f32>) -> Result<Vec<f32>, EngineError> {
    match all_finite(&logits) {
        true => Ok(logits),
        false => Err(EngineError::NotFinite("logits")),
    }
}

fn has_suspect_head(entry: &Entry) -> bool {
    entry.pinned().iter().any(|head| PlacedHead::is_suspect(head))
}

/// Returns the error of a head for which an entry has no input.
fn no_row(entry: &Entry, head: &PlacedHead) -> EngineError {
    if matches!(entry.input, Input::HeadInputs(_)) {
        return EngineError::HeadChanged;
    }
    let [height, width] = head.size.map(|side| side as usize);
    EngineError::PixelsOfAnotherSize { height, width }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Class;
    use crate::cost::{Cost, picture_cost};
    use crate::request::{PreparedPicture, Wanted};
    use crate::rig::{Answered, Entries, Forward, backend, backend_of_rows, head, pixels, torchvision};
    use headswap_image::Prepared;
    use headswap_model::{HeadRows, InputRow};
    use headswap_spec::{CompleteSpec, HeadInput, Preprocessing};

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
        rig_of(backend(forward))
    }

    fn rig_of(network: Box<dyn Backend>) -> Rig {
        let entries = Entries::new();
        let clock = Arc::new(ManualClock(Mutex::new(Instant::now())));
        let worker = Worker {
            network,
            steps: Vec::new(),
            batches: Arc::new(Mutex::new(mpsc::unbounded_channel().1)),
            finished: mpsc::unbounded_channel().0,
            device: 0,
            health: EngineHealth::default(),
            metrics: entries.metrics.clone(),
            clock: clock.clone(),
            max_batch: 100,
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
        /// Returns a batch with one row for each list of heads, given by their numbers of classes.
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

    /// Returns, for each head of an answer, true if it has logits.
    fn outcomes(answered: &mut Answered) -> Result<Vec<bool>, EngineError> {
        let answer = answered.try_recv().expect("every entry is answered")?;
        Ok(answer.logits.iter().map(Result::is_ok).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_head_fails_alone_and_later_runs_apart() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let mut rig = rig(move |groups, rows, _| {
            seen.lock().unwrap().push(rows);
            if has(groups, 13) { Err(failed()) } else { Ok(1.0) }
        });
        let (batch, mut answers) = rig.batch(&[&[2], &[13], &[2, 3], &[3, 13]]).await;
        let failing = [Arc::clone(&batch[1].pinned()[0]), Arc::clone(&batch[3].pinned()[1])];
        rig.worker.answer(batch);
        let all: Vec<_> = answers.iter_mut().map(|answered| outcomes(answered).unwrap()).collect();
        assert_eq!(all, [vec![true], vec![false], vec![true, true], vec![true, false]]);
        assert!(!rig.worker.health.is_lost());
        assert!(failing.iter().all(|head| head.is_suspect()));

        // As a suspect, it is computed after the others.
        sizes.lock().unwrap().clear();
        let (mut batch, mut answers) = rig.batch(&[&[2], &[13], &[3]]).await;
        batch[1].heads = Heads::Pinned(vec![Arc::clone(&failing[0])]);
        rig.worker.answer(batch);
        assert_eq!(sizes.lock().unwrap()[0], 2);
        let all: Vec<_> = answers.iter_mut().map(|answered| outcomes(answered).unwrap()).collect();
        assert_eq!(all, [vec![true], vec![false], vec![true]]);
        // The backbone computes, so the device is not lost.
        assert!(!rig.worker.health.is_lost());
    }

    /// The heads of a failing request are tried with one picture each; the first one's pass also gives what is wanted.
    #[tokio::test(start_paused = true)]
    async fn a_failing_head_does_not_repeat_the_others_pictures() {
        let rows = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&rows);
        let mut rig = rig_of(backend_of_rows(move |rows, groups, _| {
            seen.lock().unwrap().push(rows.len());
            if has(groups, 13) {
                return Err(failed());
            }
            Ok(rows.iter().map(shade).collect())
        }));
        let heads = vec![head(2), large_head(3), head(13), large_head(4)];
        let pictures = vec![picture(torchvision(), 1), picture(large(), 2)];
        let entry = rig
            .entries
            .entry(Class::Interactive, 1, Input::Prepared(pictures), Heads::Pinned(heads));
        let (mut entry, mut answered) = entry.await;
        entry.wanted = [large(), torchvision()]
            .map(|preprocessing| Wanted {
                backbone: 0,
                preprocessing,
                input: HeadInput::Features,
            })
            .to_vec();
        rig.worker.answer(vec![entry]);
        let answer = answered.try_recv().unwrap().unwrap();
        let first: Vec<Option<f32>> = answer
            .logits
            .iter()
            .map(|logits| logits.as_ref().ok().map(|all| all[0]))
            .collect();
        assert_eq!(first, [Some(1.0), Some(2.0), None, Some(2.0)]);
        assert_eq!(answer.inputs, [[2.0], [1.0]]);
        // All at once; then the first head with both pictures, and each other with its own.
        assert_eq!(*rows.lock().unwrap(), [2, 2, 1, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn inputs_that_are_not_finite_fail_only_their_head() {
        let mut rig = rig_of(backend_of_rows(|rows, _, _| {
            let value = |row: &InputRow<'_>| if shade(row) == 1.0 { f32::NAN } else { shade(row) };
            Ok(rows.iter().map(value).collect())
        }));
        let pictures = vec![picture(torchvision(), 1), picture(large(), 2)];
        let heads = Heads::Pinned(vec![head(2), large_head(3)]);
        let entry = rig
            .entries
            .entry(Class::Interactive, 1, Input::Prepared(pictures), heads);
        let (mut entry, mut answered) = entry.await;
        entry.wanted = [torchvision(), large()]
            .map(|preprocessing| Wanted {
                backbone: 0,
                preprocessing,
                input: HeadInput::Features,
            })
            .to_vec();
        rig.worker.answer(vec![entry]);
        assert_eq!(outcomes(&mut answered).unwrap(), [false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_computes_is_no_longer_suspect() {
        let mut rig = rig(|_, _, _| Ok(1.0));
        let (batch, mut answers) = rig.batch(&[&[2]]).await;
        let head = Arc::clone(&batch[0].pinned()[0]);
        head.set_suspect(true);
        rig.worker.answer(batch);
        assert_eq!(outcomes(&mut answers[0]).unwrap(), [true]);
        assert!(!head.is_suspect());
    }

    /// The caller gives up while the heads of its failed entry are tried one by one.
    #[tokio::test(start_paused = true)]
    async fn a_cancelled_request_does_not_make_its_heads_suspect() {
        let caller = Arc::new(Mutex::new(None::<Answered>));
        let cancelled = Arc::clone(&caller);
        let mut rig = rig(move |groups, _, wanted| {
            if groups.len() > 1 {
                drop(cancelled.lock().unwrap().take());
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
    async fn a_device_whose_backbone_fails_is_lost_and_every_request_answered() {
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
    async fn a_panic_in_the_network_fails_only_its_batch() {
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
    async fn results_that_are_not_finite_are_errors() {
        let mut rig = rig(|_, _, _| Ok(f32::NAN));
        let (mut batch, mut answers) = rig.batch(&[&[2], &[2]]).await;
        batch[1].wanted = vec![Wanted {
            backbone: 0,
            preprocessing: torchvision(),
            input: HeadInput::Features,
        }];
        rig.worker.answer(batch);
        assert_eq!(outcomes(&mut answers[0]).unwrap(), [false]);
        assert!(matches!(
            outcomes(&mut answers[1]),
            Err(EngineError::NotFinite("features"))
        ));
    }

    /// Time passes between the dispatch of a batch and its launch, as on a GPU.
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

    /// A network that ignores the launch check raises the counter.
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

    /// Returns a backend whose results are the first value of each row's picture. It records the cost of each forward pass.
    fn shades(costs: &Arc<Mutex<Vec<Cost>>>) -> Box<dyn Backend> {
        let costs = Arc::clone(costs);
        backend_of_rows(move |rows, _, _| {
            let sizes = rows.iter().map(|row| row.picture.size().map(|side| side as u32));
            costs.lock().unwrap().push(sizes.map(picture_cost).sum());
            Ok(rows.iter().map(shade).collect())
        })
    }

    fn shade(row: &InputRow<'_>) -> f32 {
        match row.picture {
            Prepared::Bytes { values, .. } => values[0].into(),
            Prepared::Floats { values, .. } => values[0],
        }
    }

    /// torchvision's preprocessing with pictures of four times the pixels.
    fn large() -> Preprocessing {
        Preprocessing {
            crop: Some([448, 448]),
            ..torchvision()
        }
    }

    fn large_head(classes: usize) -> Arc<PlacedHead> {
        Arc::new(PlacedHead::new(
            &CompleteSpec::plain(large(), classes),
            classes,
            0,
            Box::new(()),
        ))
    }

    fn picture(preprocessing: Preprocessing, shade: u8) -> PreparedPicture {
        let [height, width] = preprocessing.size().unwrap().map(|side| side as usize);
        let values = vec![shade; height * width * 3].into();
        PreparedPicture {
            preprocessing,
            picture: Arc::new(Prepared::from_pixels(values, &preprocessing).unwrap()),
        }
    }

    /// Each picture has a shade of its own; some entries have two pictures, and some want the inputs of both.
    #[tokio::test(start_paused = true)]
    async fn a_batch_that_costs_more_is_computed_in_parts_and_every_answer_is_its_own() {
        let costs = Arc::new(Mutex::new(Vec::new()));
        let mut rig = rig_of(shades(&costs));
        rig.worker.max_batch = 3;
        let heads = [head(2), large_head(3), large_head(4)];
        let wanted = [torchvision(), large()].map(|preprocessing| Wanted {
            backbone: 0,
            preprocessing,
            input: HeadInput::Features,
        });
        let (mut batch, mut answers) = (Vec::new(), Vec::new());
        for number in 0..9u8 {
            let pictures = vec![picture(torchvision(), 2 * number), picture(large(), 2 * number + 1)];
            let of_entry = match number % 3 {
                0 => vec![Arc::clone(&heads[0])],
                1 => vec![Arc::clone(&heads[1]), Arc::clone(&heads[0])],
                _ => vec![Arc::clone(&heads[2]), Arc::clone(&heads[1])],
            };
            let input = Input::Prepared(pictures);
            let entry = rig.entries.entry(Class::Interactive, 1, input, Heads::Pinned(of_entry));
            let (mut entry, answered) = entry.await;
            if number % 2 == 0 {
                entry.wanted = vec![wanted[1], wanted[0]];
            }
            batch.push(entry);
            answers.push(answered);
        }
        rig.worker.answer(batch);

        let costs = costs.lock().unwrap();
        let [small, large] = [PICTURE_COST, picture_cost([448, 448])];
        assert_eq!(costs.iter().sum::<Cost>(), 9 * (small + large));
        assert!(
            costs.iter().all(|&cost| cost <= 3 * PICTURE_COST || cost == large),
            "{costs:?}"
        );
        for (number, answered) in answers.iter_mut().enumerate() {
            let answer = answered.try_recv().unwrap().unwrap();
            let [small, large] = [2 * number, 2 * number + 1].map(|shade| shade as f32);
            let logits: Vec<Vec<f32>> = answer.logits.into_iter().map(Result::unwrap).collect();
            let expected = match number % 3 {
                0 => vec![vec![small; 2]],
                1 => vec![vec![large; 3], vec![small; 2]],
                _ => vec![vec![large; 4], vec![large; 3]],
            };
            assert_eq!(logits, expected, "{number}");
            let inputs = if number % 2 == 0 {
                vec![vec![large], vec![small]]
            } else {
                Vec::new()
            };
            assert_eq!(answer.inputs, inputs, "{number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn raw_pixels_of_another_size_fail_only_that_head() {
        let costs = Arc::new(Mutex::new(Vec::new()));
        let mut rig = rig_of(shades(&costs));
        let heads = vec![large_head(3), head(2), large_head(4)];
        let entry = rig
            .entries
            .entry(Class::Interactive, 1, Input::Pixels(pixels(7)), Heads::Pinned(heads));
        let (entry, mut answered) = entry.await;
        let (other, mut other_answered) = rig.entries.picture(Class::Interactive, 1, vec![head(2)]).await;
        rig.worker.answer(vec![entry, other]);
        let answer = answered.try_recv().unwrap().unwrap();
        let size = (448, 448);
        for refused in [&answer.logits[0], &answer.logits[2]] {
            let refused = refused.as_ref().unwrap_err();
            assert!(
                matches!(refused, EngineError::PixelsOfAnotherSize { height, width } if (*height, *width) == size),
                "{refused}"
            );
        }
        assert_eq!(answer.logits[1].as_deref().unwrap(), [7.0; 2]);
        assert_eq!(outcomes(&mut other_answered).unwrap(), [true]);
        assert_eq!(*costs.lock().unwrap(), [2 * PICTURE_COST]);
        assert!(!rig.worker.health.is_lost());
    }
}
