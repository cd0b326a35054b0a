//! The residency of heads: compared to a simple model, used by many threads, and how loads start, end and fail.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use headswap_checkpoint::{HostTensor, Parameters, Throttle};
use headswap_heads::{
    Acquired, Commit, HeadError, HeadInfo, HeadMetrics, HeadName, HeadPlacer, HeadRegistry, HeadStore, HeadVersion,
    HeadWeights, LoadTask, Pending, PinnedHead, PlaceError, RegistryLimits, RegistryParts, Replaced, Replacement,
    Reservation, ResidencyLimits, StagedHead, StoreError, Tier, Urgency,
};
use headswap_spec::{LAST_BIAS, LAST_WEIGHT, Preset};
use proptest::prelude::*;

/// Bytes of a head with one class and two features.
const UNIT: u64 = 12;

/// A head on the device of this test: its number. The device counts its bytes until it is dropped.
#[derive(Debug)]
struct Resident {
    number: f32,
    bytes: u64,
    device: Arc<Device>,
    _reservation: Reservation,
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.device.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[derive(Debug, Default)]
struct Device {
    bytes: AtomicU64,
    panics: AtomicBool,
    refuses: AtomicBool,
    /// The numbers of the heads placed, in order.
    placed: Arc<Mutex<Vec<f32>>>,
}

/// Places heads on the test's device.
struct Placer(Arc<Device>);

impl HeadPlacer<Resident> for Placer {
    fn place(&self, weights: &HeadWeights, reservation: Reservation) -> Result<Resident, PlaceError> {
        let device = &self.0;
        assert!(!device.panics.load(Ordering::SeqCst), "a test's panic");
        if device.refuses.load(Ordering::SeqCst) {
            return Err(PlaceError::Refused("a test".into()));
        }
        let number = weights.parameters[LAST_BIAS].values[0];
        device.placed.lock().unwrap().push(number);
        device.bytes.fetch_add(weights.bytes(), Ordering::SeqCst);
        Ok(Resident {
            number,
            bytes: weights.bytes(),
            device: Arc::clone(device),
            _reservation: reservation,
        })
    }
}

type Registry = HeadRegistry<Resident>;
type Version = Arc<HeadVersion<Resident>>;

fn weights(units: u64, number: f32) -> HeadWeights {
    let classes = units as usize;
    let mut parameters = Parameters::new();
    for (name, shape) in [(LAST_WEIGHT, vec![classes, 2]), (LAST_BIAS, vec![classes])] {
        let values = vec![number; shape.iter().product()];
        parameters.insert(name.to_owned(), Arc::new(HostTensor::new(shape, values)));
    }
    HeadWeights::new(
        parameters,
        vec![number.to_string(); classes],
        Preset::Torchvision.preprocessing(),
    )
}

type Heads = Arc<Mutex<BTreeMap<(HeadName, u64), (HeadInfo, HeadWeights)>>>;

struct Staged {
    heads: Heads,
    head: (HeadInfo, HeadWeights),
}

impl StagedHead for Staged {
    fn commit(self: Box<Self>) -> Result<Duration, StoreError> {
        let key = (self.head.0.name.clone(), self.head.0.version);
        self.heads.lock().unwrap().insert(key, self.head);
        Ok(Duration::ZERO)
    }
}

/// A store in memory that counts reads and panics if two threads read one version at once.
#[derive(Default)]
struct Store {
    heads: Heads,
    damaged: Mutex<BTreeSet<HeadName>>,
    reading: Mutex<BTreeSet<(HeadName, u64)>>,
    reads: AtomicU64,
}

impl HeadStore for Store {
    fn stage(&self, info: &HeadInfo, weights: &HeadWeights, _: &Throttle) -> Result<Box<dyn StagedHead>, StoreError> {
        let (heads, head) = (Arc::clone(&self.heads), (info.clone(), weights.clone()));
        Ok(Box::new(Staged { heads, head }))
    }

    fn remove(&self, info: &HeadInfo) -> Result<(), StoreError> {
        self.heads.lock().unwrap().remove(&(info.name.clone(), info.version));
        Ok(())
    }

