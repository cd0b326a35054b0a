//! The engine's handle and its start: a request in, its numbers out.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use headswap_model::Backend;
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
use super::together::Together;
use super::worker::Worker;

/// How the engine works.
pub struct EngineSettings {
    /// How large batches grow, and how long an idle device waits for company.
    pub batches: BatchLimits,
    /// Requests under way at most, of each class.
    pub in_flight_max: usize,
    /// Of the grants while both classes wait, how many in a hundred are bulk's.
    pub bulk_percent: u32,
    /// Pictures decoded at the same time.
    pub decode_slots: usize,
    /// Bytes of memory that they may take in all.
    pub decode_bytes_max: u64,
    /// What decodes them.
    pub decode: Arc<dyn Decode>,
    /// What a batch costs.
    pub cost: CostTable,
    /// What tells device threads the time.
    pub clock: Arc<dyn Clock>,
}

/// Headers of larger files are read on the blocking pool: the file may be all header, and a thread that serves connections
/// would be busy with it for milliseconds.
const HEADER_BYTES_INLINE_MAX: usize = 256 << 10;

/// Cheap to clone; the engine ends when the last clone is gone and everything accepted is answered.
#[derive(Clone)]
pub struct Engine {
    entries: mpsc::UnboundedSender<Entry>,
    gone: Arc<Notify>,
    admission: Admission,
    health: EngineHealth,
    metrics: EngineMetrics,
    decode: Arc<dyn Decode>,
    /// The most memory that decoding one picture may take.
    picture_memory_max: u64,
}

/// The engine's task and threads.
#[derive(Debug)]
pub struct EngineThreads {
    batcher: tokio::task::JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
}

/// Starts a thread for each of the network's lanes, and when all of them are prepared the batcher on the current runtime.
///
/// # Errors
/// If the operating system gives no thread, [`headswap_model::Backend::prepare`] failed, or a batch of the largest size does.
pub async fn start(
    network: Box<dyn Backend>,
    settings: EngineSettings,
    metrics: EngineMetrics,
) -> Result<(Engine, EngineThreads), StartError> {
    let steps = network.steps();
    let lanes_of_devices = network.into_lanes();
    let (finished_in, finished) = mpsc::unbounded_channel();
    let health = EngineHealth::default();
    let together = Together::default();
    let (mut starting, mut prepared, mut devices) = (Starting::default(), Vec::new(), Vec::new());
    let mut lanes_in_all = 0;
    for (device, lanes) in lanes_of_devices.into_iter().enumerate() {
        let (sender, batches) = mpsc::unbounded_channel::<Batch>();
        devices.push(Device::new(sender, lanes.len()));
        lanes_in_all += lanes.len();
        let batches = Arc::new(Mutex::new(batches));
        for network in lanes {
            let worker = Worker {
                steps: steps.clone(),
                network,
                batches: Arc::clone(&batches),
                finished: finished_in.clone(),
                device,
                health: health.clone(),
                metrics: metrics.clone(),
                clock: Arc::clone(&settings.clock),
            };
            let (ready, when_ready) = oneshot::channel();
            let (own, stop) = (together.join(), Arc::clone(&starting.stop));
            let thread = std::thread::Builder::new().name(format!("device-{device}"));
            let max_batch = settings.batches.max_batch;
            let run = move || worker.run(max_batch, &stop, ready, own);
            starting.workers.push(thread.spawn(run)?);
            prepared.push(when_ready);
        }
    }
    starting.devices = devices;
    for ready in prepared {
        ready.await.map_err(|_| StartError::Ended)??;
    }

    let decode_slots = settings.decode_slots.max(1);
    let budget = DecodeBudget::new(settings.decode_bytes_max, decode_slots);
    let picture_memory_max = budget.picture_max();
    let (entries_in, entries) = mpsc::unbounded_channel();
    let (decoded_in, decoded) = mpsc::unbounded_channel();
    let gone = Arc::new(Notify::new());
    let batcher = Batcher {
        scheduler: Scheduler::new(SchedulerLimits {
            max_batch: settings.batches.max_batch,
            devices: lanes_in_all,
            bulk_percent: settings.bulk_percent,
            cost: settings.cost,
        }),
        limits: settings.batches,
        entries,
        gone: Arc::clone(&gone),
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
        gone,
        admission: Admission::new(settings.in_flight_max, metrics.in_flight.clone()),
        health,
        metrics,
        decode: settings.decode,
        picture_memory_max,
    };
    Ok((engine, EngineThreads { batcher, workers }))
}

/// Threads that prepare their networks. Dropped, which is when one failed or the server is stopping, it stops them and
/// waits: the process must not end while they use a device.
#[derive(Default)]
struct Starting {
    devices: Vec<Device>,
    workers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
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
    /// Waits until everything accepted is answered and the devices are free, but no longer than `limit`; every [`Engine`]
    /// must have been dropped. Returns whether it came to its end.
    pub async fn join(self, limit: Duration) -> bool {
        let join = async {
            let _ = self.batcher.await;
            let workers = self.workers;
            let join = move || workers.into_iter().for_each(|worker| drop(worker.join()));
            let _ = tokio::task::spawn_blocking(join).await;
        };
        timeout(limit, join).await.is_ok()
    }
}

