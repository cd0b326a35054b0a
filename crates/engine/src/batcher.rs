//! The tokio task that owns the scheduler: it grants decode slots and devices, and answers what cannot have them.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::class::Class;
use super::decoders::{Decoded, Decoders};
use super::error::{EngineError, Stage};
use super::health::EngineHealth;
use super::metrics::EngineMetrics;
use super::policy::{BatchLimits, Decision, decide};
use super::request::{Entry, Heads, Pinned, PinnedHeads};
use super::scheduler::{Scheduled as _, Scheduler, Turn};

/// Entries that run together.
pub(super) type Batch = Vec<Entry>;

/// How many bulk requests may load heads at the same time. The flow of one more waits, so that streams that ask for
/// heads from the store do not take all device memory for what waits.
pub(super) const BULK_LOADS_MAX: usize = 8;

pub(super) struct Batcher {
    pub scheduler: Scheduler<Entry>,
    pub limits: BatchLimits,
    /// Bounded by admission.
    pub entries: mpsc::UnboundedReceiver<Entry>,
    /// Told when the caller of a waiting entry is gone.
    pub gone: Arc<Notify>,
    pub decoders: Decoders,
    pub decoded: mpsc::UnboundedReceiver<Decoded>,
    /// At least one.
    pub devices: Vec<Device>,
    /// A device's index each time that it has finished a batch.
    pub finished: mpsc::UnboundedReceiver<usize>,
    pub health: EngineHealth,
    pub metrics: EngineMetrics,
    pub loads: Loads,
    /// Since when something is ready while the device waits for company.
    pub ready_since: Option<Instant>,
}

/// A device as the batcher knows it.
pub(super) struct Device {
    batches: mpsc::UnboundedSender<Batch>,
    /// Batches that it computes at the same time.
    lanes: usize,
    /// Batches that it has been given and has not finished.
    outstanding: usize,
}

/// Entries whose heads are being loaded.
#[derive(Default)]
pub(super) struct Loads {
    pending: FuturesUnordered<BoxFuture<'static, Loaded>>,
    bulk: usize,
}

/// The end of a load; nothing if the caller is gone.
struct Loaded {
    class: Class,
    outcome: Option<(Entry, PinnedHeads)>,
}

impl Loads {
    /// Waits for the heads of an entry, which comes back with them.
    fn start(&mut self, mut entry: Entry, heads: BoxFuture<'static, PinnedHeads>) {
        let class = entry.class();
        self.bulk += usize::from(class == Class::Bulk);
        entry.progress.set(Stage::Loading);
        let load = async move {
            let outcome = tokio::select! {
                heads = heads => Some(heads),
                () = entry.answer.closed() => None,
            };
            entry.progress.set(Stage::Waiting);
            Loaded {
                class,
                outcome: outcome.map(|heads| (entry, heads)),
            }
        };
        self.pending.push(Box::pin(load));
    }
}

impl Device {
    pub fn new(batches: mpsc::UnboundedSender<Batch>, lanes: usize) -> Self {
        Self {
            batches,
            lanes,
            outstanding: 0,
        }
    }
}