    fn list(&self) -> Result<Vec<HeadInfo>, StoreError> {
        Ok(self
            .heads
            .lock()
            .unwrap()
            .values()
            .map(|(info, _)| info.clone())
            .collect())
    }

    fn load(&self, info: &HeadInfo) -> Result<HeadWeights, HeadError> {
        let key = (info.name.clone(), info.version);
        assert!(
            self.reading.lock().unwrap().insert(key.clone()),
            "{key:?} is read by two threads at once"
        );
        self.reads.fetch_add(1, Ordering::SeqCst);
        let found = self.heads.lock().unwrap().get(&key).map(|(_, weights)| weights.clone());
        let found = found.filter(|_| !self.damaged.lock().unwrap().contains(&info.name));
        self.reading.lock().unwrap().remove(&key);
        found.ok_or(HeadError::Damaged {
            name: key.0,
            version: key.1,
            reason: "a test".into(),
        })
    }

    fn labels(&self, info: &HeadInfo) -> Result<Vec<String>, HeadError> {
        Ok(self.load(info)?.labels.to_vec())
    }

    fn highest_version(&self, name: &HeadName) -> Result<u64, StoreError> {
        let heads = self.heads.lock().unwrap();
        Ok(heads
            .keys()
            .filter(|key| key.0 == *name)
            .map(|key| key.1)
            .max()
            .unwrap_or(0))
    }
}

/// A registry with its store and device.
struct Bench {
    store: Arc<Store>,
    device: Arc<Device>,
    registry: Registry,
}

impl Bench {
    /// Returns one with heads `h0`, `h1`, … of these sizes in the store.
    fn new(units: &[u64], residency: ResidencyLimits) -> Self {
        let (store, device) = (Arc::new(Store::default()), Arc::new(Device::default()));
        let unlimited = ResidencyLimits {
            resident_bytes_max: u64::MAX,
            ..residency
        };
        let bench = Self::open(Arc::clone(&store), Arc::clone(&device), unlimited);
        for (head, units) in units.iter().enumerate() {
            bench.replace(head, *units, head as f32).unwrap();
        }
        drop(bench);
        Self::open(store, device, residency)
    }

    fn open(store: Arc<Store>, device: Arc<Device>, residency: ResidencyLimits) -> Self {
        let parts = RegistryParts {
            store: Arc::clone(&store) as Arc<dyn HeadStore>,
            placer: Box::new(Placer(Arc::clone(&device))),
            metrics: HeadMetrics::register(&mut prometheus_client::registry::Registry::default()),
        };
        let limits = RegistryLimits {
            heads_max: 1000,
            versions_kept: 1,
            bytes_max: u64::MAX,
            eager: false,
            residency,
        };
        let registry = Registry::open(parts, limits, Some(&weights(1, -1.0))).unwrap();
        Self {
            store,
            device,
            registry,
        }
    }

    fn replace(&self, head: usize, units: u64, number: f32) -> Result<u64, HeadError> {
        Ok(self.swap(head, units, number, false)?.info.version)
    }

    fn swap(&self, head: usize, units: u64, number: f32, dry_run: bool) -> Result<Replaced, HeadError> {
        let replacement = Replacement {
            name: name(head),
            weights: weights(units, number),
            expected_version: None,
            dry_run,
            annotations: BTreeMap::new(),
        };
        self.registry.replace(replacement, &Commit::default(), &Throttle::off())
    }

    fn version(&self, head: usize) -> Version {
        self.registry.table().resolve(&name(head), 0).unwrap()
    }

    fn start(&self, head: usize) -> Acquired<Resident> {
        self.start_as(head, Urgency::Interactive)
    }

    fn start_as(&self, head: usize, urgency: Urgency) -> Acquired<Resident> {
        self.registry.acquire(&self.version(head), urgency)
    }

    /// The tiers of `h0`, `h1` and `h2`.
    fn tiers(&self) -> [Option<Tier>; 3] {
        [0, 1, 2].map(|head| self.version(head).tier())
    }

    fn load(&self, head: usize) -> (Pending<Resident>, LoadTask<Resident>) {
        match self.start(head) {
            Acquired::Load(pending, task) => (pending, task),
            _ => panic!("h{head} needs no new load task"),
        }
    }

