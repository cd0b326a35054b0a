//! The tokio task that owns the scheduler: it grants decode slots and devices, and answers expired and failed requests.

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

/// The number of bulk requests that may load heads at a time. Beyond it, a flow is parked, so that the heads of waiting
/// requests do not fill the device's memory.
pub(super) const BULK_LOADS_MAX: usize = 8;

pub(super) struct Batcher {
    pub scheduler: Scheduler<Entry>,
    pub limits: BatchLimits,
    /// Bounded by admission.
    pub entries: mpsc::UnboundedReceiver<Entry>,
    /// Notified when the caller of a waiting entry gives up.
    pub cancelled: Arc<Notify>,
    pub decoders: Decoders,
    pub decoded: mpsc::UnboundedReceiver<Decoded>,
    /// Never empty.
    pub devices: Vec<Device>,
    /// Receives a device's index whenever it has finished a batch.
    pub finished: mpsc::UnboundedReceiver<usize>,
    pub health: EngineHealth,
    pub metrics: EngineMetrics,
    pub loads: Loads,
    /// When the batcher began to wait for more entries while the device is idle.
    pub ready_since: Option<Instant>,
}

/// The batcher's side of a device.
pub(super) struct Device {
    batches: mpsc::UnboundedSender<Batch>,
    /// The number of batches that it runs at a time.
    lanes: usize,
    /// The number of batches dispatched to it and not finished.
    outstanding: usize,
}

/// Entries whose heads are being loaded.
#[derive(Default)]
pub(super) struct Loads {
    pending: FuturesUnordered<BoxFuture<'static, Loaded>>,
    bulk: usize,
}

/// A finished load; the result is none if the caller gave up.
struct Loaded {
    class: Class,
    result: Option<(Entry, PinnedHeads)>,
}

