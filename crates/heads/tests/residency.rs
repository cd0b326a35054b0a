//! Which heads are in memory: against a simple model, under many threads, and how loads begin, end and fail.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use headswap_checkpoint::{HostTensor, Parameters, Throttle};
use headswap_heads::{
    Acquired, Commit, HeadError, HeadInfo, HeadMetrics, HeadName, HeadRegistry, HeadStore, HeadVersion, HeadWeights,
    LoadTask, Pending, PinnedHead, PlaceError, RegistryLimits, RegistryParts, Replaced, Replacement, Reservation,
    ResidencyLimits, StagedHead, StoreError, Tier, Urgency,
};
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};
use proptest::prelude::*;

/// Bytes of a head with one class and two features.
const UNIT: u64 = 12;

/// What is on the device here: a head's number, counted for as long as it is there.
#[derive(Debug)]
struct Resident {
    number: f32,
    bytes: u64,
    device: Arc<Device>,
    _room: Reservation,
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
    /// What was placed, in order.
    placed: Arc<Mutex<Vec<f32>>>,
}

type Registry = HeadRegistry<Resident>;
type Version = Arc<HeadVersion<Resident>>;

fn weights(units: u64, number: f32) -> HeadWeights {
    let tensor = |shape: &[usize]| {
        let values = vec![number; shape.iter().product()];
        Arc::new(HostTensor::new(shape.to_vec(), values))
    };
    let classes = units as usize;
    let parameters = [
        (LAST_WEIGHT.to_owned(), tensor(&[classes, 2])),
        (LAST_BIAS.to_owned(), tensor(&[classes])),
    ];
    HeadWeights::new(Parameters::from(parameters), vec![number.to_string(); classes])
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

/// A store in memory that counts what is read, and notices if one version is read twice at once.
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

    fn remove(&self, name: &HeadName, version: u64) -> Result<(), StoreError> {
        self.heads.lock().unwrap().remove(&(name.clone(), version));
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
            "{key:?} is read twice at once"
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

/// A registry, and what it works with.
struct Bench {
    store: Arc<Store>,
    device: Arc<Device>,
    registry: Registry,
}

impl Bench {
    /// With heads `h0`, `h1`, … of these sizes in the store.
    fn new(units: &[u64], residency: ResidencyLimits) -> Self {
        let (store, device) = (Arc::new(Store::default()), Arc::new(Device::default()));
        let roomy = ResidencyLimits {
            resident_bytes_max: u64::MAX,
            ..residency
        };
        let bench = Self::open(Arc::clone(&store), Arc::clone(&device), roomy);
        for (head, units) in units.iter().enumerate() {
            bench.replace(head, *units, head as f32).unwrap();
        }
        drop(bench);
        Self::open(store, device, residency)
    }

    fn open(store: Arc<Store>, device: Arc<Device>, residency: ResidencyLimits) -> Self {
        let counted = Arc::clone(&device);
        let place = move |weights: &HeadWeights, room: Reservation| -> Result<Resident, PlaceError> {
            assert!(!counted.panics.load(Ordering::SeqCst), "a test's panic");
            if counted.refuses.load(Ordering::SeqCst) {
                return Err(PlaceError::Refused("a test".into()));
            }
            let number = weights.parameters[LAST_BIAS].values[0];
            counted.placed.lock().unwrap().push(number);
            counted.bytes.fetch_add(weights.bytes(), Ordering::SeqCst);
            Ok(Resident {
                number,
                bytes: weights.bytes(),
                device: Arc::clone(&counted),
                _room: room,
            })
        };
        let parts = RegistryParts {
            store: Arc::clone(&store) as Arc<dyn HeadStore>,
            placer: Box::new(place),
            metrics: HeadMetrics::register(&mut prometheus_client::registry::Registry::default()),
        };
        let limits = RegistryLimits {
            heads_max: 1000,
            versions_kept: 1,
            bytes_max: u64::MAX,
            eager: false,
            residency,
        };
        let registry = Registry::open(parts, limits, &weights(1, -1.0)).unwrap();
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
        self.registry.acquire(&self.version(head), Urgency::Interactive)
    }

    fn load(&self, head: usize) -> (Pending<Resident>, LoadTask<Resident>) {
        match self.start(head) {
            Acquired::Load(pending, task) => (pending, task),
            _ => panic!("h{head} is not the one to load"),
        }
    }

    fn wait(&self, head: usize) -> Pending<Resident> {
        match self.start(head) {
            Acquired::Wait(pending) => pending,
            _ => panic!("h{head} is not being loaded"),
        }
    }

    /// Loads if need be, and waits if another thread does.
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

/// Waits on this thread until another has loaded it.
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

/// Sizes of the heads at first; together more than twice what fits.
const UNITS: [u64; 8] = [1, 2, 3, 1, 2, 3, 1, 2];

/// A head as the model knows it.
struct Known {
    units: u64,
    number: f32,
    hot: bool,
    warm: bool,
    last_use: u64,
    damaged: bool,
    pinned: Vec<PinnedHead<Resident>>,
}

/// What the residency must do, by looking at every head.
struct Model {
    now: u64,
    reads: u64,
    heads: Vec<Known>,
    /// Units of versions that were replaced while somebody had them.
    replaced: Vec<(u64, Vec<PinnedHead<Resident>>)>,
    warm_units_max: u64,
}

impl Model {
    fn new(warm_units_max: u64) -> Self {
        let known = |(head, units): (usize, &u64)| Known {
            units: *units,
            number: head as f32,
            hot: false,
            warm: false,
            last_use: 0,
            damaged: false,
            pinned: Vec::new(),
        };
        Self {
            now: 0,
            reads: 0,
            heads: UNITS.iter().enumerate().map(known).collect(),
            replaced: Vec::new(),
            warm_units_max,
        }
    }

    fn hot_units(&self) -> u64 {
        let hot = self.heads.iter().filter(|head| head.hot).map(|head| head.units);
        hot.chain(self.replaced.iter().map(|replaced| replaced.0)).sum()
    }

    /// The least recently used of some heads.
    fn oldest(&self, among: impl Fn(&Known) -> bool) -> Option<usize> {
        let heads = (0..self.heads.len()).filter(|&head| among(&self.heads[head]));
        heads.min_by_key(|&head| self.heads[head].last_use)
    }

    /// Whether there was or could be made room.
    fn make_room(&mut self, units: u64) -> bool {
        let most = LIMITS.resident_bytes_max / UNIT;
        let free = |head: &Known| head.hot && head.pinned.is_empty();
        let freed: u64 = self.heads.iter().filter(|head| free(head)).map(|head| head.units).sum();
        if units > most || self.hot_units() - freed + units > most {
            return false;
        }
        while self.hot_units() + units > most {
            let oldest = self.oldest(free).unwrap();
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
        let warm_units = |model: &Self| -> u64 { model.heads.iter().filter(|h| h.warm).map(|h| h.units).sum() };
        while warm_units(self) + units > self.warm_units_max {
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
        if !model.make_room(units) {
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
    if !model.make_room(units) {
        assert!(matches!(
            result.unwrap_err(),
            HeadError::NoRoom { .. } | HeadError::LimitReached { .. }
        ));
        return;
    }
    result.unwrap();
    let known = &mut model.heads[head];
    let before = std::mem::take(&mut known.pinned);
    if !before.is_empty() {
        let units = known.units;
        model.replaced.push((units, before));
    }
    // The new version takes its place in host memory while the one before is still there.
    let before = Known {
        pinned: Vec::new(),
        ..*known
    };
    (known.units, known.number, known.hot, known.last_use) = (units, number, true, model.now);
    known.warm = false;
    model.heads.push(before);
    model.keep_warm(head);
    model.heads.pop();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// What is on the device never takes more than allowed, what is in use stays there, and of the rest the least
    /// recently used leaves first.
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
            for (head, known) in model.heads.iter().enumerate() {
                let tier = if known.hot { Tier::Hot } else if known.warm { Tier::Warm } else { Tier::Cold };
                prop_assert_eq!(bench.version(head).tier(), Some(tier), "h{}", head);
            }
        }
    }
}

#[test]
fn one_load_serves_all_who_wait() {
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
fn what_nobody_waits_for_any_more_is_not_loaded() {
    let bench = Bench::new(&[1], LIMITS);
    let (pending, task) = bench.load(0);
    drop((pending, bench.wait(0)));
    task.run();
    assert_eq!((bench.reads(), bench.version(0).tier()), (0, Some(Tier::Cold)));
    assert_eq!(bench.acquire(0).unwrap().resident.number, 0.0);
}

#[test]
fn loads_are_bounded_and_in_turn() {
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
fn a_load_that_fails_is_tried_again() {
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
    assert!(error.to_string().contains("it panicked"), "{error}");
    bench.device.panics.store(false, Ordering::SeqCst);
    assert_eq!(bench.acquire(1).unwrap().resident.number, 1.0);
    bench.store.damaged.lock().unwrap().clear();
    assert_eq!(bench.acquire(0).unwrap().resident.number, 0.0);
    assert_eq!(bench.bytes(), 2 * UNIT);
}

#[test]
fn a_task_that_is_dropped_leaves_its_work_to_another_that_runs() {
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
fn a_task_that_is_dropped_alone_wakes_those_who_wait() {
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
    // The next who asks gets a task again.
    for head in [0, 1] {
        let (pending, task) = bench.load(head);
        task.run();
        assert_eq!(done(pending).unwrap().resident.number, head as f32);
    }
}

/// A stream asks for many cold heads; what a unary call waits for comes right after the load that runs.
#[test]
fn interactive_loads_come_before_bulk_ones() {
    const BULK: usize = 20;
    let limits = ResidencyLimits {
        resident_bytes_max: 100 * UNIT,
        loads_max: 1,
        ..LIMITS
    };
    let bench = Bench::new(&[1; BULK + 2], limits);
    let bulk = |head: usize| bench.registry.acquire(&bench.version(head), Urgency::Bulk);
    let Acquired::Load(_running, task) = bulk(0) else {
        panic!("it is the first")
    };
    let _waiting: Vec<_> = (1..BULK).map(bulk).collect();
    // One of its own, and one that the stream waits for, too.
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

/// Heads that are in use leave no room, and a head without a use leaves only for one that stays.
#[test]
fn what_is_not_committed_evicts_nothing() {
    let bench = Bench::new(&[3, 3, 1], LIMITS);
    let tiers = || [0, 1, 2].map(|head| bench.version(head).tier());
    drop((bench.acquire(0).unwrap(), bench.acquire(1).unwrap()));
    let full = [Some(Tier::Hot), Some(Tier::Hot), Some(Tier::Cold)];
    assert_eq!(tiers(), full);

    // A dry run tells that room could be had, and takes none.
    bench.swap(2, 4, 7.0, true).unwrap();
    assert_eq!((tiers(), bench.bytes()), (full, 6 * UNIT));
    let error = bench.swap(2, 7, 7.0, true).unwrap_err();
    assert!(matches!(error, HeadError::LimitReached { .. }), "{error}");

    // A trial that fails.
    bench.device.refuses.store(true, Ordering::SeqCst);
    for dry_run in [false, true] {
        let error = bench.swap(2, 4, 7.0, dry_run).unwrap_err();
        assert!(matches!(error, HeadError::Place(_)), "{error}");
        assert_eq!((tiers(), bench.bytes()), (full, 6 * UNIT));
    }
    bench.device.refuses.store(false, Ordering::SeqCst);

    // Heads in use: one of the two may leave, which is too little.
    let held = bench.acquire(0).unwrap();
    for dry_run in [false, true] {
        let error = bench.swap(2, 4, 7.0, dry_run).unwrap_err();
        assert!(matches!(error, HeadError::NoRoom { .. }), "{error}");
        assert_eq!((tiers(), bench.bytes()), (full, 6 * UNIT));
        assert_eq!(bench.version(2).info.version, 1);
        assert_eq!(bench.store.heads.lock().unwrap().len(), 3);
    }
    drop(held);
    bench.swap(2, 4, 7.0, false).unwrap();
    assert_eq!(tiers(), [Some(Tier::Cold), Some(Tier::Cold), Some(Tier::Hot)]);
    assert_eq!(
        (bench.bytes(), bench.acquire(2).unwrap().resident.number),
        (4 * UNIT, 7.0)
    );
    // What was on trial is given back: as much as ever can be tried again.
    for _ in 0..3 {
        bench.swap(1, 6, 8.0, true).unwrap();
        bench.swap(1, 6, 8.0, false).unwrap();
    }
}

#[test]
fn a_version_that_is_let_go_while_it_is_awaited_says_so() {
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
        panic!("it is gone")
    };
    assert!(matches!(*done(pending).unwrap_err(), HeadError::Retired { .. }));
    assert_eq!((before.tier(), bench.bytes()), (None, UNIT));
    assert_eq!(bench.acquire(0).unwrap().resident.number, 7.0);
}

#[test]
fn refusals_say_what_to_raise() {
    let bench = Bench::new(&[7, 4, 4], LIMITS);
    let check = |result: Result<PinnedHead<Resident>, Arc<HeadError>>, parts: &[&str]| {
        let message = result.unwrap_err().to_string();
        for part in parts.iter().chain(&["--heads-resident-bytes-max"]) {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        assert!(!message.contains('\n'), "{message:?}");
    };
    check(
        bench.acquire(0),
        &["head `h0` needs 84 bytes", "the limit is 72", "raise"],
    );
    let held = bench.acquire(1).unwrap();
    check(
        bench.acquire(2),
        &["head `h2` version 1 needs 48 bytes", "in use", "retry"],
    );
    assert_eq!(held.resident.number, 1.0);
    drop(held);
    bench.acquire(2).unwrap();
    assert_eq!(bench.version(1).tier(), Some(Tier::Cold));
}

/// Many threads, many more heads than fit: the bound holds at every moment, nobody gets another's numbers, and what
/// somebody has is not loaded a second time.
#[test]
fn threads_share_the_device() {
    const HEADS: u64 = 40;
    const THREADS: u64 = 6;
    const LOADS: u64 = 3;
    let limits = ResidencyLimits {
        // What each thread has or waits for, and what each load has just handed over: a thread that is paused then
        // leaves no others without room.
        resident_bytes_max: (THREADS + LOADS) * UNIT,
        warm_bytes_max: 10 * UNIT,
        loads_max: LOADS as usize,
    };
    let bench = Bench::new(&vec![1; HEADS as usize], limits);
    let (answered, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (bench, answered, refused) = (&bench, &answered, &refused);
            scope.spawn(move || {
                let mut random = thread + 1;
                for _ in 0..3000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    // Few heads often, most seldom.
                    let uniform = (random >> 33) % (HEADS * HEADS);
                    let head = (uniform * uniform / HEADS.pow(3)) as usize;
                    match bench.acquire(head) {
                        Ok(pinned) => {
                            assert_eq!(pinned.resident.number, head as f32);
                            assert!(bench.bytes() <= limits.resident_bytes_max);
                            match bench.start(head) {
                                Acquired::Hot(again) => assert!(Arc::ptr_eq(&again.resident, &pinned.resident)),
                                _ => panic!("h{head} left while it was in use"),
                            }
                            answered.fetch_add(1, Ordering::SeqCst);
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
        answered.load(Ordering::SeqCst) > 10 * refused.load(Ordering::SeqCst),
        "{answered:?} {refused:?}"
    );
    assert!(bench.reads() > HEADS, "nothing was loaded twice");
    for head in 0..HEADS as usize {
        assert_eq!(bench.acquire(head).unwrap().resident.number, head as f32);
    }
}

/// What one request pays for a head that is on the device; `cargo test --release --test residency -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn the_price_of_a_hot_head() {
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