    fn wait(&self, head: usize) -> Pending<Resident> {
        match self.start(head) {
            Acquired::Wait(pending) => pending,
            _ => panic!("h{head} is not being loaded"),
        }
    }

    /// Pins the head: loads it if necessary, or waits for the thread that does.
    fn acquire(&self, head: usize) -> Result<PinnedHead<Resident>, Arc<HeadError>> {
        match self.start(head) {
            Acquired::Hot(pinned) => Ok(pinned),
            Acquired::Wait(pending) => block_on(pending),
            Acquired::Load(pending, task) => {
                task.run();
                block_on(pending)
            }
        }
    }

    /// Bytes of heads on the device, without the backbone's own.
    fn bytes(&self) -> u64 {
        self.device.bytes.load(Ordering::SeqCst) - UNIT
    }

    fn reads(&self) -> u64 {
        self.store.reads.load(Ordering::SeqCst)
    }
}

fn name(head: usize) -> HeadName {
    HeadName::parse(&format!("h{head}")).unwrap()
}

fn done<R>(pending: Pending<R>) -> Result<PinnedHead<R>, Arc<HeadError>> {
    pending.now_or_never().expect("the load has ended")
}

/// Blocks until another thread has loaded the head.
fn block_on<R>(mut pending: Pending<R>) -> Result<PinnedHead<R>, Arc<HeadError>> {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        if let std::task::Poll::Ready(loaded) = pending.poll_unpin(&mut context) {
            return loaded;
        }
        std::thread::park();
    }
}

const LIMITS: ResidencyLimits = ResidencyLimits {
    resident_bytes_max: 6 * UNIT,
    warm_bytes_max: 0,
    loads_max: 2,
};

#[derive(Clone, Debug)]
enum Step {
    Acquire { head: usize, hold: bool },
    Release { head: usize },
    Replace { head: usize, units: u64 },
    Damage { head: usize, damaged: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let head = 0..UNITS.len();
    prop_oneof![
        8 => (head.clone(), prop::bool::weighted(0.3)).prop_map(|(head, hold)| Step::Acquire { head, hold }),
        3 => head.clone().prop_map(|head| Step::Release { head }),
        1 => (head.clone(), 1..8u64).prop_map(|(head, units)| Step::Replace { head, units }),
        1 => (head, any::<bool>()).prop_map(|(head, damaged)| Step::Damage { head, damaged }),
    ]
}

/// The initial sizes of the heads; their sum is more than twice the limit.
const UNITS: [u64; 8] = [1, 2, 3, 1, 2, 3, 1, 2];

/// The model of one head.
struct HeadModel {
    units: u64,
    number: f32,
    hot: bool,
    warm: bool,
    last_use: u64,
    damaged: bool,
    pinned: Vec<PinnedHead<Resident>>,
}

/// The model of the residency, which looks at every head.
struct Model {
    now: u64,
    reads: u64,
    heads: Vec<HeadModel>,
    /// Units of versions that were replaced while they were pinned.
    replaced: Vec<(u64, Vec<PinnedHead<Resident>>)>,
    warm_units_max: u64,
}

impl HeadModel {
    fn new(number: usize, units: u64) -> Self {
        Self {
            units,
            number: number as f32,
            hot: false,
            warm: false,
            last_use: 0,
            damaged: false,
            pinned: Vec::new(),
        }
    }

    fn is_evictable(&self) -> bool {
        self.hot && self.pinned.is_empty()
    }
}

impl Model {
    fn new(warm_units_max: u64) -> Self {
        let heads = UNITS.iter().enumerate();
        Self {
            now: 0,
            reads: 0,
            heads: heads.map(|(head, units)| HeadModel::new(head, *units)).collect(),
            replaced: Vec::new(),
            warm_units_max,
        }
    }

    fn hot_units(&self) -> u64 {
        let hot = self.heads.iter().filter(|head| head.hot).map(|head| head.units);
        hot.chain(self.replaced.iter().map(|replaced| replaced.0)).sum()
    }

    fn warm_units(&self) -> u64 {
        let warm = self.heads.iter().filter(|head| head.warm);
        warm.map(|head| head.units).sum()
    }

