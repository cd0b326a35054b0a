//! The engine's handle, and its start.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use headswap_model::Backend;
use headswap_spec::Preprocessing;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::{Admission, Admitted};
use super::batcher::{Batch, Batcher, Device, Loads};
use super::class::Class;
use super::clock::Clock;
use super::cost::CostTable;
use super::decode_budget::DecodeBudget;
use super::decoders::{Decode, Decoders, guarded};
use super::error::{EngineError, StartError};
use super::health::EngineHealth;
use super::metrics::{Counted, EngineMetrics};
use super::policy::BatchLimits;
use super::request::{Answer, Entry, Heads, Input, Progress, Request};
use super::scheduler::{Scheduler, SchedulerLimits};
use super::together::ThreadGroup;
use super::worker::Worker;

/// The engine's settings.
pub struct EngineSettings {
    /// The limits of batches.
    pub batches: BatchLimits,
    /// Maximum number of requests in flight, for each class.
    pub in_flight_max: usize,
    /// Bulk's share of the grants while both classes wait, in percent.
    pub bulk_percent: u32,
    /// Maximum number of pictures decoded at a time.
    pub decode_slots: usize,
    /// Maximum bytes of memory for all of them.
    pub decode_bytes_max: u64,
    /// The decoder.
    pub decode: Arc<dyn Decode>,
    /// The time of a batch by its size.
    pub cost: CostTable,
    /// The clock of the device threads.
    pub clock: Arc<dyn Clock>,
}

/// Headers of larger files are read on the blocking pool: the whole file may be header, which would keep a thread that
/// serves connections busy for milliseconds.
const HEADER_BYTES_INLINE_MAX: usize = 256 << 10;

/// A handle to the engine, cheap to clone. The engine ends once all handles are dropped and all requests answered.
#[derive(Clone)]
pub struct Engine {
    entries: mpsc::UnboundedSender<Entry>,
    cancelled: Arc<Notify>,
    admission: Admission,
    health: EngineHealth,
    metrics: EngineMetrics,
    decode: Arc<dyn Decode>,
    /// The limit of memory for decoding one picture, in bytes.
    picture_memory_max: u64,
}

/// The engine's task and threads.
#[derive(Debug)]
pub struct EngineThreads {
    batcher: tokio::task::JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
}

/// Starts a thread for each of the network's lanes and, once all of them are prepared, the batcher on the current runtime.
///
/// # Errors
/// [`StartError`] if a thread cannot be started, [`headswap_model::Backend::prepare`] fails, or a batch of the largest size
/// fails.
pub async fn start(
    network: Box<dyn Backend>,
    settings: EngineSettings,
    metrics: EngineMetrics,
) -> Result<(Engine, EngineThreads), StartError> {
    let (finished_in, finished) = mpsc::unbounded_channel();
    let health = EngineHealth::default();
    let mut starting = Starting::default();
    let context = WorkerContext {
        finished: finished_in,
        health: health.clone(),
        metrics: metrics.clone(),
    };
    starting.spawn_workers(network, &settings, &context)?;
    starting.prepared().await?;

    let decode_slots = settings.decode_slots.max(1);
    let budget = DecodeBudget::new(settings.decode_bytes_max, decode_slots);
    let picture_memory_max = budget.picture_max();
    let (entries_in, entries) = mpsc::unbounded_channel();
    let (decoded_in, decoded) = mpsc::unbounded_channel();
    let cancelled = Arc::new(Notify::new());
    let batcher = Batcher {
        scheduler: Scheduler::new(SchedulerLimits {
            max_batch: settings.batches.max_batch,
            devices: starting.devices.iter().map(Device::lanes).sum(),
            bulk_percent: settings.bulk_percent,
            cost: settings.cost,
        }),
        limits: settings.batches,
        entries,
        cancelled: Arc::clone(&cancelled),
        decoders: Decoders {
            decode: Arc::clone(&settings.decode),
            slots: decode_slots,
            busy: 0,
            budget,
            done: decoded_in,
            metrics: metrics.clone(),
        },
        decoded,
        devices: std::mem::take(&mut starting.devices),
        finished,
        health: health.clone(),
        metrics: metrics.clone(),
        loads: Loads::default(),
        ready_since: None,
    };
    let batcher = tokio::spawn(batcher.run());
    let workers = std::mem::take(&mut starting.workers);
    let engine = Engine {
        entries: entries_in,
        cancelled,
        admission: Admission::new(settings.in_flight_max, metrics.in_flight.clone()),
        health,
        metrics,
        decode: settings.decode,
        picture_memory_max,
    };
    Ok((engine, EngineThreads { batcher, workers }))
}

