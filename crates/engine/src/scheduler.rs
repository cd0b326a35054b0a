//! The order in which admitted requests are decoded and computed. Pure: no clock, no tokio.
//!
//! Interactive requests come before bulk ones, which keep a share; within a class, flows take turns. Requests wait
//! encoded: pictures of the cost of at most two batches are decoded ahead of the devices, and of bulk ones at most one, to
//! within one request, so that an interactive picture can be decoded before a decoded bulk batch is dispatched.
//!
//! A batch is of one [`Family`], as rows of several share no computation: it is that of the request whose turn it is, and
//! the others keep their turns.

use super::class::{Class, FlowId};
use super::cost::{Cost, CostTable, PICTURE_COST};
use super::fair_queue::{FairQueue, Place};
use super::family::Family;
use super::share::Share;

/// A request that can be scheduled.
pub trait Scheduled {
    /// Its class.
    fn class(&self) -> Class;
    /// The flow that it belongs to.
    fn flow(&self) -> FlowId;
    /// The predicted cost of computing it, which does not change while it waits.
    fn cost(&self) -> Cost;
    /// Its family, once that is known; none if it goes with any.
    fn family(&self) -> Option<Family>;
}

/// Limits of the scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerLimits {
    /// Maximum cost of a batch, in pictures of 224x224 pixels. A request that costs more is a batch of its own.
    pub max_batch: usize,
    /// The number of batches that all devices run at a time.
    pub devices: usize,
    /// Bulk's share of the grants while both classes wait, in percent.
    pub bulk_percent: u32,
    /// The time of a batch by its size.
    pub cost: CostTable,
}

/// The caller's decision about a request whose turn has come.
#[derive(Debug)]
pub enum Turn<T> {
    /// Grant it.
    Take(T),
    /// It cannot be granted yet; its flow is parked until [`Scheduler::unpark`].
    Park(T),
    /// The caller keeps or answers it; it leaves the scheduler.
    Leave,
}

/// Admitted requests of type `T` that wait to be decoded or computed.
#[derive(Debug)]
pub struct Scheduler<T> {
    limits: SchedulerLimits,
    interactive: ClassQueues<T>,
    bulk: ClassQueues<T>,
    decode_share: Share,
    device_share: Share,
}

/// The requests of one class.
#[derive(Debug)]
struct ClassQueues<T> {
    /// Requests that wait for a decode slot.
    encoded: FairQueue<T>,
    /// Requests that wait for a device.
    ready: FairQueue<Ready<T>>,
    /// The cost of the requests in `ready`.
    ready_cost: Cost,
    /// The cost of the requests that are being decoded, or decoded and waiting for a device.
    ahead: Cost,
}

#[derive(Debug)]
struct Ready<T> {
    request: T,
    /// True if it counts as decoded ahead; raw pixels and cached features do not.
    decoded: bool,
}

impl<T> Default for ClassQueues<T> {
    fn default() -> Self {
        Self {
            encoded: FairQueue::default(),
            ready: FairQueue::default(),
            ready_cost: 0,
            ahead: 0,
        }
    }
}

/// Bulk requests may join an interactive batch while the extra time is at most (own time + time of a full batch)
/// divided by this. The interactive requests may have had to wait for a full batch anyway.
const JOIN_DIVISOR: u32 = 8;

impl<T: Scheduled> ClassQueues<T> {
    /// Returns the cost of the request whose turn for a device is next.
    fn next_cost(&self) -> Option<Cost> {
        self.ready.peek().map(|ready| ready.request.cost())
    }

    /// Returns the request for a device whose turn is next of those that go with a family, and its cost.
    fn next_of(&self, family: Option<Family>) -> Option<(Place, Cost)> {
        let goes_with =
            |ready: &Ready<T>| family.is_none() || ready.request.family().is_none_or(|own| Some(own) == family);
        let (place, ready) = self.ready.find(goes_with)?;
        Some((place, ready.request.cost()))
    }

    /// Counts a request of this cost as no longer ready.
    fn take(&mut self, cost: Cost, decoded: bool) {
        self.ready_cost -= cost;
        if decoded {
            self.ahead -= cost;
        }
    }

    /// Returns the cost of the request whose turn for a decode slot is next.
    fn next_encoded_cost(&self) -> Option<Cost> {
        self.encoded.peek().map(Scheduled::cost)
    }
}