impl Loads {
    /// Waits for the heads of an entry.
    fn start(&mut self, mut entry: Entry, heads: BoxFuture<'static, PinnedHeads>) {
        let class = entry.class();
        self.bulk += usize::from(class == Class::Bulk);
        entry.progress.set(Stage::Loading);
        self.pending.push(Box::pin(async move {
            let heads = tokio::select! {
                heads = heads => Some(heads),
                () = entry.answer.closed() => None,
            };
            entry.progress.set(Stage::Waiting);
            Loaded {
                class,
                result: heads.map(|heads| (entry, heads)),
            }
        }));
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

    /// The number of batches that it runs at a time.
    pub fn lanes(&self) -> usize {
        self.lanes
    }
}

impl Batcher {
    /// Runs until every sender of entries is dropped and every entry is dispatched or answered.
    pub async fn run(mut self) {
        let mut open = true;
        let (health, cancelled) = (self.health.clone(), Arc::clone(&self.cancelled));
        let mut lost = std::pin::pin!(health.lost());
        let mut next_cancelled = std::pin::pin!(cancelled.notified());
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
                // Finished batches come first: a free device matters more than a fuller batch.
                biased;
                Some(device) = self.finished.recv() => self.devices[device].outstanding -= 1,
                _ = &mut lost, if !is_lost => {}
                Some(decoded) = self.decoded.recv() => self.on_decoded(decoded),
                Some(loaded) = self.loads.pending.next() => self.on_loaded(loaded),
                entry = self.entries.recv(), if open => match entry {
                    Some(entry) => self.on_entry(entry),
                    None => open = false,
                },
                () = &mut next_cancelled => {
                    next_cancelled.set(cancelled.notified());
                    self.remove_cancelled();
                }
                () = timeout => {}
            }
            self.drain_channels();
        }
    }

    /// Returns true if no entry waits or is being decoded or loaded.
    fn is_idle(&self) -> bool {
        self.scheduler.is_empty() && self.decoders.busy == 0 && self.loads.pending.is_empty()
    }

    /// Receives everything that is available, so that one decision is made for all of it.
    fn drain_channels(&mut self) {
        while let Ok(device) = self.finished.try_recv() {
            self.devices[device].outstanding -= 1;
        }
        while let Ok(decoded) = self.decoded.try_recv() {
            self.on_decoded(decoded);
        }
        while let Ok(entry) = self.entries.try_recv() {
            self.on_entry(entry);
        }
    }

    /// Enqueues a new entry. An interactive one pins its heads first, a bulk one when its turn comes.
    fn on_entry(&mut self, entry: Entry) {
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

    fn on_decoded(&mut self, decoded: Decoded) {
        if self.decoders.finish(decoded.memory) {
            self.scheduler.unpark();
        }
        // The entry was not in the scheduler, so its caller may have given up unnoticed.
        let entry = decoded
            .entry
            .and_then(|entry| self.metrics.alive(entry, Instant::now()));
        self.scheduler.decoded(decoded.class, decoded.cost, entry);
    }

    fn on_loaded(&mut self, loaded: Loaded) {
        if loaded.class == Class::Bulk {
            self.loads.bulk -= 1;
            self.scheduler.unpark();
        }
        let Some((entry, heads)) = loaded.result else { return };
        let Some(entry) = with_heads(entry, heads) else { return };
        match entry.class() {
            Class::Interactive => self.enqueue(entry),
            // Its turn had come before the load, so it is the next of its flow.
            Class::Bulk => {
                let encoded = entry.is_encoded();
                self.scheduler.push_front(entry, encoded);
            }
        }
    }

    /// Starts decoding while slots and memory are free and more pictures may be decoded ahead.
    fn grant_decodes(&mut self) {
        while self.decoders.has_slot() {
            let (loads, metrics, budget) = (&mut self.loads, &self.metrics, &mut self.decoders.budget);
            let next = self.scheduler.next_to_decode(|entry| {
                if entry.is_alive(Instant::now()) && !budget.fits(entry.memory) {
                    return Turn::Park(entry);
                }
                take_turn(entry, loads, metrics)
            });
            match next {
                Some(entry) => self.decoders.start(entry),
                None => return,
            }
        }
    }

    /// Dispatches batches to devices while the policy says so. Returns its last decision.
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
            // Without callers, no more entries can join.
            let limits = BatchLimits {
                wait_max: if open { self.limits.wait_max } else { Duration::ZERO },
                ..self.limits
            };
            let decision = decide(
                self.scheduler.ready_pictures(),
                device.outstanding,
                device.lanes,
                waited,
                limits,
            );
            match decision {
                Decision::Dispatch(_) => {}
                Decision::WaitFor(_) => {
                    self.ready_since.get_or_insert_with(Instant::now);
                    return decision;
                }
                Decision::Wait => return decision,
            }
            let (loads, metrics) = (&mut self.loads, &self.metrics);
            let batch = self.scheduler.take_batch(|entry| take_turn(entry, loads, metrics));
            if batch.is_empty() {
                // Every ready entry has left or is parked.
                return Decision::Wait;
            }
            device.outstanding += 1;
            // If the device's threads have ended, this drops the batch, and the callers see their channels close.
            let _ = device.batches.send(batch);
        }
    }

    fn remove_cancelled(&mut self) {
        let (now, metrics) = (Instant::now(), &self.metrics);
        self.scheduler.retain(|entry| {
            let cancelled = entry.cancelled();
            if cancelled {
                metrics.count_dropped(entry.expired(now));
            }
            !cancelled
        });
    }

    /// Answers every waiting entry after the device was lost.
    fn refuse_all(&mut self) {
        for entry in self.scheduler.drain() {
            entry.answer(Err(EngineError::DeviceLost));
        }
    }
}