/// What all workers share.
struct WorkerContext {
    finished: mpsc::UnboundedSender<usize>,
    health: EngineHealth,
    metrics: EngineMetrics,
}

/// Device threads that prepare their networks. If one fails or the start is cancelled, dropping this stops all of them and
/// waits: the process must not end while they use a device.
#[derive(Default)]
struct Starting {
    devices: Vec<Device>,
    workers: Vec<JoinHandle<()>>,
    ready: Vec<oneshot::Receiver<Result<(), StartError>>>,
    stop: Arc<AtomicBool>,
}

impl Starting {
    fn spawn_workers(
        &mut self,
        network: Box<dyn Backend>,
        settings: &EngineSettings,
        context: &WorkerContext,
    ) -> Result<(), StartError> {
        let steps = network.steps();
        let group = ThreadGroup::default();
        for (device, lanes) in network.into_lanes().into_iter().enumerate() {
            let (sender, batches) = mpsc::unbounded_channel::<Batch>();
            self.devices.push(Device::new(sender, lanes.len()));
            let batches = Arc::new(Mutex::new(batches));
            for network in lanes {
                let worker = Worker {
                    steps: steps.clone(),
                    network,
                    batches: Arc::clone(&batches),
                    finished: context.finished.clone(),
                    device,
                    health: context.health.clone(),
                    metrics: context.metrics.clone(),
                    clock: Arc::clone(&settings.clock),
                    max_batch: settings.batches.max_batch,
                };
                let (sender, ready) = oneshot::channel();
                let (member, stop) = (group.join(), Arc::clone(&self.stop));
                let thread = std::thread::Builder::new().name(format!("device-{device}"));
                let thread = thread.spawn(move || worker.run(&stop, sender, member))?;
                self.workers.push(thread);
                self.ready.push(ready);
            }
        }
        Ok(())
    }

    /// Waits until every network is prepared.
    async fn prepared(&mut self) -> Result<(), StartError> {
        for ready in self.ready.drain(..) {
            ready.await.map_err(|_| StartError::Ended)??;
        }
        Ok(())
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.devices.clear();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl EngineThreads {
    /// Waits up to `limit` until all requests are answered and all threads have ended; every [`Engine`] must have been
    /// dropped. Returns true if they have.
    pub async fn join(self, limit: Duration) -> bool {
        timeout(limit, self.join_all()).await.is_ok()
    }

    async fn join_all(self) {
        let _ = self.batcher.await;
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                let _ = worker.join();
            }
        });
        let _ = joined.await;
    }
}

impl Engine {
    /// The health of the devices.
    pub fn health(&self) -> &EngineHealth {
        &self.health
    }

    /// The number of requests in flight.
    pub fn in_flight(&self) -> &Gauge {
        &self.metrics.in_flight
    }

    /// Admits a request: an interactive one at once or not at all, a bulk one before its deadline.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::Expired`], [`EngineError::Stopped`].
    pub async fn admit(&self, class: Class, deadline: Option<Instant>) -> Result<Admitted, EngineError> {
        let admitted = self.admission.admit(class, deadline).await;
        admitted.inspect_err(|error| self.metrics.observe_error(error))
    }