    /// Returns the least recently used of the heads that match.
    fn oldest(&self, matches: impl Fn(&HeadModel) -> bool) -> Option<usize> {
        let heads = (0..self.heads.len()).filter(|&head| matches(&self.heads[head]));
        heads.min_by_key(|&head| self.heads[head].last_use)
    }

    /// Evicts heads until `units` more fit. Returns false, and evicts nothing, if they cannot.
    fn make_space(&mut self, units: u64) -> bool {
        let units_max = LIMITS.resident_bytes_max / UNIT;
        let evictable = self.heads.iter().filter(|head| head.is_evictable());
        let evictable: u64 = evictable.map(|head| head.units).sum();
        if units > units_max || self.hot_units() - evictable + units > units_max {
            return false;
        }
        while self.hot_units() + units > units_max {
            let oldest = self.oldest(HeadModel::is_evictable).unwrap();
            self.heads[oldest].hot = false;
        }
        true
    }

    fn keep_warm(&mut self, head: usize) {
        let units = self.heads[head].units;
        if units > self.warm_units_max {
            return;
        }
        self.heads[head].warm = false;
        while self.warm_units() + units > self.warm_units_max {
            let oldest = self.oldest(|head| head.warm).unwrap();
            self.heads[oldest].warm = false;
        }
        self.heads[head].warm = true;
    }
}

fn check_acquire(bench: &Bench, model: &mut Model, head: usize, hold: bool) {
    model.heads[head].last_use = model.now;
    let pinned = bench.acquire(head);
    let (units, warm) = (model.heads[head].units, model.heads[head].warm);
    if !model.heads[head].hot {
        if !model.make_space(units) {
            assert!(matches!(
                *pinned.unwrap_err(),
                HeadError::NoRoom { .. } | HeadError::LimitReached { .. }
            ));
            return;
        }
        model.reads += u64::from(!warm);
        if model.heads[head].damaged && !warm {
            assert!(matches!(*pinned.unwrap_err(), HeadError::Damaged { .. }));
            return;
        }
        model.keep_warm(head);
        model.heads[head].hot = true;
    }
    let pinned = pinned.unwrap();
    assert_eq!(pinned.resident.number, model.heads[head].number);
    assert_eq!(pinned.labels[0], model.heads[head].number.to_string());
    if hold {
        model.heads[head].pinned.push(pinned);
    }
}

fn check_replace(bench: &Bench, model: &mut Model, head: usize, units: u64) {
    let number = 100.0 + model.now as f32;
    let result = bench.replace(head, units, number);
    if !model.make_space(units) {
        assert!(matches!(
            result.unwrap_err(),
            HeadError::NoRoom { .. } | HeadError::LimitReached { .. }
        ));
        return;
    }
    result.unwrap();
    let replaced = &mut model.heads[head];
    let pinned = std::mem::take(&mut replaced.pinned);
    if !pinned.is_empty() {
        let units = replaced.units;
        model.replaced.push((units, pinned));
    }
    // The new version enters host memory while the one before is still there.
    let before = HeadModel {
        pinned: Vec::new(),
        ..*replaced
    };
    (replaced.units, replaced.number, replaced.hot, replaced.last_use) = (units, number, true, model.now);
    replaced.warm = false;
    model.heads.push(before);
    model.keep_warm(head);
    model.heads.pop();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Heads on the device never exceed the limit; pinned ones stay there, and of the others the least recently used are
    /// evicted first.
    #[test]
    fn the_residency_does_as_its_model(
        steps in proptest::collection::vec(step(), 1..80),
        warm_units_max in prop_oneof![Just(0), 1..20u64],
    ) {
        let bench = Bench::new(&UNITS, ResidencyLimits { warm_bytes_max: warm_units_max * UNIT, ..LIMITS });
        let mut model = Model::new(warm_units_max);
        for step in steps {
            model.now += 1;
            match step {
                Step::Acquire { head, hold } => check_acquire(&bench, &mut model, head, hold),
                Step::Release { head } => {
                    model.heads[head].pinned.pop();
                    if let Some((_, pinned)) = model.replaced.last_mut() {
                        pinned.pop();
                    }
                    model.replaced.retain(|(_, pinned)| !pinned.is_empty());
                }
                Step::Replace { head, units } => check_replace(&bench, &mut model, head, units),
                Step::Damage { head, damaged } => {
                    model.heads[head].damaged = damaged;
                    let mut all = bench.store.damaged.lock().unwrap();
                    if damaged { all.insert(name(head)); } else { all.remove(&name(head)); }
                }
            }
            prop_assert!(bench.bytes() <= LIMITS.resident_bytes_max);
            prop_assert_eq!(bench.bytes(), model.hot_units() * UNIT);
            prop_assert_eq!(bench.reads(), model.reads);
            for (head, expected) in model.heads.iter().enumerate() {
                let tier = if expected.hot { Tier::Hot } else if expected.warm { Tier::Warm } else { Tier::Cold };
                prop_assert_eq!(bench.version(head).tier(), Some(tier), "h{}", head);
            }
        }
    }
}

#[test]
fn one_load_serves_all_waiting_requests() {
    let bench = Bench::new(&[1, 1], LIMITS);
    let (first, task) = bench.load(0);
    let (second, third) = (bench.wait(0), bench.wait(0));
    drop(first);
    task.run();
    let (second, third) = (done(second).unwrap(), done(third).unwrap());
    assert!(Arc::ptr_eq(&second.resident, &third.resident));
    assert_eq!(bench.reads(), 1);
    assert!(matches!(bench.start(0), Acquired::Hot(_)));
}

#[test]
fn a_version_is_not_loaded_once_all_requests_gave_up() {
    let bench = Bench::new(&[1], LIMITS);
    let (pending, task) = bench.load(0);
    drop((pending, bench.wait(0)));
    task.run();
    assert_eq!((bench.reads(), bench.version(0).tier()), (0, Some(Tier::Cold)));
    assert_eq!(bench.acquire(0).unwrap().resident.number, 0.0);
}

#[test]
fn loads_are_bounded_and_run_in_order_of_arrival() {
    let bench = Bench::new(&[1; 5], LIMITS);
    let (a, first) = bench.load(0);
    let (b, second) = bench.load(1);
    let waiting = [bench.wait(2), bench.wait(3), bench.wait(4)];
    first.run();
    for (pending, number) in [a, b].into_iter().chain(waiting).zip(0..) {
        assert_eq!(done(pending).unwrap().resident.number, number as f32);
    }
    second.run();
    assert_eq!(bench.reads(), 5);
}

#[test]
fn a_failed_load_is_retried_by_the_next_request() {
    let bench = Bench::new(&[1, 1], LIMITS);
    bench.store.damaged.lock().unwrap().insert(name(0));
    for _ in 0..3 {
        let (pending, task) = bench.load(0);
        let also = bench.wait(0);
        task.run();
        for error in [done(pending), done(also)].map(Result::unwrap_err) {
            assert_eq!(
                error.to_string(),
                "head `h0` version 1 is damaged in the store (a test); replace it again"
            );
        }
        assert_eq!(bench.bytes(), 0);
    }
    bench.device.panics.store(true, Ordering::SeqCst);
    let error = bench.acquire(1).unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
    bench.device.panics.store(false, Ordering::SeqCst);
    assert_eq!(bench.acquire(1).unwrap().resident.number, 1.0);
    bench.store.damaged.lock().unwrap().clear();
    assert_eq!(bench.acquire(0).unwrap().resident.number, 0.0);
    assert_eq!(bench.bytes(), 2 * UNIT);
}

#[test]
fn a_running_task_takes_over_the_work_of_a_dropped_one() {
    let bench = Bench::new(&[1; 3], LIMITS);
    let (first, dropped) = bench.load(0);
    let (second, task) = bench.load(1);
    let third = bench.wait(2);
    drop(dropped);
    task.run();
    for (pending, number) in [first, second, third].into_iter().zip(0..) {
        assert_eq!(done(pending).unwrap().resident.number, number as f32);
    }
}

#[test]
fn dropping_the_only_task_fails_the_waiting_requests() {
    let limits = ResidencyLimits { loads_max: 1, ..LIMITS };
    let bench = Bench::new(&[1, 1], limits);
    for _ in 0..3 {
        let (first, task) = bench.load(0);
        let waiting = [first, bench.wait(0), bench.wait(1)];
        drop(task);
        for pending in waiting {
            assert!(matches!(*done(pending).unwrap_err(), HeadError::LoadsStopped));
        }
    }
    // The next request gets a new task.
    for head in [0, 1] {
        let (pending, task) = bench.load(head);
        task.run();
        assert_eq!(done(pending).unwrap().resident.number, head as f32);
    }
}

/// While a stream waits for many cold heads, the head of a unary call is loaded right after the running load.
#[test]
fn interactive_loads_come_before_bulk_ones() {
    const BULK: usize = 20;
    let limits = ResidencyLimits {
        resident_bytes_max: 100 * UNIT,
        loads_max: 1,
        ..LIMITS
    };
    let bench = Bench::new(&[1; BULK + 2], limits);
    let Acquired::Load(_running, task) = bench.start_as(0, Urgency::Bulk) else {
        panic!("the first request gets the task")
    };
    let _waiting: Vec<_> = (1..BULK).map(|head| bench.start_as(head, Urgency::Bulk)).collect();
    // One that only a unary call waits for, and one that the stream waits for, too.
    let (own, shared) = (bench.wait(BULK), bench.wait(BULK - 1));
    let order = Arc::clone(&bench.device.placed);
    order.lock().unwrap().clear();
    task.run();
    assert_eq!(done(own).unwrap().resident.number, BULK as f32);
    assert_eq!(done(shared).unwrap().resident.number, (BULK - 1) as f32);
    let order = order.lock().unwrap();
    let expected: Vec<f32> = [BULK, BULK - 1]
        .into_iter()
        .chain(0..BULK - 1)
        .map(|head| head as f32)
        .collect();
    assert_eq!(*order, expected);
}

/// Pinned heads are not evicted, and others only at the commit of a swap.
#[test]
fn what_is_not_committed_evicts_nothing() {
    let bench = Bench::new(&[3, 3, 1], LIMITS);
    drop((bench.acquire(0).unwrap(), bench.acquire(1).unwrap()));
    let full = [Some(Tier::Hot), Some(Tier::Hot), Some(Tier::Cold)];
    assert_eq!(bench.tiers(), full);

    // A dry run succeeds if space could be made, and makes none.
    bench.swap(2, 4, 7.0, true).unwrap();
    assert_eq!((bench.tiers(), bench.bytes()), (full, 6 * UNIT));
    let error = bench.swap(2, 7, 7.0, true).unwrap_err();
    assert!(matches!(error, HeadError::LimitReached { .. }), "{error}");

    // A trial fails.
    bench.device.refuses.store(true, Ordering::SeqCst);
    for dry_run in [false, true] {
        let error = bench.swap(2, 4, 7.0, dry_run).unwrap_err();
        assert!(matches!(error, HeadError::Place(_)), "{error}");
        assert_eq!((bench.tiers(), bench.bytes()), (full, 6 * UNIT));
    }
    bench.device.refuses.store(false, Ordering::SeqCst);

    // One of the two heads is pinned; evicting the other frees too little.
    let held = bench.acquire(0).unwrap();
    for dry_run in [false, true] {
        let error = bench.swap(2, 4, 7.0, dry_run).unwrap_err();
        assert!(matches!(error, HeadError::NoRoom { .. }), "{error}");
        assert_eq!((bench.tiers(), bench.bytes()), (full, 6 * UNIT));
        assert_eq!(bench.version(2).info.version, 1);
        assert_eq!(bench.store.heads.lock().unwrap().len(), 3);
    }
    drop(held);
    bench.swap(2, 4, 7.0, false).unwrap();
    assert_eq!(bench.tiers(), [Some(Tier::Cold), Some(Tier::Cold), Some(Tier::Hot)]);
    assert_eq!(
        (bench.bytes(), bench.acquire(2).unwrap().resident.number),
        (4 * UNIT, 7.0)
    );
    // Trials release their bytes: as large a head can be tried again.
    for _ in 0..3 {
        bench.swap(1, 6, 8.0, true).unwrap();
        bench.swap(1, 6, 8.0, false).unwrap();
    }
}

#[test]
fn requests_that_wait_for_a_retired_version_get_an_error() {
    let bench = Bench::new(&[1], LIMITS);
    let before = bench.version(0);
    let (pending, task) = bench.load(0);
    bench.replace(0, 1, 7.0).unwrap();
    task.run();
    assert!(matches!(
        *done(pending).unwrap_err(),
        HeadError::Retired { version: 1, .. }
    ));
    let Acquired::Wait(pending) = bench.registry.acquire(&before, Urgency::Interactive) else {
        panic!("the version is retired")
    };
    assert!(matches!(*done(pending).unwrap_err(), HeadError::Retired { .. }));
    assert_eq!((before.tier(), bench.bytes()), (None, UNIT));
    assert_eq!(bench.acquire(0).unwrap().resident.number, 7.0);
}

#[test]
fn errors_about_device_memory_name_the_setting_to_raise() {
    let bench = Bench::new(&[7, 4, 4], LIMITS);
    check_memory_error(
        bench.acquire(0),
        &["head `h0` needs 84 bytes", "the limit is 72", "raise"],
    );
    let held = bench.acquire(1).unwrap();
    check_memory_error(
        bench.acquire(2),
        &["head `h2` version 1 needs 48 bytes", "in use", "retry"],
    );
    assert_eq!(held.resident.number, 1.0);
    drop(held);
    bench.acquire(2).unwrap();
    assert_eq!(bench.version(1).tier(), Some(Tier::Cold));
}

fn check_memory_error(result: Result<PinnedHead<Resident>, Arc<HeadError>>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    for part in parts.iter().chain(&["--heads-resident-bytes-max"]) {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    assert!(!message.contains('\n'), "{message:?}");
}

/// Many threads, many more heads than fit: the limit holds at every moment, a thread gets the numbers of the head that it
/// requested, and a pinned head is not loaded a second time.
#[test]
fn threads_share_the_device() {
    const HEADS: u64 = 40;
    const THREADS: u64 = 6;
    const LOADS: u64 = 3;
    let limits = ResidencyLimits {
        // One head for each thread, and one that each load has just finished: a paused thread then leaves space for the
        // others.
        resident_bytes_max: (THREADS + LOADS) * UNIT,
        warm_bytes_max: 10 * UNIT,
        loads_max: LOADS as usize,
    };
    let bench = Bench::new(&vec![1; HEADS as usize], limits);
    let (acquired, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (bench, acquired, refused) = (&bench, &acquired, &refused);
            scope.spawn(move || {
                let mut random = thread + 1;
                for _ in 0..3000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    // A skewed distribution: few heads often, most seldom.
                    let uniform = (random >> 33) % (HEADS * HEADS);
                    let head = (uniform * uniform / HEADS.pow(3)) as usize;
                    match bench.acquire(head) {
                        Ok(pinned) => {
                            assert_eq!(pinned.resident.number, head as f32);
                            assert!(bench.bytes() <= limits.resident_bytes_max);
                            match bench.start(head) {
                                Acquired::Hot(again) => assert!(Arc::ptr_eq(&again.resident, &pinned.resident)),
                                _ => panic!("h{head} was evicted while it was pinned"),
                            }
                            acquired.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => {
                            assert!(matches!(*error, HeadError::NoRoom { .. }), "{error}");
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
    });
    assert!(bench.bytes() <= limits.resident_bytes_max);
    assert!(
        acquired.load(Ordering::SeqCst) > 10 * refused.load(Ordering::SeqCst),
        "{acquired:?} {refused:?}"
    );
    assert!(bench.reads() > HEADS, "no head was loaded twice");
    for head in 0..HEADS as usize {
        assert_eq!(bench.acquire(head).unwrap().resident.number, head as f32);
    }
}

/// The time to pin a head that is on the device; `cargo test --release --test residency -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn the_time_to_pin_a_hot_head() {
    const TIMES: u32 = 1_000_000;
    let bench = Bench::new(&[1; 4], LIMITS);
    (0..4).for_each(|head| drop(bench.acquire(head).unwrap()));
    for threads in [1, 2] {
        let started = std::time::Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let version = bench.version(0);
                    for _ in 0..TIMES {
                        drop(std::hint::black_box(
                            bench.registry.acquire(&version, Urgency::Interactive),
                        ));
                    }
                });
            }
        });
        println!("{threads} threads, one head: {:?} each", started.elapsed() / TIMES);
    }
}