impl Engine {
    /// Whether the device computes.
    pub fn health(&self) -> &EngineHealth {
        &self.health
    }

    /// How many requests are under way.
    pub fn in_flight(&self) -> &Gauge {
        &self.metrics.in_flight
    }

    /// A place for a request: at once or not at all for an interactive one, within its deadline for a bulk one.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::Expired`], [`EngineError::Stopped`].
    pub async fn admit(&self, class: Class, deadline: Option<Instant>) -> Result<Admitted, EngineError> {
        let admitted = self.admission.admit(class, deadline).await;
        admitted.inspect_err(|error| self.metrics.observe_error(error))
    }

    /// Computes a request. Dropped, it takes the request out of the queue.
    ///
    /// # Errors
    /// [`EngineError`], at the deadline at the latest.
    pub async fn run(&self, admitted: Admitted, request: Request) -> Result<Answer, EngineError> {
        let memory = self.memory(&request.input).await?;
        let (answer, receiver) = oneshot::channel();
        let progress = Progress::default();
        let deadline = request.deadline;
        let entry = Entry {
            input: request.input,
            heads: request.heads.map_or(Heads::Pinned(Vec::new()), Heads::Source),
            features: request.features,
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
            gone: Arc::clone(&self.gone),
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

    /// The memory that decoding takes. What its header alone refuses waits for no turn.
    async fn memory(&self, input: &Input) -> Result<u64, EngineError> {
        let Input::Image(bytes) = input else { return Ok(0) };
        let needed = if bytes.len() <= HEADER_BYTES_INLINE_MAX {
            guarded(|| self.decode.memory(bytes))?
        } else {
            let (decode, bytes) = (Arc::clone(&self.decode), bytes.clone());
            let read = tokio::task::spawn_blocking(move || guarded(|| decode.memory(&bytes)));
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
    gone: Arc<Notify>,
}

impl Waiting {
    /// The answer; none if its entry was dropped without one.
    async fn answer(mut self) -> Option<Result<Answer, EngineError>> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiting {
    /// A caller that is gone before its answer came has the batcher look for entries like its own.
    fn drop(&mut self) {
        if !self.receiver.is_terminated() {
            self.receiver.close();
            self.gone.notify_one();
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
    use crate::rig::{Forward, decoder, metrics, pixels, told};
    use headswap_model::{BackendError, HeadRows, StillWanted};

    /// A clock that panics when told to.
    #[derive(Default)]
    struct Failing(AtomicBool);

    impl Clock for Failing {
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
            decode: Arc::new(decoder(|_| Ok(pixels(0)))),
            cost: CostTable::default(),
            clock: Arc::new(SystemClock),
        }
    }

    async fn started(forward: impl Forward) -> (Engine, EngineThreads) {
        start(told(forward), settings(1), metrics()).await.unwrap()
    }

    fn embed(deadline: Option<Instant>) -> Request {
        Request {
            input: Input::Pixels(pixels(0)),
            heads: None,
            features: true,
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
        start(told(limited), settings(4), metrics()).await.unwrap();
        let error = start(told(limited), settings(8), metrics()).await.unwrap_err();
        assert!(matches!(error, StartError::MaxBatch { max_batch: 8, .. }), "{error}");
        assert!(error.to_string().contains("lower --max-batch"));
    }

    #[tokio::test]
    async fn a_lost_device_is_noticed_and_every_request_is_answered() {
        let asked = AtomicUsize::new(0);
        let (engine, threads) = started(move |_, _, _| match asked.fetch_add(1, Ordering::Relaxed) {
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

    /// A defect of ours: a panic outside of what guards the network.
    #[tokio::test]
    async fn a_device_thread_that_ends_is_noticed_and_every_request_is_answered() {
        let (mut settings, clock) = (settings(1), Arc::new(Failing::default()));
        settings.clock = clock.clone();
        let (engine, threads) = start(told(|_, _, _| Ok(1.0)), settings, metrics()).await.unwrap();
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
    async fn a_deadline_says_what_the_request_was_doing() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let asked = AtomicUsize::new(0);
        let (engine, _threads) = started(move |_, _, _| {
            // The warm-up's batch is not held.
            if asked.fetch_add(1, Ordering::Relaxed) > 0 {
                let _ = released.recv();
            }
            Ok(1.0)
        })
        .await;
        let soon = || Some(Instant::now() + Duration::from_millis(50));
        let computing = run(&engine, soon()).await;
        assert!(
            matches!(computing, Err(EngineError::Expired(Stage::Computing))),
            "{computing:?}"
        );
        let waiting = run(&engine, soon()).await;
        assert!(
            matches!(waiting, Err(EngineError::Expired(Stage::Waiting))),
            "{waiting:?}"
        );
        assert!(waiting.unwrap_err().to_string().contains("waiting for its turn"));
        drop(release);
        run(&engine, None).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_while_a_picture_is_decoded_says_so() {
        let (started, mut when_started) = mpsc::unbounded_channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Mutex::new(released);
        let settings = EngineSettings {
            decode: Arc::new(decoder(move |_| {
                let _ = started.send(());
                let _ = released.lock().unwrap().recv();
                Ok(pixels(0))
            })),
            ..settings(1)
        };
        let (engine, _threads) = start(told(|_, _, _| Ok(1.0)), settings, metrics()).await.unwrap();
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