    /// Computes a request. Dropping the future removes the request from the queue.
    ///
    /// # Errors
    /// [`EngineError`]; no later than the deadline.
    pub async fn run(&self, admitted: Admitted, request: Request) -> Result<Answer, EngineError> {
        let preprocessings = request.preprocessings();
        let cost = request.cost(&preprocessings);
        let memory = self.memory(&request.input, preprocessings.clone()).await?;
        let (answer, receiver) = oneshot::channel();
        let progress = Progress::default();
        let deadline = request.deadline;
        let entry = Entry {
            input: request.input,
            heads: request.heads.map_or(Heads::Pinned(Vec::new()), Heads::Source),
            wanted: request.wanted,
            cost,
            priced: preprocessings,
            deadline,
            flow: request.flow,
            admitted,
            arrived: Instant::now(),
            decode: Duration::ZERO,
            memory,
            progress: progress.clone(),
            in_queue: Some(Counted::new(&self.metrics.queue_length)),
            answer,
        };
        self.entries.send(entry).map_err(|_| EngineError::Stopped)?;
        let waiting = Waiting {
            receiver,
            cancelled: Arc::clone(&self.cancelled),
        };
        let answer = match deadline {
            None => waiting.answer().await,
            Some(deadline) => match timeout_at(deadline, waiting.answer()).await {
                Ok(answer) => answer,
                Err(_) => Some(Err(EngineError::Expired(progress.stage()))),
            },
        };
        // Only a device thread that ends by a panic drops an entry without an answer.
        let answer = answer.unwrap_or(Err(EngineError::DeviceLost));
        answer.inspect_err(|error| self.metrics.observe_error(error))
    }