impl Batcher {
    /// Runs until every sender of entries is gone and every entry has been handed on.
    pub async fn run(mut self) {
        let mut open = true;
        let (health, gone) = (self.health.clone(), Arc::clone(&self.gone));
        let mut lost = std::pin::pin!(health.lost());
        let mut caller_gone = std::pin::pin!(gone.notified());
        loop {
            let is_lost = health.is_lost();
            if is_lost {
                self.refuse_all();
            }
            self.grant_decodes();
            let decision = self.grant_devices(open);
            if !open && self.is_idle() {
                return;
            }
            let timeout = async {
                match decision {
                    Decision::WaitFor(rest) => tokio::time::sleep(rest).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                // What has ended is counted first: a free device beats a fuller batch.
                biased;
                Some(device) = self.finished.recv() => self.devices[device].outstanding -= 1,
                _ = &mut lost, if !is_lost => {}
                Some(decoded) = self.decoded.recv() => self.take_decoded(decoded),
                Some(loaded) = self.loads.pending.next() => self.take_loaded(loaded),
                entry = self.entries.recv(), if open => match entry {
                    Some(entry) => self.take(entry),
                    None => open = false,
                },
                () = &mut caller_gone => {
                    caller_gone.set(gone.notified());
                    self.forget_dead();
                }
                () = timeout => {}
            }
            self.take_what_came();
        }
    }

    /// Whether nothing waits, nothing is being decoded or loaded.
    fn is_idle(&self) -> bool {
        self.scheduler.is_empty() && self.decoders.busy == 0 && self.loads.pending.is_empty()
    }

    /// Takes everything that came meanwhile, so that one decision is made for all of it.
    fn take_what_came(&mut self) {
        while let Ok(device) = self.finished.try_recv() {
            self.devices[device].outstanding -= 1;
        }
        while let Ok(decoded) = self.decoded.try_recv() {
            self.take_decoded(decoded);
        }
        while let Ok(entry) = self.entries.try_recv() {
            self.take(entry);
        }
    }

    /// An interactive entry takes its heads at once; a bulk one when its turn comes.
    fn take(&mut self, entry: Entry) {
        if entry.class() == Class::Interactive {
            if let Some(entry) = pin(entry, &mut self.loads) {
                self.enqueue(entry);
            }
        } else {
            self.enqueue(entry);
        }
    }

    /// Puts an entry behind the others of its flow.
    fn enqueue(&mut self, entry: Entry) {
        if entry.is_encoded() {
            self.scheduler.push_encoded(entry);
        } else {
            self.scheduler.push_ready(entry);
        }
    }

    fn take_decoded(&mut self, decoded: Decoded) {
        if self.decoders.finished(decoded.memory) {
            self.scheduler.unpark();
        }
        // A caller that left while its picture was decoded was not found among those that wait.
        let entry = decoded
            .entry
            .and_then(|entry| self.metrics.alive(entry, Instant::now()));
        self.scheduler.decoded(decoded.class, entry);
    }

    fn take_loaded(&mut self, loaded: Loaded) {
        if loaded.class == Class::Bulk {
            self.loads.bulk -= 1;
            self.scheduler.unpark();
        }
        let Some((entry, heads)) = loaded.outcome else { return };
        let Some(entry) = with_heads(entry, heads) else { return };
        match entry.class() {
            Class::Interactive => self.enqueue(entry),
            // It left when its turn had come, so it is the next of its flow.
            Class::Bulk => {
                let encoded = entry.is_encoded();
                self.scheduler.push_front(entry, encoded);
            }
        }
    }

    /// Starts decoding as far as slots and memory are free and pictures may be decoded ahead.
    fn grant_decodes(&mut self) {
        while self.decoders.has_slot() {
            let (loads, metrics, budget) = (&mut self.loads, &self.metrics, &mut self.decoders.budget);
            let next = self.scheduler.next_to_decode(|entry| {
                if !entry.is_dead(Instant::now()) && !budget.has_room(entry.memory) {
                    return Turn::Park(entry);
                }
                turn(entry, loads, metrics)
            });
            match next {
                Some(entry) => self.decoders.start(entry),
                None => return,
            }
        }
    }

    /// Gives batches to devices as far as the policy says so. Returns what it said last.
    fn grant_devices(&mut self, open: bool) -> Decision {
        loop {
            let ready = self.scheduler.ready();
            if ready == 0 {
                self.ready_since = None;
            }
            let waited = self.ready_since.map_or(Duration::ZERO, |since| since.elapsed());
            let Some(device) = self.devices.iter_mut().min_by_key(|device| device.outstanding) else {
                return Decision::Wait;
            };
            // With no more callers, company need not be waited for.
            let limits = BatchLimits {
                wait_max: if open { self.limits.wait_max } else { Duration::ZERO },
                ..self.limits
            };
            let decision = decide(ready, device.outstanding, device.lanes, waited, limits);
            match decision {
                Decision::Dispatch(_) => {}
                Decision::WaitFor(_) => {
                    self.ready_since.get_or_insert_with(Instant::now);
                    return decision;
                }
                Decision::Wait => return decision,
            }
            let (loads, metrics) = (&mut self.loads, &self.metrics);
            let batch = self.scheduler.take_batch(|entry| turn(entry, loads, metrics));
            if batch.is_empty() {
                // All that was ready has left or is parked.
                return Decision::Wait;
            }
            device.outstanding += 1;
            // If the device's threads have ended, their callers see their answers' channels close.
            let _ = device.batches.send(batch);
        }
    }

    fn forget_dead(&mut self) {
        let (now, metrics) = (Instant::now(), &self.metrics);
        self.scheduler.retain(|entry| {
            let alive = !entry.cancelled();
            if !alive {
                metrics.count_dead(entry.expired(now));
            }
            alive
        });
    }

    /// Answers everything that waits: there is no device any more.
    fn refuse_all(&mut self) {
        for entry in self.scheduler.drain() {
            entry.answer(Err(EngineError::DeviceLost));
        }
    }
}

/// Decides what becomes of an entry whose turn has come: it takes its heads, or leaves if it is dead.
fn turn(entry: Entry, loads: &mut Loads, metrics: &EngineMetrics) -> Turn<Entry> {
    let Some(entry) = metrics.alive(entry, Instant::now()) else {
        return Turn::Leave;
    };
    if let Heads::Source(source) = &entry.heads
        && loads.bulk >= BULK_LOADS_MAX
        && !source.resident()
    {
        return Turn::Park(entry);
    }
    pin(entry, loads).map_or(Turn::Leave, Turn::Take)
}

/// The entry with its heads, if they are on the device; else they are loaded, and the entry comes back with them.
fn pin(entry: Entry, loads: &mut Loads) -> Option<Entry> {
    let Heads::Source(source) = &entry.heads else {
        return Some(entry);
    };
    match Arc::clone(source).pin() {
        Pinned::Now(heads) => with_heads(entry, heads),
        Pinned::Later(heads) => {
            loads.start(entry, heads);
            None
        }
    }
}

/// The entry with its heads; answered if none of them can answer.
fn with_heads(mut entry: Entry, heads: PinnedHeads) -> Option<Entry> {
    if heads.is_empty() {
        entry.answer(Err(EngineError::NoHeads));
        return None;
    }
    entry.heads = Heads::Pinned(heads);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt as _;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::cost::CostTable;
    use crate::decode_budget::DecodeBudget;
    use crate::request::Input;
    use crate::rig::{Answered, ColdHeads, Entries, decoder, head, pixels};
    use crate::scheduler::{Scheduled, SchedulerLimits};
    use headswap_image::ImageError;

    /// A picture whose decoding waits for the test.
    const HELD: &[u8] = b"\x02";

    /// While true, decoding [`HELD`] waits.
    struct Hold(Arc<AtomicBool>);

    /// A batcher whose device is the test.
    struct Rig {
        entries: Entries,
        sender: mpsc::UnboundedSender<Entry>,
        gone: Arc<Notify>,
        batches: mpsc::UnboundedReceiver<Batch>,
        finished: mpsc::UnboundedSender<usize>,
        hold: Hold,
        health: EngineHealth,
        task: JoinHandle<()>,
        /// The bytes that were decoded, in order.
        decoded: Arc<Mutex<Vec<u8>>>,
    }

    impl Drop for Hold {
        /// The runtime waits for decoding threads, also when a test fails.
        fn drop(&mut self) {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    impl Rig {
        /// With batches of `max_batch`, each row at 10 ms, and one decoder.
        fn new(max_batch: usize, wait_max: Duration) -> Self {
            Self::with_decoders(max_batch, wait_max, 1)
        }

        /// With 800 bytes for `slots` decoders.
        fn with_decoders(max_batch: usize, wait_max: Duration, slots: usize) -> Self {
            let entries = Entries::new();
            let (sender, receiver) = mpsc::unbounded_channel();
            let (done, decoded_receiver) = mpsc::unbounded_channel();
            let (batches_in, batches) = mpsc::unbounded_channel();
            let (finished_in, finished) = mpsc::unbounded_channel();
            let (gone, health, decoded) = (Arc::new(Notify::new()), EngineHealth::default(), Arc::default());
            let seen: Arc<Mutex<Vec<u8>>> = Arc::clone(&decoded);
            let hold = Arc::<AtomicBool>::default();
            let held = Arc::clone(&hold);
            let ms = Duration::from_millis(10);
            let batcher = Batcher {
                scheduler: Scheduler::new(SchedulerLimits {
                    max_batch,
                    devices: 1,
                    bulk_percent: 10,
                    cost: CostTable::from_per_picture(&[(1, ms), (max_batch.max(2), ms)]),
                }),
                limits: BatchLimits { max_batch, wait_max },
                entries: receiver,
                gone: Arc::clone(&gone),
                decoders: Decoders {
                    decode: Arc::new(decoder(move |bytes| match bytes.first() {
                        None => Err(ImageError::Empty),
                        Some(0) => std::panic::panic_any("a decoder's defect"),
                        Some(&first) => {
                            while bytes == HELD && held.load(Ordering::Relaxed) {
                                std::thread::yield_now();
                            }
                            seen.lock().unwrap().push(first);
                            Ok(pixels(first))
                        }
                    })),
                    slots,
                    busy: 0,
                    budget: DecodeBudget::new(800, slots),
                    done,
                    metrics: entries.metrics.clone(),
                },
                decoded: decoded_receiver,
                devices: vec![Device::new(batches_in, 1)],
                finished,
                health: health.clone(),
                metrics: entries.metrics.clone(),
                loads: Loads::default(),
                ready_since: None,
            };
            Self {
                entries,
                sender,
                gone,
                batches,
                finished: finished_in,
                hold: Hold(hold),
                health,
                task: tokio::spawn(batcher.run()),
                decoded,
            }
        }

        fn send(&self, entry: Entry) {
            self.sender.send(entry).ok().unwrap();
        }

        async fn batch(&mut self) -> Batch {
            self.batches.recv().await.unwrap()
        }

        fn finish(&self) {
            self.finished.send(0).unwrap();
        }

        /// Lets the batcher do all that it can do now.
        async fn settle(&self) {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn classes(batch: &Batch) -> Vec<Class> {
        batch.iter().map(Scheduled::class).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_unary_call_runs_in_the_next_batch_whatever_a_stream_has_sent() {
        let mut rig = Rig::new(4, Duration::ZERO);
        let mut answers = Vec::new();
        for _ in 0..20 {
            let (entry, answered) = rig.entries.picture(Class::Bulk, 1, vec![head(2)]).await;
            rig.send(entry);
            answers.push(answered);
        }
        assert_eq!(rig.batch().await.len(), 4);
        let (entry, _answered) = rig.entries.picture(Class::Interactive, 2, vec![head(2)]).await;
        rig.send(entry);
        rig.settle().await;
        // Nothing is prepared behind the running batch.
        assert!(rig.batches.recv().now_or_never().is_none());
        rig.finish();
        assert_eq!(classes(&rig.batch().await)[0], Class::Interactive);
    }

    /// Sends pictures of one byte each that take `memory` to decode, each in a flow of its own.
    async fn send_costly(rig: &Rig, pictures: &[(&'static [u8], u64)]) -> Vec<Answered> {
        let mut answers = Vec::new();
        for (flow, &(bytes, memory)) in pictures.iter().enumerate() {
            let (mut entry, answered) = rig.entries.encoded(Class::Interactive, flow as u64, bytes).await;
            entry.memory = memory;
            rig.send(entry);
            answers.push(answered);
        }
        answers
    }

    /// Waits until so many pictures were decoded.
    async fn decoded(rig: &Rig, count: usize) -> Vec<u8> {
        loop {
            let decoded = rig.decoded.lock().unwrap().clone();
            if decoded.len() >= count {
                return decoded;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn pictures_wait_for_memory_in_their_order_and_small_ones_do_not() {
        let rig = Rig::with_decoders(8, Duration::ZERO, 4);
        rig.hold.0.store(true, Ordering::Relaxed);
        // 700 bytes are for large pictures. 3 waits for the memory of HELD, and 4 for its turn behind 3.
        let _answers = send_costly(&rig, &[(HELD, 600), (b"\x03", 200), (b"\x04", 50), (b"\x05", 25)]).await;
        assert_eq!(decoded(&rig, 1).await, [5]);
        rig.settle().await;
        assert_eq!(decoded(&rig, 1).await, [5]);
        // The memory of 5 is given back once its thread has said that it is done.
        while rig.entries.metrics.decode_reserved.get() != 600 {
            tokio::task::yield_now().await;
        }
        rig.hold.0.store(false, Ordering::Relaxed);
        let mut decoded = decoded(&rig, 4).await;
        assert_eq!(decoded[..2], [5, 2]);
        decoded.sort_unstable();
        assert_eq!(decoded, [2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_while_its_picture_waits_for_memory_holds_up_nobody() {
        let rig = Rig::with_decoders(8, Duration::ZERO, 4);
        rig.hold.0.store(true, Ordering::Relaxed);
        let mut answers = send_costly(&rig, &[(HELD, 600), (b"\x03", 700), (b"\x04", 50)]).await;
        rig.settle().await;
        drop(answers.remove(1));
        rig.gone.notify_one();
        rig.hold.0.store(false, Ordering::Relaxed);
        assert_eq!(decoded(&rig, 2).await, [2, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_device_waits_for_company_as_long_as_it_is_told() {
        let wait = Duration::from_millis(5);
        let mut rig = Rig::new(4, wait);
        let started = Instant::now();
        let (entry, _first) = rig.entries.picture(Class::Interactive, 1, vec![head(2)]).await;
        rig.send(entry);
        assert_eq!(rig.batch().await.len(), 1);
        assert_eq!(started.elapsed(), wait);
        rig.finish();
        // A full batch waits for nothing.
        let started = Instant::now();
        let mut answers = Vec::new();
        for flow in 0..4 {
            let (entry, answered) = rig.entries.picture(Class::Interactive, flow, vec![head(2)]).await;
            rig.send(entry);
            answers.push(answered);
        }
        assert_eq!(rig.batch().await.len(), 4);
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn pictures_are_decoded_two_batches_ahead_and_no_further() {
        let mut rig = Rig::new(2, Duration::ZERO);
        let mut answers = Vec::new();
        for number in 0..20 {
            let (entry, answered) = rig.entries.encoded(Class::Interactive, number, b"\x01").await;
            rig.send(entry);
            answers.push(answered);
        }
        // The first that is decoded leaves at once; the others wait for the device.
        rig.batch().await;
        while rig.decoded.lock().unwrap().len() < 1 + 4 {
            tokio::task::yield_now().await;
        }
        rig.settle().await;
        assert_eq!(rig.decoded.lock().unwrap().len(), 1 + 4);
        rig.finish();
        assert_eq!(rig.batch().await.len(), 2);
    }

    #[tokio::test]
    async fn a_picture_that_cannot_be_decoded_is_refused_and_frees_its_slot() {
        let mut rig = Rig::new(2, Duration::ZERO);
        for bytes in [&b""[..], b"\0"] {
            let (entry, answered) = rig.entries.encoded(Class::Interactive, 1, bytes).await;
            rig.send(entry);
            assert!(matches!(answered.await.unwrap(), Err(EngineError::Image(_))));
        }
        let (entry, _answered) = rig.entries.encoded(Class::Interactive, 1, b"\x01").await;
        rig.send(entry);
        let batch = rig.batch().await;
        assert_eq!((batch.len(), rig.entries.metrics.in_flight.get()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_expired_are_neither_decoded_nor_computed() {
        let mut rig = Rig::new(1, Duration::ZERO);
        let (running, _running) = rig.entries.picture(Class::Interactive, 0, vec![head(2)]).await;
        rig.send(running);
        rig.batch().await;
        let mut answers = Vec::new();
        for encoded in [false, true] {
            let (mut entry, answered) = match encoded {
                true => rig.entries.encoded(Class::Interactive, 1, b"\x07").await,
                false => rig.entries.picture(Class::Interactive, 1, vec![head(2)]).await,
            };
            entry.deadline = Some(Instant::now());
            rig.send(entry);
            answers.push(answered);
        }
        rig.finish();
        for answered in answers {
            assert!(matches!(
                answered.await.unwrap(),
                Err(EngineError::Expired(Stage::Waiting))
            ));
        }
        assert!(rig.batches.recv().now_or_never().is_none());
        assert!(rig.decoded.lock().unwrap().is_empty());
        assert_eq!(rig.entries.metrics.expired.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_gone_takes_its_entry_along() {
        let mut rig = Rig::new(1, Duration::ZERO);
        let (running, _running) = rig.entries.picture(Class::Interactive, 0, vec![head(2)]).await;
        rig.send(running);
        let _running = rig.batch().await;
        let (entry, answered) = rig.entries.picture(Class::Bulk, 1, vec![head(2)]).await;
        rig.send(entry);
        rig.settle().await;
        assert_eq!(rig.entries.metrics.in_flight.get(), 2);
        drop(answered);
        rig.gone.notify_one();
        rig.settle().await;
        // Its place is free while the device is still busy.
        assert_eq!(rig.entries.metrics.in_flight.get(), 1);
        assert_eq!(rig.entries.metrics.cancelled.get(), 1);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_while_its_picture_is_decoded_is_not_kept() {
        let mut rig = Rig::new(1, Duration::ZERO);
        let (running, _running) = rig.entries.picture(Class::Interactive, 0, vec![head(2)]).await;
        rig.send(running);
        let _running = rig.batch().await;
        let (entry, answered) = rig.entries.encoded(Class::Interactive, 1, HELD).await;
        let progress = entry.progress.clone();
        rig.hold.0.store(true, Ordering::Relaxed);
        rig.send(entry);
        while progress.stage() != Stage::Decoding {
            tokio::task::yield_now().await;
        }
        drop(answered);
        rig.gone.notify_one();
        rig.settle().await;
        rig.hold.0.store(false, Ordering::Relaxed);
        while rig.entries.metrics.in_flight.get() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.entries.metrics.cancelled.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_takes_its_heads_when_its_turn_comes_and_interactive_at_once() {
        let mut rig = Rig::new(1, Duration::ZERO);
        let (running, _running) = rig.entries.picture(Class::Interactive, 0, vec![head(2)]).await;
        rig.send(running);
        rig.batch().await;
        let (bulk, interactive) = (ColdHeads::new(), ColdHeads::new());
        let picture = || Input::Pixels(pixels(0));
        let (entry, _bulk) = rig
            .entries
            .entry(Class::Bulk, 1, picture(), Heads::Source(bulk.clone()))
            .await;
        rig.send(entry);
        let heads = Heads::Source(interactive.clone());
        let (entry, _interactive) = rig.entries.entry(Class::Interactive, 2, picture(), heads).await;
        rig.send(entry);
        rig.settle().await;
        assert_eq!(
            (
                bulk.pins.load(Ordering::Relaxed),
                interactive.pins.load(Ordering::Relaxed)
            ),
            (0, 1)
        );
        rig.finish();
        rig.settle().await;
        assert_eq!(bulk.pins.load(Ordering::Relaxed), 1);
        bulk.loaded.send_replace(true);
        assert_eq!(classes(&rig.batch().await), [Class::Bulk]);
        rig.finish();
        interactive.loaded.send_replace(true);
        assert_eq!(classes(&rig.batch().await), [Class::Interactive]);
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_loads_are_bounded_and_hold_up_no_other_flow() {
        let mut rig = Rig::new(1, Duration::ZERO);
        let mut answers = Vec::new();
        let cold: Vec<_> = (0..3 * BULK_LOADS_MAX).map(|_| ColdHeads::new()).collect();
        for heads in &cold {
            let heads = Heads::Source(heads.clone());
            let (entry, answered) = rig.entries.entry(Class::Bulk, 1, Input::Pixels(pixels(0)), heads).await;
            rig.send(entry);
            answers.push(answered);
        }
        rig.settle().await;
        let loading = || {
            cold.iter()
                .filter(|heads| heads.pins.load(Ordering::Relaxed) > 0)
                .count()
        };
        assert_eq!(loading(), BULK_LOADS_MAX);
        let (entry, _answered) = rig.entries.picture(Class::Bulk, 2, vec![head(2)]).await;
        rig.send(entry);
        assert_eq!(rig.batch().await.len(), 1);
        rig.finish();
        // As loads end, others begin, and everything is computed.
        for heads in &cold {
            heads.loaded.send_replace(true);
        }
        for _ in &cold {
            assert_eq!(rig.batch().await.len(), 1);
            rig.finish();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heads_that_all_fail_are_an_answer() {
        let rig = Rig::new(1, Duration::ZERO);
        for class in [Class::Interactive, Class::Bulk] {
            let heads = ColdHeads::new();
            heads.fails.store(true, Ordering::Relaxed);
            heads.loaded.send_replace(true);
            let heads = Heads::Source(heads);
            let (entry, answered) = rig.entries.entry(class, 1, Input::Pixels(pixels(0)), heads).await;
            rig.send(entry);
            assert!(matches!(answered.await.unwrap(), Err(EngineError::NoHeads)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_device_everything_is_answered() {
        let rig = Rig::new(1, Duration::ZERO);
        let mut answers = Vec::new();
        for flow in 0..5 {
            let (entry, answered) = rig.entries.picture(Class::Bulk, flow, vec![head(2)]).await;
            rig.send(entry);
            answers.push(answered);
        }
        rig.settle().await;
        rig.health.report_lost("a test".into());
        // The first is the device's.
        for answered in answers.into_iter().skip(1) {
            assert!(matches!(answered.await.unwrap(), Err(EngineError::DeviceLost)));
        }
        let (entry, answered) = rig.entries.picture(Class::Interactive, 1, vec![head(2)]).await;
        rig.send(entry);
        assert!(matches!(answered.await.unwrap(), Err(EngineError::DeviceLost)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_its_callers_have_and_all_is_handed_on() {
        let mut rig = Rig::new(2, Duration::from_secs(3600));
        let (entry, _answered) = rig.entries.picture(Class::Bulk, 1, vec![head(2)]).await;
        rig.send(entry);
        drop(rig.sender);
        assert_eq!(rig.batches.recv().await.unwrap().len(), 1);
        rig.task.await.unwrap();
    }
}