/// Returns the turns that a flow leaves to others for a request of this cost, beside its own.
fn turns(cost: Cost) -> usize {
    (cost / PICTURE_COST).saturating_sub(1)
}

impl<T: Scheduled> Scheduler<T> {
    /// Creates an empty scheduler.
    pub fn new(limits: SchedulerLimits) -> Self {
        Self {
            decode_share: Share::new(limits.bulk_percent),
            device_share: Share::new(limits.bulk_percent),
            interactive: ClassQueues::default(),
            bulk: ClassQueues::default(),
            limits,
        }
    }

    /// Adds a request whose picture must be decoded.
    pub fn push_encoded(&mut self, request: T) {
        let flow = request.flow();
        self.class_mut(request.class()).encoded.push_back(flow, request);
    }

    /// Adds a request that needs no decoding.
    pub fn push_ready(&mut self, request: T) {
        self.push_to_device(request, false);
    }

    /// Puts a request that [left](Turn::Leave) back to the front of its flow.
    pub fn push_front(&mut self, request: T, encoded: bool) {
        let (flow, queues) = (request.flow(), self.class_mut(request.class()));
        if encoded {
            queues.encoded.push_front(flow, request);
        } else {
            queues.ready_cost += request.cost();
            let ready = Ready {
                request,
                decoded: false,
            };
            queues.ready.push_front(flow, ready);
        }
    }

    /// Returns the next request to decode, unless enough pictures are decoded ahead; `turn` decides about each request
    /// whose turn has come. The caller must pass every returned request to [`Scheduler::decoded`].
    pub fn next_to_decode(&mut self, mut turn: impl FnMut(T) -> Turn<T>) -> Option<T> {
        let batches = self.limits.max_batch * self.limits.devices * PICTURE_COST;
        loop {
            if self.interactive.ahead + self.bulk.ahead >= 2 * batches {
                return None;
            }
            let bulk = self.bulk.next_encoded_cost().filter(|_| self.bulk.ahead < batches);
            let class = self.decode_share.pick(self.interactive.next_encoded_cost(), bulk)?;
            let queues = self.class_mut(class);
            match turn(queues.encoded.pop()?) {
                Turn::Take(request) => {
                    queues.ahead += request.cost();
                    queues.encoded.charge(request.flow(), turns(request.cost()));
                    return Some(request);
                }
                Turn::Park(request) => queues.encoded.park(request.flow(), request),
                Turn::Leave => {}
            }
        }
    }

    /// Ends the decoding of a request of this class and cost; `request` is none if its picture was refused.
    pub fn decoded(&mut self, class: Class, cost: Cost, request: Option<T>) {
        match request {
            Some(request) => self.push_to_device(request, true),
            None => self.class_mut(class).ahead -= cost,
        }
    }

    /// The number of requests that wait for a device.
    pub fn ready(&self) -> usize {
        self.interactive.ready.len() + self.bulk.ready.len()
    }

    /// The cost of the requests that wait for a device, in whole pictures.
    pub fn ready_pictures(&self) -> usize {
        (self.interactive.ready_cost + self.bulk.ready_cost).div_ceil(PICTURE_COST)
    }

    /// Returns true if no request waits.
    pub fn is_empty(&self) -> bool {
        self.ready() + self.interactive.encoded.len() + self.bulk.encoded.len() == 0
    }