    /// Returns the memory that decoding takes. A picture whose header is refused fails here, before it is queued.
    async fn memory(&self, input: &Input, wanted: Vec<Preprocessing>) -> Result<u64, EngineError> {
        let Input::Image(bytes) = input else { return Ok(0) };
        let needed = if bytes.len() <= HEADER_BYTES_INLINE_MAX {
            guarded(|| self.decode.memory(bytes, &wanted))?
        } else {
            let (decode, bytes) = (Arc::clone(&self.decode), bytes.clone());
            let read = tokio::task::spawn_blocking(move || guarded(|| decode.memory(&bytes, &wanted)));
            read.await.map_err(|_| EngineError::Stopped)??
        };
        let available = self.picture_memory_max;
        if needed > available {
            return Err(EngineError::PictureTooCostly { needed, available });
        }
        Ok(needed)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// A caller that waits for its answer.
struct Waiting {
    receiver: oneshot::Receiver<Result<Answer, EngineError>>,
    cancelled: Arc<Notify>,
}

impl Waiting {
    /// Returns the answer; none if the entry was dropped without one.
    async fn answer(mut self) -> Option<Result<Answer, EngineError>> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiting {
    /// Without an answer, makes the batcher remove cancelled entries.
    fn drop(&mut self) {
        if !self.receiver.is_terminated() {
            self.receiver.close();
            self.cancelled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::clock::SystemClock;
    use crate::error::Stage;
    use crate::request::Input;
    use crate::request::Wanted;
    use crate::rig::{Forward, backend, decoder, metrics, pixels, prepared, torchvision};
    use headswap_model::{BackendError, HeadRows, StillWanted};
    use headswap_spec::HeadInput;

    /// A clock that panics once its flag is set.
    #[derive(Default)]
    struct PanickingClock(AtomicBool);

    impl Clock for PanickingClock {
        fn now(&self) -> Instant {
            if self.0.load(Ordering::Relaxed) {
                std::panic::panic_any("a defect");
            }
            Instant::now()
        }
    }

    fn settings(max_batch: usize) -> EngineSettings {
        EngineSettings {
            batches: BatchLimits {
                max_batch,
                wait_max: Duration::ZERO,
            },
            in_flight_max: 8,
            bulk_percent: 10,
            decode_slots: 1,
            decode_bytes_max: 0,
            decode: Arc::new(decoder(|_| Ok(prepared(0)))),
            cost: CostTable::default(),
            clock: Arc::new(SystemClock),
        }
    }

    async fn started(forward: impl Forward) -> (Engine, EngineThreads) {
        start(backend(forward), settings(1), metrics()).await.unwrap()
    }

    fn embed(deadline: Option<Instant>) -> Request {
        Request {
            input: Input::Pixels(pixels(0)),
            heads: None,
            wanted: vec![Wanted {
                backbone: 0,
                preprocessing: torchvision(),
                input: HeadInput::Features,
            }],
            deadline,
            flow: 1,
        }
    }

    async fn run(engine: &Engine, deadline: Option<Instant>) -> Result<Answer, EngineError> {
        let admitted = engine.admit(Class::Interactive, deadline).await?;
        engine.run(admitted, embed(deadline)).await
    }

    #[tokio::test]
    async fn a_batch_of_the_largest_size_is_tried_before_the_engine_is_ready() {
        fn limited(_: &[HeadRows<'_>], rows: usize, _: &mut dyn StillWanted) -> Result<f32, BackendError> {
            match rows {
                0..=4 => Ok(1.0),
                _ => Err(BackendError::Device("out of memory".into())),
            }
        }
        start(backend(limited), settings(4), metrics()).await.unwrap();
        let error = start(backend(limited), settings(8), metrics()).await.unwrap_err();
        assert!(matches!(error, StartError::MaxBatch { max_batch: 8, .. }), "{error}");
        assert!(error.to_string().contains("lower --max-batch"));
    }

    #[tokio::test]
    async fn a_lost_device_is_reported_and_every_request_answered() {
        let passes = AtomicUsize::new(0);
        let (engine, threads) = started(move |_, _, _| match passes.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(1.0),
            _ => Err(BackendError::Lost("a test".into())),
        })
        .await;
        assert!(!engine.health().is_lost());
        for _ in 0..3 {
            assert!(matches!(run(&engine, None).await, Err(EngineError::DeviceLost)));
        }
        assert_eq!(engine.health().lost().await, "the device is lost: a test");
        drop(engine);
        assert!(threads.join(Duration::from_secs(60)).await);
    }

    /// The thread panics outside of the code that catches the network's panics.
    #[tokio::test]
    async fn a_device_thread_that_panics_is_reported_and_every_request_answered() {
        let (mut settings, clock) = (settings(1), Arc::new(PanickingClock::default()));
        settings.clock = clock.clone();
        let (engine, threads) = start(backend(|_, _, _| Ok(1.0)), settings, metrics()).await.unwrap();
        run(&engine, None).await.unwrap();
        clock.0.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            assert!(matches!(run(&engine, None).await, Err(EngineError::DeviceLost)));
        }
        assert_eq!(engine.health().lost().await, "its thread ended");
        drop(engine);
        assert!(threads.join(Duration::from_secs(60)).await);
    }

    #[tokio::test]
    async fn an_expired_request_reports_its_stage() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let passes = AtomicUsize::new(0);
        let (engine, _threads) = started(move |_, _, _| {
            // The warm-up's batch does not block.
            if passes.fetch_add(1, Ordering::Relaxed) > 0 {
                let _ = released.recv();
            }
            Ok(1.0)
        })
        .await;
        let soon = Duration::from_millis(50);
        let computing = run(&engine, Some(Instant::now() + soon)).await;
        assert!(
            matches!(computing, Err(EngineError::Expired(Stage::Computing))),
            "{computing:?}"
        );
        let waiting = run(&engine, Some(Instant::now() + soon)).await;
        assert!(
            matches!(waiting, Err(EngineError::Expired(Stage::Waiting))),
            "{waiting:?}"
        );
        assert!(waiting.unwrap_err().to_string().contains("waiting for its turn"));
        drop(release);
        run(&engine, None).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_expires_during_decoding_reports_it() {
        let (started, mut when_started) = mpsc::unbounded_channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Mutex::new(released);
        let settings = EngineSettings {
            decode: Arc::new(decoder(move |_| {
                let _ = started.send(());
                let _ = released.lock().unwrap().recv();
                Ok(prepared(0))
            })),
            ..settings(1)
        };
        let (engine, _threads) = start(backend(|_, _, _| Ok(1.0)), settings, metrics()).await.unwrap();
        let deadline = Some(Instant::now() + Duration::from_secs(60));
        let admitted = engine.admit(Class::Interactive, deadline).await.unwrap();
        let request = Request {
            input: Input::Image(bytes::Bytes::from_static(b"picture")),
            ..embed(deadline)
        };
        let (decoding, ()) = tokio::join!(engine.run(admitted, request), async {
            when_started.recv().await.unwrap();
            tokio::time::advance(Duration::from_secs(61)).await;
        });
        assert!(
            matches!(decoding, Err(EngineError::Expired(Stage::Decoding))),
            "{decoding:?}"
        );
        drop(release);
    }
}