/// Decides about an entry whose turn has come: it pins its heads, or leaves if it is expired or cancelled.
fn take_turn(entry: Entry, loads: &mut Loads, metrics: &EngineMetrics) -> Turn<Entry> {
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

/// Returns the entry with its heads if they are on the device; otherwise starts their load, which keeps the entry.
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

/// Returns the entry with its heads; if there are none, answers it.
fn with_heads(mut entry: Entry, heads: PinnedHeads) -> Option<Entry> {
    if heads.is_empty() {
        entry.answer(Err(EngineError::NoHeads));
        return None;
    }
    entry.heads = Heads::Pinned(heads);
    // A head that was replaced while it was loaded may ask for other pictures than the memory was computed for.
    if entry.is_encoded() && entry.preprocessings().iter().any(|own| !entry.priced.contains(own)) {
        entry.answer(Err(EngineError::HeadChanged));
        return None;
    }
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
    use crate::rig::{Answered, ColdHeads, Entries, decoder, head, pixels, prepared};
    use crate::scheduler::{Scheduled, SchedulerLimits};
    use headswap_image::ImageError;

    /// A picture whose decoding blocks while [`Hold`] is true.
    const HELD: &[u8] = b"\x02";

    struct Hold(Arc<AtomicBool>);

    /// A batcher whose device is the test.
    struct Rig {
        entries: Entries,
        sender: mpsc::UnboundedSender<Entry>,
        cancelled: Arc<Notify>,
        batches: mpsc::UnboundedReceiver<Batch>,
        finished: mpsc::UnboundedSender<usize>,
        hold: Hold,
        health: EngineHealth,
        task: JoinHandle<()>,
        /// The first byte of each decoded picture, in order.
        decoded: Arc<Mutex<Vec<u8>>>,
    }

    impl Drop for Hold {
        /// Releases the decoding threads, for which the runtime waits even if a test fails.
        fn drop(&mut self) {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    impl Rig {
        /// Starts one with batches of `max_batch`, rows that take 10 ms, and one decoder.
        fn new(max_batch: usize, wait_max: Duration) -> Self {
            Self::with_decoders(max_batch, wait_max, 1)
        }

        /// Starts one whose `slots` decoders share 800 bytes.
        fn with_decoders(max_batch: usize, wait_max: Duration, slots: usize) -> Self {
            let entries = Entries::new();
            let (sender, receiver) = mpsc::unbounded_channel();
            let (done, decoded_receiver) = mpsc::unbounded_channel();
            let (batches_in, batches) = mpsc::unbounded_channel();
            let (finished_in, finished) = mpsc::unbounded_channel();
            let (cancelled, health, decoded) = (Arc::new(Notify::new()), EngineHealth::default(), Arc::default());
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
                cancelled: Arc::clone(&cancelled),
                decoders: Decoders {
                    decode: Arc::new(decoder(move |bytes| match bytes.first() {
                        None => Err(ImageError::Empty),
                        Some(0) => std::panic::panic_any("a decoder's defect"),
                        Some(&first) => {
                            while bytes == HELD && held.load(Ordering::Relaxed) {
                                std::thread::yield_now();
                            }
                            seen.lock().unwrap().push(first);
                            Ok(prepared(first))
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
                cancelled,
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

        /// Lets the batcher run until it waits.
        async fn run_batcher(&self) {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn classes(batch: &Batch) -> Vec<Class> {
        batch.iter().map(Scheduled::class).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_unary_call_joins_the_next_batch_despite_a_streams_backlog() {
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
        rig.run_batcher().await;
        // No batch is queued behind the running one.
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

    /// Waits until `count` pictures are decoded.
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
    async fn large_pictures_wait_for_memory_in_order_and_small_ones_do_not() {
        let rig = Rig::with_decoders(8, Duration::ZERO, 4);
        rig.hold.0.store(true, Ordering::Relaxed);
        // The limit of large pictures is 700 bytes: 3 waits for the memory of HELD, and 4 is behind 3.
        let _answers = send_costly(&rig, &[(HELD, 600), (b"\x03", 200), (b"\x04", 50), (b"\x05", 25)]).await;
        assert_eq!(decoded(&rig, 1).await, [5]);
        rig.run_batcher().await;
        assert_eq!(decoded(&rig, 1).await, [5]);
        // Wait until the memory of 5 is released.
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
    async fn a_cancelled_picture_that_waits_for_memory_does_not_delay_others() {
        let rig = Rig::with_decoders(8, Duration::ZERO, 4);
        rig.hold.0.store(true, Ordering::Relaxed);
        let mut answers = send_costly(&rig, &[(HELD, 600), (b"\x03", 700), (b"\x04", 50)]).await;
        rig.run_batcher().await;
        drop(answers.remove(1));
        rig.cancelled.notify_one();
        rig.hold.0.store(false, Ordering::Relaxed);
        assert_eq!(decoded(&rig, 2).await, [2, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_device_waits_for_more_requests_up_to_wait_max() {
        let wait = Duration::from_millis(5);
        let mut rig = Rig::new(4, wait);
        let started = Instant::now();
        let (entry, _first) = rig.entries.picture(Class::Interactive, 1, vec![head(2)]).await;
        rig.send(entry);
        assert_eq!(rig.batch().await.len(), 1);
        assert_eq!(started.elapsed(), wait);
        rig.finish();
        // A full batch does not wait.
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
        // The first picture is dispatched once it is decoded; the others wait for the device.
        rig.batch().await;
        while rig.decoded.lock().unwrap().len() < 1 + 4 {
            tokio::task::yield_now().await;
        }
        rig.run_batcher().await;
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
    async fn expired_requests_are_neither_decoded_nor_computed() {
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
    async fn a_cancelled_entry_is_removed_from_the_queue() {
        let mut rig = Rig::new(1, Duration::ZERO);
        let (running, _running) = rig.entries.picture(Class::Interactive, 0, vec![head(2)]).await;
        rig.send(running);
        let _running = rig.batch().await;
        let (entry, answered) = rig.entries.picture(Class::Bulk, 1, vec![head(2)]).await;
        rig.send(entry);
        rig.run_batcher().await;
        assert_eq!(rig.entries.metrics.in_flight.get(), 2);
        drop(answered);
        rig.cancelled.notify_one();
        rig.run_batcher().await;
        // Its permit is released while the device is still busy.
        assert_eq!(rig.entries.metrics.in_flight.get(), 1);
        assert_eq!(rig.entries.metrics.cancelled.get(), 1);
    }

    #[tokio::test]
    async fn an_entry_cancelled_during_decoding_is_dropped() {
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
        rig.cancelled.notify_one();
        rig.run_batcher().await;
        rig.hold.0.store(false, Ordering::Relaxed);
        while rig.entries.metrics.in_flight.get() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.entries.metrics.cancelled.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_pins_its_heads_when_its_turn_comes_and_interactive_at_once() {
        let mut rig = Rig::new(1, Duration::ZERO);
        let (running, _running) = rig.entries.picture(Class::Interactive, 0, vec![head(2)]).await;
        rig.send(running);
        rig.batch().await;
        let (bulk, interactive) = (ColdHeads::new(), ColdHeads::new());
        let picture = Input::Pixels(pixels(0));
        let heads = Heads::Source(bulk.clone());
        let (entry, _bulk) = rig.entries.entry(Class::Bulk, 1, picture.clone(), heads).await;
        rig.send(entry);
        let heads = Heads::Source(interactive.clone());
        let (entry, _interactive) = rig.entries.entry(Class::Interactive, 2, picture, heads).await;
        rig.send(entry);
        rig.run_batcher().await;
        assert_eq!(
            (
                bulk.pins.load(Ordering::Relaxed),
                interactive.pins.load(Ordering::Relaxed)
            ),
            (0, 1)
        );
        rig.finish();
        rig.run_batcher().await;
        assert_eq!(bulk.pins.load(Ordering::Relaxed), 1);
        bulk.loaded.send_replace(true);
        assert_eq!(classes(&rig.batch().await), [Class::Bulk]);
        rig.finish();
        interactive.loaded.send_replace(true);
        assert_eq!(classes(&rig.batch().await), [Class::Interactive]);
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_loads_are_bounded_and_do_not_delay_other_flows() {
        let mut rig = Rig::new(1, Duration::ZERO);
        let mut answers = Vec::new();
        let cold: Vec<_> = (0..3 * BULK_LOADS_MAX).map(|_| ColdHeads::new()).collect();
        for heads in &cold {
            let heads = Heads::Source(heads.clone());
            let (entry, answered) = rig.entries.entry(Class::Bulk, 1, Input::Pixels(pixels(0)), heads).await;
            rig.send(entry);
            answers.push(answered);
        }
        rig.run_batcher().await;
        let loading = cold.iter().filter(|heads| heads.pins.load(Ordering::Relaxed) > 0);
        assert_eq!(loading.count(), BULK_LOADS_MAX);
        let (entry, _answered) = rig.entries.picture(Class::Bulk, 2, vec![head(2)]).await;
        rig.send(entry);
        assert_eq!(rig.batch().await.len(), 1);
        rig.finish();
        // As loads end, others start, until every request is computed.
        for heads in &cold {
            heads.loaded.send_replace(true);
        }
        for _ in &cold {
            assert_eq!(rig.batch().await.len(), 1);
            rig.finish();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_whose_heads_all_fail_gets_an_error() {
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
    async fn every_waiting_request_is_answered_when_the_device_is_lost() {
        let rig = Rig::new(1, Duration::ZERO);
        let mut answers = Vec::new();
        for flow in 0..5 {
            let (entry, answered) = rig.entries.picture(Class::Bulk, flow, vec![head(2)]).await;
            rig.send(entry);
            answers.push(answered);
        }
        rig.run_batcher().await;
        rig.health.report_lost("a test".into());
        // The first was dispatched to the device.
        for answered in answers.into_iter().skip(1) {
            assert!(matches!(answered.await.unwrap(), Err(EngineError::DeviceLost)));
        }
        let (entry, answered) = rig.entries.picture(Class::Interactive, 1, vec![head(2)]).await;
        rig.send(entry);
        assert!(matches!(answered.await.unwrap(), Err(EngineError::DeviceLost)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_batcher_ends_once_its_callers_are_dropped_and_all_entries_dispatched() {
        let mut rig = Rig::new(2, Duration::from_secs(3600));
        let (entry, _answered) = rig.entries.picture(Class::Bulk, 1, vec![head(2)]).await;
        rig.send(entry);
        drop(rig.sender);
        assert_eq!(rig.batches.recv().await.unwrap().len(), 1);
        rig.task.await.unwrap();
    }
}