    /// Returns the next batch; `turn` decides about each request whose turn has come.
    pub fn take_batch(&mut self, mut turn: impl FnMut(T) -> Turn<T>) -> Vec<T> {
        let mut batch = Vec::with_capacity(self.limits.max_batch.min(self.ready()));
        let cost_max = self.limits.max_batch * PICTURE_COST;
        let mut cost = 0;
        // The cost of the requests that the batch is for; further bulk requests may join it.
        let mut due = 0;
        let mut has_interactive = false;
        let mut family = None;
        while cost < cost_max {
            let (interactive, bulk) = (self.interactive.next_of(family), self.bulk.next_of(family));
            let is_joining = has_interactive && interactive.is_none();
            if is_joining && !self.may_join(due, cost + bulk.map_or(0, |(_, cost)| cost)) {
                break;
            }
            let share = self.device_share;
            let Some(class) = self
                .device_share
                .pick(self.interactive.next_cost(), self.bulk.next_cost())
            else {
                break;
            };
            let next = match class {
                Class::Interactive => interactive,
                Class::Bulk => bulk,
            };
            let Some((place, next)) = next.filter(|(_, next)| batch.is_empty() || cost + next <= cost_max) else {
                // It is of another family, or too large. It keeps its turn, or else it might never get one.
                self.device_share = share;
                break;
            };
            let queues = self.class_mut(class);
            let Some(Ready { request, decoded }) = queues.ready.take(place) else {
                break;
            };
            match turn(request) {
                Turn::Take(request) => {
                    queues.take(next, decoded);
                    queues.ready.charge(request.flow(), turns(next));
                    family = family.or(request.family());
                    batch.push(request);
                    cost += next;
                    has_interactive |= class == Class::Interactive;
                    if !is_joining {
                        due += next;
                    }
                }
                Turn::Park(request) => queues.ready.park(request.flow(), Ready { request, decoded }),
                Turn::Leave => queues.take(next, decoded),
            }
        }
        batch
    }

    /// Serves parked flows again.
    pub fn unpark(&mut self) {
        for queues in [&mut self.interactive, &mut self.bulk] {
            queues.encoded.unpark();
            queues.ready.unpark();
        }
    }

    /// Removes the waiting requests for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for queues in [&mut self.interactive, &mut self.bulk] {
            queues.encoded.retain(&mut keep);
            let (mut removed, mut cost) = (0, 0);
            queues.ready.retain(|ready| {
                let kept = keep(&ready.request);
                if !kept {
                    cost += ready.request.cost();
                    removed += if ready.decoded { ready.request.cost() } else { 0 };
                }
                kept
            });
            queues.ahead -= removed;
            queues.ready_cost -= cost;
        }
    }

    /// Takes every waiting request.
    pub fn drain(&mut self) -> Vec<T> {
        let mut drained = Vec::new();
        for queues in [&mut self.interactive, &mut self.bulk] {
            drained.extend(queues.encoded.drain());
            for ready in queues.ready.drain() {
                queues.ahead -= if ready.decoded { ready.request.cost() } else { 0 };
                drained.push(ready.request);
            }
            queues.ready_cost = 0;
        }
        drained
    }

    /// Returns true if a batch of cost `all` delays its requests of cost `due` only a little.
    fn may_join(&self, due: Cost, all: Cost) -> bool {
        let cost = &self.limits.cost;
        let alone = cost.batch(due);
        cost.batch(all) <= alone + (alone + cost.batch(self.limits.max_batch * PICTURE_COST)) / JOIN_DIVISOR
    }

    fn push_to_device(&mut self, request: T, decoded: bool) {
        let flow = request.flow();
        let queues = self.class_mut(request.class());
        queues.ready_cost += request.cost();
        queues.ready.push_back(flow, Ready { request, decoded });
    }

    fn class_mut(&mut self, class: Class) -> &mut ClassQueues<T> {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Bulk => &mut self.bulk,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Job {
        class: Class,
        flow: FlowId,
        number: usize,
        cost: Cost,
        family: Option<Family>,
    }

    impl Job {
        /// Returns the same job for pictures on another backbone.
        fn on(self, backbone: usize) -> Self {
            let family = Some(Family::of_backbone(backbone, [224, 224]));
            Self { family, ..self }
        }
    }

    impl Scheduled for Job {
        fn class(&self) -> Class {
            self.class
        }
        fn flow(&self) -> FlowId {
            self.flow
        }
        fn cost(&self) -> Cost {
            self.cost
        }
        fn family(&self) -> Option<Family> {
            self.family
        }
    }

    fn job(class: Class, flow: FlowId, number: usize) -> Job {
        costly_job(class, flow, number, PICTURE_COST)
    }

    fn costly_job(class: Class, flow: FlowId, number: usize, cost: Cost) -> Job {
        Job {
            class,
            flow,
            number,
            cost,
            family: None,
        }
    }

    fn scheduler(max_batch: usize, row_ms: u64) -> Scheduler<Job> {
        let ms = Duration::from_millis(row_ms);
        Scheduler::new(SchedulerLimits {
            max_batch,
            devices: 1,
            bulk_percent: 10,
            cost: CostTable::from_per_picture(&[(1, ms), (max_batch.max(2), ms)]),
        })
    }

    fn take(job: Job) -> Turn<Job> {
        Turn::Take(job)
    }

    #[test]
    fn an_interactive_request_goes_before_a_backlog_of_bulk() {
        let mut scheduler = scheduler(8, 10);
        for number in 0..40 {
            scheduler.push_ready(job(Class::Bulk, 1, number));
        }
        assert_eq!(scheduler.take_batch(take).len(), 8);
        scheduler.push_ready(job(Class::Interactive, 2, 0));
        let batch = scheduler.take_batch(take);
        assert_eq!(batch[0].class, Class::Interactive);
        // One row takes 10 ms, a full batch 80 ms: an eighth of both allows one more row.
        assert_eq!(batch.len(), 2);
        assert_eq!(scheduler.take_batch(take).len(), 8);
    }

    #[test]
    fn a_stream_of_many_requests_is_one_flow() {
        for class in [Class::Interactive, Class::Bulk] {
            let mut scheduler = scheduler(2, 10);
            for number in 0..64 {
                scheduler.push_ready(job(class, 1, number));
                scheduler.push_encoded(job(class, 1, number));
            }
            scheduler.push_ready(job(class, 2, 0));
            scheduler.push_encoded(job(class, 2, 0));
            assert_eq!(scheduler.take_batch(take)[1].flow, 2);
            scheduler.next_to_decode(take);
            assert_eq!(scheduler.next_to_decode(take).map(|job| job.flow), Some(2));
        }
    }

    #[test]
    fn bulk_fills_an_interactive_batch_where_rows_cost_nothing() {
        let mut scheduler = scheduler(8, 0);
        for number in 0..40 {
            scheduler.push_ready(job(Class::Bulk, 1, number));
        }
        scheduler.push_ready(job(Class::Interactive, 2, 0));
        assert_eq!(scheduler.take_batch(take).len(), 8);
    }

    #[test]
    fn bulk_decodes_one_batch_ahead_and_interactive_one_more() {
        let mut scheduler = scheduler(4, 10);
        for number in 0..20 {
            scheduler.push_encoded(job(Class::Bulk, 1, number));
        }
        let granted: Vec<Job> = std::iter::from_fn(|| scheduler.next_to_decode(take)).collect();
        assert_eq!(granted.len(), 4);
        for number in 0..20 {
            scheduler.push_encoded(job(Class::Interactive, 2, number));
        }
        let urgent: Vec<Job> = std::iter::from_fn(|| scheduler.next_to_decode(take)).collect();
        assert_eq!(urgent.len(), 4);
        assert!(urgent.iter().all(|job| job.class == Class::Interactive));
        // After a batch is dispatched, as many more pictures may be decoded.
        for job in granted.into_iter().chain(urgent) {
            scheduler.decoded(job.class, job.cost, Some(job));
        }
        assert_eq!(scheduler.next_to_decode(take), None);
        let left = scheduler.take_batch(take).len();
        assert_eq!(std::iter::from_fn(|| scheduler.next_to_decode(take)).count(), left);
    }

    /// Pictures of 150x150 cost less than half; a full batch of them is decoded ahead.
    #[test]
    fn a_batch_of_small_pictures_becomes_full() {
        for class in [Class::Interactive, Class::Bulk] {
            let mut scheduler = scheduler(4, 10);
            for number in 0..40 {
                scheduler.push_encoded(costly_job(class, 1, number, 40));
            }
            while let Some(job) = scheduler.next_to_decode(take) {
                scheduler.decoded(class, job.cost, Some(job));
            }
            assert!(scheduler.ready_pictures() >= 4);
            assert_eq!(scheduler.take_batch(take).len(), 10);
        }
    }

    #[test]
    fn decoded_pictures_of_costly_requests_are_as_few() {
        let mut scheduler = scheduler(4, 10);
        for number in 0..40 {
            scheduler.push_encoded(costly_job(Class::Interactive, 1, number, 5 * PICTURE_COST));
            scheduler.push_encoded(costly_job(Class::Bulk, 2, number, 5 * PICTURE_COST));
        }
        assert_eq!(std::iter::from_fn(|| scheduler.next_to_decode(take)).count(), 2);
    }

    /// A bulk request that costs as much as 20 gets a twentieth of the turns.
    #[test]
    fn bulk_keeps_its_share_by_cost() {
        let mut scheduler = scheduler(4, 10);
        let (mut interactive, mut bulk) = (0, 0);
        for number in 0..400 {
            while scheduler.interactive.ready.len() < 8 {
                scheduler.push_ready(job(Class::Interactive, 1, number));
            }
            while scheduler.bulk.ready.len() < 2 {
                scheduler.push_ready(costly_job(Class::Bulk, 9, number, 20 * PICTURE_COST));
            }
            for job in scheduler.take_batch(take) {
                match job.class {
                    Class::Interactive => interactive += job.cost,
                    Class::Bulk => bulk += job.cost,
                }
            }
        }
        assert!(
            (10 * bulk).abs_diff(interactive + bulk) <= 10 * 20 * PICTURE_COST,
            "{interactive} {bulk}"
        );
    }

    #[test]
    fn a_parked_flow_does_not_delay_another() {
        let mut scheduler = scheduler(4, 10);
        for (flow, number) in [(1, 0), (1, 1), (2, 0)] {
            scheduler.push_ready(job(Class::Bulk, flow, number));
        }
        let batch = scheduler.take_batch(|job| match job.flow {
            1 => Turn::Park(job),
            _ => Turn::Take(job),
        });
        assert_eq!(batch, [job(Class::Bulk, 2, 0)]);
        assert!(scheduler.take_batch(take).is_empty());
        scheduler.unpark();
        assert_eq!(scheduler.take_batch(take).len(), 2);
    }

    #[test]
    fn a_batch_is_filled_by_cost_and_a_costly_request_is_one_of_its_own() {
        let mut scheduler = scheduler(4, 10);
        for (number, cost) in [1050, 250, 150, 1, 400, 399, 2, 200].into_iter().enumerate() {
            scheduler.push_ready(costly_job(Class::Interactive, 1, number, cost));
        }
        assert_eq!(scheduler.ready_pictures(), 25);
        for (costs, left) in [
            (&[1050][..], 15),
            (&[250, 150], 11),
            (&[1], 11),
            (&[400], 7),
            (&[399], 3),
            (&[2, 200], 0),
        ] {
            let batch: Vec<Cost> = scheduler.take_batch(take).iter().map(|job| job.cost).collect();
            assert_eq!((&batch[..], scheduler.ready_pictures()), (costs, left));
        }
    }

    /// Its turn comes in the middle of a batch, where it does not fit.
    #[test]
    fn a_bulk_request_as_large_as_a_batch_gets_its_turn() {
        let mut scheduler = scheduler(4, 10);
        scheduler.push_ready(costly_job(Class::Bulk, 9, 0, 4 * PICTURE_COST));
        let mut interactive = 0;
        loop {
            while scheduler.interactive.ready.len() < 8 {
                scheduler.push_ready(job(Class::Interactive, 1, 1));
            }
            let batch = scheduler.take_batch(take);
            if batch[0].class == Class::Bulk {
                assert_eq!(batch.len(), 1);
                break;
            }
            interactive += batch.len();
            assert!(interactive <= 10, "{interactive} interactive requests came first");
        }
    }

    #[test]
    fn a_stream_that_alternates_between_backbones_fills_batches_of_one() {
        for class in [Class::Interactive, Class::Bulk] {
            let mut scheduler = scheduler(4, 10);
            for number in 0..16 {
                scheduler.push_ready(job(class, 1, number).on(number % 2));
            }
            for (backbone, first) in [(0, 0), (1, 1), (0, 8), (1, 9)] {
                let expected: Vec<Job> = (0..4)
                    .map(|index| job(class, 1, first + 2 * index).on(backbone))
                    .collect();
                assert_eq!(scheduler.take_batch(take), expected);
            }
        }
    }

    #[test]
    fn what_goes_with_any_backbone_fills_the_batch() {
        let mut scheduler = scheduler(4, 10);
        for (flow, backbone) in [(1, Some(1)), (2, None), (3, Some(0)), (4, Some(1)), (5, None)] {
            let job = job(Class::Interactive, flow, 0);
            scheduler.push_ready(backbone.map_or(job, |backbone| job.on(backbone)));
        }
        let flows = |batch: Vec<Job>| batch.iter().map(|job| job.flow).collect::<Vec<_>>();
        assert_eq!(flows(scheduler.take_batch(take)), [1, 2, 4, 5]);
        assert_eq!(flows(scheduler.take_batch(take)), [3]);
    }

    /// A stream of 64 on one backbone beside eight clients on another, who get eight of nine turns.
    #[test]
    fn a_stream_gets_no_more_turns_for_a_backbone_of_its_own() {
        for class in [Class::Interactive, Class::Bulk] {
            let mut scheduler = scheduler(4, 10);
            for number in 0..64 {
                scheduler.push_ready(job(class, 0, number).on(1));
                for flow in 1..9 {
                    scheduler.push_ready(job(class, flow, number).on(0));
                }
            }
            let mut served = [0; 2];
            for _ in 0..90 {
                for job in scheduler.take_batch(take) {
                    served[usize::from(job.flow == 0)] += 1;
                }
            }
            let all: usize = served.iter().sum();
            assert!(served[1] * 9 <= all + 4 * 9, "{served:?}");
            assert!(served[1] * 9 + 4 * 9 >= all, "{served:?}");
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Encoded(Class, FlowId, Cost, usize),
        Ready(Class, FlowId, Cost, usize),
        Decode,
        Decoded { whole: bool },
        Batch,
        Forget(FlowId),
        Leave(FlowId),
    }

    /// From a small picture to several large ones.
    fn costs() -> impl Strategy<Value = Cost> {
        prop_oneof![3 => Just(PICTURE_COST), 2 => 1..PICTURE_COST, 1 => PICTURE_COST..20 * PICTURE_COST]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let class = prop_oneof![Just(Class::Interactive), Just(Class::Bulk)];
        let step = prop_oneof![
            4 => (class.clone(), 0u64..4, costs(), 0usize..3)
                .prop_map(|(class, flow, cost, backbone)| Step::Encoded(class, flow, cost, backbone)),
            2 => (class, 0u64..4, costs(), 0usize..3)
                .prop_map(|(class, flow, cost, backbone)| Step::Ready(class, flow, cost, backbone)),
            4 => Just(Step::Decode),
            3 => any::<bool>().prop_map(|whole| Step::Decoded { whole }),
            2 => Just(Step::Batch),
            1 => (0u64..4).prop_map(Step::Forget),
            1 => (0u64..4).prop_map(Step::Leave),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        /// For any sequence of steps, the limits hold, and every request leaves exactly once.
        #[test]
        fn limits_hold_and_no_request_is_lost(steps in steps(), max_batch in 1usize..6, row_ms in 0u64..3) {
            let mut scheduler = scheduler(max_batch, row_ms);
            let (mut decoding, mut decoded_waiting) = (Vec::<Job>::new(), Vec::<Job>::new());
            let (mut pushed, mut left) = (0, Vec::<usize>::new());
            let mut ready = Vec::<Job>::new();
            for step in steps {
                match step {
                    Step::Encoded(class, flow, cost, backbone) => {
                        scheduler.push_encoded(costly_job(class, flow, pushed, cost).on(backbone));
                        pushed += 1;
                    }
                    Step::Ready(class, flow, cost, backbone) => {
                        let job = costly_job(class, flow, pushed, cost).on(backbone);
                        scheduler.push_ready(job);
                        ready.push(job);
                        pushed += 1;
                    }
                    Step::Decode => decoding.extend(scheduler.next_to_decode(take)),
                    Step::Decoded { whole } => if let Some(job) = decoding.pop() {
                        if whole {
                            decoded_waiting.push(job);
                            ready.push(job);
                        } else {
                            left.push(job.number);
                        }
                        scheduler.decoded(job.class, job.cost, whole.then_some(job));
                    },
                    Step::Batch => {
                        let batch = scheduler.take_batch(take);
                        let cost: Cost = batch.iter().map(|job| job.cost).sum();
                        prop_assert!(cost <= max_batch * PICTURE_COST || batch.len() == 1);
                        prop_assert!(!batch.is_empty() || scheduler.ready() == 0);
                        prop_assert!(batch.iter().all(|job| job.family == batch[0].family));
                        left.extend(batch.iter().map(|job| job.number));
                    }
                    Step::Forget(flow) => scheduler.retain(|job| {
                        if job.flow == flow {
                            left.push(job.number);
                        }
                        job.flow != flow
                    }),
                    Step::Leave(flow) => {
                        let batch = scheduler.take_batch(|job| {
                            if job.flow != flow {
                                return Turn::Take(job);
                            }
                            left.push(job.number);
                            Turn::Leave
                        });
                        left.extend(batch.iter().map(|job| job.number));
                    }
                }
                decoded_waiting.retain(|job| !left.contains(&job.number));
                ready.retain(|job| !left.contains(&job.number));
                let ready_cost: Cost = ready.iter().map(|job| job.cost).sum();
                prop_assert_eq!(scheduler.ready_pictures(), ready_cost.div_ceil(PICTURE_COST));
                prop_assert_eq!(scheduler.ready(), ready.len());
                // The limits hold to within one request of each class.
                let ahead_of = |class: Class| {
                    let of_class = decoding.iter().chain(&decoded_waiting).filter(move |job| job.class == class);
                    let costs: Vec<Cost> = of_class.map(|job| job.cost).collect();
                    (costs.iter().sum::<Cost>(), costs.into_iter().max().unwrap_or_default())
                };
                let (interactive, largest_interactive) = ahead_of(Class::Interactive);
                let (bulk, largest_bulk) = ahead_of(Class::Bulk);
                let cost_max = max_batch * PICTURE_COST;
                prop_assert_eq!((scheduler.interactive.ahead, scheduler.bulk.ahead), (interactive, bulk));
                prop_assert!(interactive + bulk < 2 * cost_max + largest_interactive.max(largest_bulk) || interactive + bulk == 0);
                prop_assert!(bulk < cost_max + largest_bulk || bulk == 0);
            }
            left.extend(scheduler.drain().iter().map(|job| job.number));
            left.extend(decoding.iter().map(|job| job.number));
            left.sort_unstable();
            prop_assert_eq!(left, (0..pushed).collect::<Vec<_>>());
            prop_assert!(scheduler.is_empty());
        }

        /// A request waits for no more batches than those before it fill, each backbone's apart, whatever comes after it.
        #[test]
        fn requests_of_other_backbones_delay_by_one_batch_each(
            before in prop::collection::vec(0usize..4, 0..40), backbone in 0usize..4, max_batch in 1usize..6,
            after in prop::collection::vec(0usize..4, 200),
        ) {
            let mut scheduler = scheduler(max_batch, 10);
            let mut batches_max = 0;
            for own in 0..4 {
                let count = before.iter().chain([&backbone]).filter(|of| **of == own).count();
                batches_max += count.div_ceil(max_batch);
            }
            let number = before.len();
            for (flow, backbone) in before.into_iter().chain([backbone]).enumerate() {
                scheduler.push_ready(job(Class::Interactive, flow as FlowId, flow).on(backbone));
            }
            let mut after = after.into_iter().zip(number + 1..);
            let mut batches = 0;
            loop {
                for (backbone, flow) in after.by_ref().take(max_batch) {
                    scheduler.push_ready(job(Class::Interactive, flow as FlowId, flow).on(backbone));
                }
                batches += 1;
                if scheduler.take_batch(take).iter().any(|job| job.number == number) {
                    break;
                }
                prop_assert!(batches < batches_max);
            }
        }

        /// Under any interactive load bulk keeps its tenth of the rows.
        #[test]
        fn bulk_keeps_its_share_under_full_interactive_load(
            max_batch in 1usize..10, batches in 20usize..60, backbones in 1usize..3,
        ) {
            let mut scheduler = scheduler(max_batch, 10);
            let (mut number, mut rows, mut bulk) = (0, 0, 0);
            for _ in 0..batches {
                while scheduler.interactive.ready.len() < 2 * max_batch {
                    scheduler.push_ready(job(Class::Interactive, number as u64 % 3, number).on(number / 3 % backbones));
                    number += 1;
                }
                while scheduler.bulk.ready.len() < 2 * max_batch {
                    scheduler.push_ready(job(Class::Bulk, 9, number).on(number % backbones));
                    number += 1;
                }
                let batch = scheduler.take_batch(take);
                prop_assert!(backbones > 1 || batch.len() == max_batch);
                rows += batch.len();
                bulk += batch.iter().filter(|job| job.class == Class::Bulk).count();
            }
            prop_assert!((bulk * 10).abs_diff(rows) <= 10);
        }
    }
}
