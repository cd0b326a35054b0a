//! The registry of heads against a simple model of it, its readers under swaps, its limits, and its restarts.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use headswap_checkpoint::{Digest, HostTensor, Parameters, Throttle};
use headswap_heads::{
    Acquired, Commit, HeadError, HeadInfo, HeadLimits, HeadMetrics, HeadName, HeadRegistry, HeadStore, HeadVersion,
    HeadWeights, PinnedHead, PlaceError, RegistryLimits, RegistryParts, Replaced, Replacement, Reservation,
    ResidencyLimits, StagedHead, StoreError, Urgency,
};
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};
use headswap_store::DirStore;
use proptest::prelude::*;

const LIMITS: RegistryLimits = RegistryLimits {
    heads_max: 8,
    versions_kept: 2,
    bytes_max: 1 << 20,
    eager: true,
    residency: ResidencyLimits {
        resident_bytes_max: 1 << 20,
        warm_bytes_max: 0,
        loads_max: 2,
    },
};
/// Of a head with one class and two features.
const HEAD_BYTES: u64 = 12;

/// What a version "has on the device" here: the one number that its weights are made of.
#[derive(Debug)]
struct Resident {
    seed: f32,
    _room: Reservation,
}
type Registry = HeadRegistry<Resident>;

fn weights(seed: f32) -> HeadWeights {
    let tensor = |shape: &[usize]| Arc::new(HostTensor::new(shape.to_vec(), vec![seed; shape.iter().product()]));
    let parameters = [
        (LAST_WEIGHT.to_owned(), tensor(&[1, 2])),
        (LAST_BIAS.to_owned(), tensor(&[1])),
    ];
    HeadWeights::new(Parameters::from(parameters), Vec::new())
}

fn seed_of(weights: &HeadWeights) -> f32 {
    weights.parameters[LAST_BIAS].values[0]
}

/// What the device says of weights.
type Device = Box<dyn Fn(&HeadWeights) -> Result<(), PlaceError> + Send + Sync>;

/// A registry whose device can be told to fail.
fn open_on(store: Arc<dyn HeadStore>, limits: RegistryLimits, device: Device) -> Result<Registry, HeadError> {
    let place = move |weights: &HeadWeights, room: Reservation| {
        device(weights)?;
        let seed = seed_of(weights);
        Ok(Resident { seed, _room: room })
    };
    let parts = RegistryParts {
        store,
        placer: Box::new(place),
        metrics: HeadMetrics::register(&mut prometheus_client::registry::Registry::default()),
    };
    Registry::open(parts, limits, &weights(-1.0))
}

/// A version, loaded if need be.
fn acquire(registry: &Registry, version: &Arc<HeadVersion<Resident>>) -> Result<PinnedHead<Resident>, Arc<HeadError>> {
    let pending = match registry.acquire(version, Urgency::Interactive) {
        Acquired::Hot(pinned) => return Ok(pinned),
        Acquired::Wait(pending) => pending,
        Acquired::Load(pending, task) => {
            task.run();
            pending
        }
    };
    pending.now_or_never().expect("it was loaded")
}

fn name(text: &str) -> HeadName {
    HeadName::parse(text).unwrap()
}

fn replacement(head: &str, seed: f32) -> Replacement {
    Replacement {
        name: name(head),
        weights: weights(seed),
        expected_version: None,
        dry_run: false,
        annotations: BTreeMap::new(),
    }
}

fn replace(registry: &Registry, head: &str, seed: f32) -> Result<Replaced, HeadError> {
    registry.replace(replacement(head, seed), &Commit::default(), &Throttle::off())
}

/// A store in memory that fails when told to; its clones are the same store.
#[derive(Clone, Default)]
struct MemoryStore(Arc<MemoryState>);

/// Called by the thread that stages a version.
type Stop = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct MemoryState {
    /// How many versions are written but not the store's.
    staged: AtomicU64,
    /// Where threads stop, by the head that they write.
    stops: Mutex<BTreeMap<&'static str, Stop>>,
    commit_fails: AtomicBool,
    heads: Mutex<BTreeMap<(HeadName, u64), (HeadInfo, HeadWeights)>>,
    save_fails: AtomicBool,
    remove_fails: AtomicBool,
    count_fails: AtomicBool,
    device_fails: AtomicBool,
}

impl MemoryStore {
    fn numbers(&self, head: &str) -> Vec<u64> {
        let heads = self.0.heads.lock().unwrap();
        heads
            .keys()
            .filter(|key| key.0.as_str() == head)
            .map(|key| key.1)
            .collect()
    }
}

struct Staged {
    store: MemoryStore,
    head: (HeadInfo, HeadWeights),
}

impl StagedHead for Staged {
    fn commit(self: Box<Self>) -> Result<Duration, StoreError> {
        unless(&self.store.0.commit_fails)?;
        let key = (self.head.0.name.clone(), self.head.0.version);
        let before = self.store.0.heads.lock().unwrap().insert(key, self.head.clone());
        assert!(before.is_none(), "a version number was used twice");
        Ok(Duration::ZERO)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.store.0.staged.fetch_sub(1, Ordering::SeqCst);
    }
}

fn unless(fails: &AtomicBool) -> Result<(), StoreError> {
    match fails.load(Ordering::SeqCst) {
        false => Ok(()),
        true => Err(StoreError {
            action: "write",
            path: PathBuf::from("/a/full/disk"),
            source: std::io::ErrorKind::StorageFull.into(),
        }),
    }
}

impl HeadStore for MemoryStore {
    fn stage(&self, info: &HeadInfo, weights: &HeadWeights, _: &Throttle) -> Result<Box<dyn StagedHead>, StoreError> {
        self.0.staged.fetch_add(1, Ordering::SeqCst);
        let staged = Staged {
            store: self.clone(),
            head: (info.clone(), weights.clone()),
        };
        let stop = self.0.stops.lock().unwrap().get(info.name.as_str()).cloned();
        if let Some(stop) = stop {
            stop();
        }
        unless(&self.0.save_fails)?;
        Ok(Box::new(staged))
    }

    fn remove(&self, name: &HeadName, version: u64) -> Result<(), StoreError> {
        unless(&self.0.remove_fails)?;
        self.0.heads.lock().unwrap().remove(&(name.clone(), version));
        Ok(())
    }

    fn list(&self) -> Result<Vec<HeadInfo>, StoreError> {
        let heads = self.0.heads.lock().unwrap();
        Ok(heads.values().map(|(info, _)| info.clone()).collect())
    }

    fn load(&self, info: &HeadInfo) -> Result<HeadWeights, HeadError> {
        let key = (info.name.clone(), info.version);
        let heads = self.0.heads.lock().unwrap();
        let found = heads.get(&key).map(|(_, weights)| weights.clone());
        found.ok_or_else(|| HeadError::Damaged {
            name: key.0,
            version: key.1,
            reason: "it is gone".into(),
        })
    }

    fn labels(&self, info: &HeadInfo) -> Result<Vec<String>, HeadError> {
        Ok(self.load(info)?.labels.to_vec())
    }

    fn highest_version(&self, name: &HeadName) -> Result<u64, StoreError> {
        unless(&self.0.count_fails)?;
        Ok(self.numbers(name.as_str()).last().copied().unwrap_or(0))
    }
}

fn open_with(store: &MemoryStore, limits: RegistryLimits) -> Registry {
    let state = Arc::clone(&store.0);
    let device = move |_: &HeadWeights| match state.device_fails.load(Ordering::SeqCst) {
        true => Err(PlaceError::Refused("the trial gave NaN".into())),
        false => Ok(()),
    };
    open_on(Arc::new(store.clone()), limits, Box::new(device)).unwrap()
}

fn open(store: &MemoryStore) -> Registry {
    open_with(store, LIMITS)
}

/// Everything that a reader can see: every head's versions and what they are made of.
fn seen(registry: &Registry) -> BTreeMap<String, Vec<(u64, f32)>> {
    let table = registry.table();
    let versions = |name: &HeadName| {
        let numbers = table.versions(name).into_iter();
        numbers
            .map(|version| {
                let pinned = acquire(registry, &table.resolve(name, version).unwrap()).unwrap();
                (version, pinned.resident.seed)
            })
            .collect()
    };
    let heads = table.list();
    heads
        .iter()
        .map(|head| (head.info.name.to_string(), versions(&head.info.name)))
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Replace {
        head: usize,
        expected: Option<u64>,
        trouble: Trouble,
    },
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    DryRun,
    Place,
    Save,
    Commit,
    Prune,
    Cancelled,
}

const HEADS: [&str; 3] = ["default", "cats", "dogs"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let trouble = prop_oneof![
        5 => Just(Trouble::None), 1 => Just(Trouble::DryRun), 1 => Just(Trouble::Place),
        1 => Just(Trouble::Save), 1 => Just(Trouble::Commit), 1 => Just(Trouble::Prune), 1 => Just(Trouble::Cancelled),
    ];
    let expected = prop_oneof![3 => Just(None), 2 => (0..5u64).prop_map(Some)];
    let replace = (0..HEADS.len(), expected, trouble);
    let replace = replace.prop_map(|(head, expected, trouble)| Step::Replace {
        head,
        expected,
        trouble,
    });
    proptest::collection::vec(prop_oneof![9 => replace, 1 => Just(Step::Restart)], 1..40)
}

/// What the registry must show: the versions of each head, oldest first.
struct Model(BTreeMap<String, Vec<(u64, f32)>>);

impl Model {
    fn live(&self, head: &str) -> u64 {
        self.0.get(head).map_or(0, |versions| versions[versions.len() - 1].0)
    }

    fn publish(&mut self, head: &str, seed: f32) {
        let next = self.live(head) + 1;
        let versions = self.0.entry(head.into()).or_default();
        versions.push((next, seed));
        versions.drain(..versions.len().saturating_sub(LIMITS.versions_kept));
    }
}

/// One replacement, and whether the registry must accept it and why not.
fn check_replace(registry: &Registry, store: &MemoryStore, model: &mut Model, seed: f32, step: &Step) {
    let device_fails = &store.0.device_fails;
    let Step::Replace {
        head,
        expected,
        trouble,
    } = *step
    else {
        return;
    };
    let head = HEADS[head];
    let live = model.live(head);
    store.0.save_fails.store(trouble == Trouble::Save, Ordering::SeqCst);
    store.0.commit_fails.store(trouble == Trouble::Commit, Ordering::SeqCst);
    store.0.remove_fails.store(trouble == Trouble::Prune, Ordering::SeqCst);
    let request = Replacement {
        expected_version: expected,
        dry_run: trouble == Trouble::DryRun,
        ..replacement(head, seed)
    };
    device_fails.store(trouble == Trouble::Place, Ordering::SeqCst);
    let commit = Commit::default();
    if trouble == Trouble::Cancelled {
        assert!(commit.abandon());
    }
    let result = registry.replace(request, &commit, &Throttle::off());
    assert_eq!(store.0.staged.load(Ordering::SeqCst), 0);
    device_fails.store(false, Ordering::SeqCst);
    if trouble == Trouble::Cancelled {
        assert!(matches!(result.unwrap_err(), HeadError::Cancelled));
        return;
    }
    if let Some(stale) = expected.filter(|expected| *expected != live) {
        let error = result.unwrap_err();
        assert!(matches!(error, HeadError::VersionMismatch { live: l, expected: e } if (l, e) == (live, stale)));
        return;
    }
    match (trouble, result) {
        (Trouble::Place, Err(HeadError::Place(_))) | (Trouble::Save | Trouble::Commit, Err(HeadError::Store(_))) => {}
        (Trouble::None | Trouble::Prune | Trouble::DryRun, Ok(replaced)) => {
            assert_eq!((replaced.info.version, replaced.previous_version), (live + 1, live));
            assert_eq!(replaced.info.digest, weights(seed).digest);
            if trouble != Trouble::DryRun {
                model.publish(head, seed);
            }
        }
        (_, Ok(_)) => panic!("{trouble:?} was accepted"),
        (_, Err(error)) => panic!("{trouble:?}: {error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Invariants 5 and 6: what was acknowledged is there, also after restarts; what failed changed nothing.
    #[test]
    fn the_registry_does_as_its_model(steps in steps()) {
        let store = MemoryStore::default();
        let mut registry = open(&store);
        let mut model = Model(BTreeMap::from([("default".into(), vec![(1, -1.0)])]));
        for (index, step) in steps.iter().enumerate() {
            match step {
                Step::Replace { .. } => check_replace(&registry, &store, &mut model, index as f32, step),
                Step::Restart => {
                    store.0.remove_fails.store(false, Ordering::SeqCst);
                    registry = open(&store);
                    for head in HEADS {
                        prop_assert!(store.numbers(head).len() <= LIMITS.versions_kept);
                    }
                }
            }
            prop_assert_eq!(&seen(&registry), &model.0);
            for head in HEADS {
                let live = registry.table().resolve(&name(head), 0).map_or(0, |live| live.info.version);
                prop_assert_eq!(live, model.live(head));
                let missing = registry.table().resolve(&name(head), live + 1);
                prop_assert!(missing.is_err());
            }
        }
    }
}

/// Invariant 4, and that a reader sees a version whole: its number, digest and what is on the device agree.
#[test]
fn readers_see_the_acknowledged_version_or_a_newer_one() {
    const SWAPS: u64 = 2000;
    let registry = open(&MemoryStore::default());
    let acknowledged = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let default = name("default");
                loop {
                    let least = acknowledged.load(Ordering::SeqCst);
                    let live = registry.table().resolve(&default, 0).unwrap();
                    assert!(live.info.version >= least, "{} after {least}", live.info.version);
                    let expected = if live.info.version == 1 {
                        -1.0
                    } else {
                        live.info.version as f32
                    };
                    assert_eq!(
                        acquire(&registry, &live).map_or(expected, |pinned| pinned.resident.seed),
                        expected
                    );
                    assert_eq!(live.info.digest, weights(expected).digest);
                    match registry.table().resolve(&default, least) {
                        Ok(older) => assert_eq!(older.info.version, least),
                        Err(HeadError::UnknownVersion { available, .. }) => assert!(available[0] > least),
                        Err(error) => panic!("{error}"),
                    }
                    if least == SWAPS {
                        break;
                    }
                }
            });
        }
        for version in 2..=SWAPS {
            let replaced = replace(&registry, "default", version as f32).unwrap();
            assert_eq!(replaced.info.version, version);
            acknowledged.store(version, Ordering::SeqCst);
        }
    });
}

#[test]
fn writers_at_once_lose_nothing() {
    let registry = open(&MemoryStore::default());
    let numbers = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (registry, numbers) = (&registry, &numbers);
            scope.spawn(move || {
                for _ in 0..100 {
                    let replaced = replace(registry, "default", writer as f32).unwrap();
                    assert!(numbers.lock().unwrap().insert(replaced.info.version));
                }
            });
        }
    });
    assert_eq!(numbers.into_inner().unwrap(), (2..=401).collect());
    assert_eq!(registry.table().versions(&name("default")), [400, 401]);
}

#[test]
fn an_old_version_lives_as_long_as_its_last_user() {
    let registry = open(&MemoryStore::default());
    replace(&registry, "cats", 1.0).unwrap();
    let held = registry.table().resolve(&name("cats"), 1).unwrap();
    let pinned = acquire(&registry, &held).unwrap();
    let resident = Arc::downgrade(&pinned.resident);
    replace(&registry, "cats", 2.0).unwrap();
    replace(&registry, "cats", 3.0).unwrap();
    assert_eq!(pinned.resident.seed, 1.0);
    drop(held);
    assert!(resident.upgrade().is_some());
    drop(pinned);
    assert!(resident.upgrade().is_none());
    let error = registry.table().resolve(&name("cats"), 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "head `cats` has no version 1; it has [2, 3], and 0 is the live one"
    );
}

#[test]
fn an_unknown_head_gets_the_nearest_names() {
    let check = |heads: &[&str], asked: &str, nearest: &[&str]| {
        let limits = RegistryLimits {
            heads_max: 100,
            ..LIMITS
        };
        let registry = open_with(&MemoryStore::default(), limits);
        heads
            .iter()
            .for_each(|head| drop(replace(&registry, head, 1.0).unwrap()));
        match registry.table().resolve(&name(asked), 0) {
            Err(HeadError::UnknownHead { known, .. }) => assert_eq!(known, nearest),
            other => panic!("{other:?}"),
        }
    };
    check(&[], "cats", &["default"]);
    check(&["cats"], "cat", &["cats", "default"]);
    let many = ["a0", "a1", "a2", "a3", "a4", "a5", "x0", "x1", "x2", "x3", "x4", "x5"];
    check(&many, "x", &["a3", "a4", "a5", "default", "x0", "x1", "x2", "x3"]);
    check(&many, "zebra", &["a5", "default", "x0", "x1", "x2", "x3", "x4", "x5"]);
    check(&many, "0", &["a0", "a1", "a2", "a3", "a4", "a5", "default", "x0"]);
}

#[test]
fn limits_name_their_setting_and_change_nothing() {
    let check = |limits: RegistryLimits, head: &str, part: &str| {
        let registry = open_with(&MemoryStore::default(), limits);
        replace(&registry, "cats", 1.0).unwrap();
        let before = seen(&registry);
        let message = replace(&registry, head, 2.0).unwrap_err().to_string();
        assert!(message.contains(part), "{message:?} lacks {part:?}");
        assert_eq!(seen(&registry), before);
    };
    let heads = RegistryLimits { heads_max: 2, ..LIMITS };
    check(
        heads,
        "dogs",
        "there are 2 heads already, which is the limit; raise --heads-max",
    );
    let bytes = RegistryLimits {
        bytes_max: 3 * HEAD_BYTES - 1,
        ..LIMITS
    };
    check(
        bytes,
        "cats",
        "have 24 bytes and this one 12; the limit is 35; raise --heads-bytes-max",
    );

    // At the limit, a head that exists can be replaced.
    let registry = open_with(
        &MemoryStore::default(),
        RegistryLimits {
            bytes_max: 3 * HEAD_BYTES,
            ..heads
        },
    );
    replace(&registry, "cats", 1.0).unwrap();
    replace(&registry, "cats", 2.0).unwrap();
}

#[test]
fn acknowledged_heads_outlive_lower_limits() {
    let store = MemoryStore::default();
    let registry = open(&store);
    for (head, seed) in [("cats", 1.0), ("cats", 2.0), ("dogs", 3.0)] {
        replace(&registry, head, seed).unwrap();
    }
    let registry = open_with(
        &store,
        RegistryLimits {
            heads_max: 1,
            versions_kept: 1,
            bytes_max: 0,
            ..LIMITS
        },
    );
    let expected = [("cats", (2, 2.0)), ("default", (1, -1.0)), ("dogs", (1, 3.0))];
    assert_eq!(
        seen(&registry),
        expected.map(|(head, version)| (head.to_owned(), vec![version])).into()
    );
    assert_eq!(store.numbers("cats"), [2]);
}

#[test]
fn annotations_are_kept_and_bounded() {
    let registry = open(&MemoryStore::default());
    let check = |annotations: BTreeMap<String, String>, refused: Option<&str>| {
        let request = Replacement {
            annotations: annotations.clone(),
            ..replacement("cats", 1.0)
        };
        match (registry.replace(request, &Commit::default(), &Throttle::off()), refused) {
            (Ok(replaced), None) => assert_eq!(replaced.info.annotations, annotations),
            (Err(error @ HeadError::Annotations { .. }), Some(part)) => {
                let message = error.to_string();
                assert!(
                    message.contains(part) && message.len() < 500,
                    "{message:?} lacks {part:?}"
                );
            }
            (result, _) => panic!("{refused:?}: {result:?}"),
        }
    };
    let some = |count: usize| (0..count).map(|i| (i.to_string(), String::new())).collect();
    let one = |key: usize, value: usize| BTreeMap::from([("k".repeat(key), "v".repeat(value))]);
    check(some(64), None);
    check(some(65), Some("there are 65; the limit is 64"));
    check(one(128, 1024), None);
    check(one(129, 0), Some("has 129 bytes; the limit is 128"));
    check(one(1, 1025), Some("the value of `k` has 1025 bytes; the limit is 1024"));
    let default = registry.table().resolve(&name("default"), 1).unwrap();
    assert_eq!(default.info.annotations["source"], "backbone");
}

#[test]
fn a_dry_run_tells_the_version_that_it_would_be() {
    let (store, placed) = (MemoryStore::default(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&placed);
    let counted = move |_: &HeadWeights| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let registry = open_on(Arc::new(store.clone()), LIMITS, Box::new(counted)).unwrap();
    let request = Replacement {
        dry_run: true,
        ..replacement("default", 5.0)
    };
    let replaced = registry.replace(request, &Commit::default(), &Throttle::off()).unwrap();
    assert_eq!((replaced.info.version, replaced.previous_version), (2, 1));
    assert_eq!((replaced.store.as_nanos(), placed.load(Ordering::SeqCst)), (0, 2));
    assert!(store.numbers("default").is_empty());
    assert_eq!(registry.table().versions(&name("default")), [1]);
}

#[test]
fn a_store_that_cannot_count_refuses_rather_than_reuse_a_number() {
    let store = MemoryStore::default();
    let registry = open(&store);
    store.0.count_fails.store(true, Ordering::SeqCst);
    let error = replace(&registry, "default", 2.0).unwrap_err();
    assert!(error.to_string().starts_with("cannot write /a/full/disk: "), "{error}");
    assert_eq!(registry.table().versions(&name("default")), [1]);
}

#[test]
fn a_panic_while_placing_leaves_the_registry_at_work() {
    let panics = |weights: &HeadWeights| match seed_of(weights) {
        2.0 => panic!("a test's panic"),
        _ => Ok(()),
    };
    let registry = open_on(Arc::new(MemoryStore::default()), LIMITS, Box::new(panics)).unwrap();
    let swap = || replace(&registry, "default", 2.0);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(swap)).is_err());
    assert_eq!(registry.table().versions(&name("default")), [1]);
    assert_eq!(replace(&registry, "default", 3.0).unwrap().info.version, 2);
}

#[test]
fn a_stored_version_that_cannot_be_placed_gives_way_to_an_older_one() {
    let store = MemoryStore::default();
    let registry = open(&store);
    for (head, seed) in [("cats", 1.0), ("cats", 2.0), ("dogs", 2.0)] {
        replace(&registry, head, seed).unwrap();
    }
    let no_twos = |weights: &HeadWeights| match seed_of(weights) {
        2.0 => Err(PlaceError::Refused("out of memory".into())),
        _ => Ok(()),
    };
    let registry = open_on(Arc::new(store.clone()), LIMITS, Box::new(no_twos)).unwrap();
    assert_eq!(
        seen(&registry),
        [("cats", (1, 1.0)), ("default", (1, -1.0))]
            .map(|(h, v)| (h.into(), vec![v]))
            .into()
    );
    // Not lost: the numbers go on above it, and it is there when there is room again.
    assert_eq!(store.numbers("cats"), [1, 2]);
    assert_eq!(replace(&registry, "dogs", 3.0).unwrap().info.version, 2);
    assert_eq!(seen(&open(&store))["cats"], [(1, 1.0), (2, 2.0)]);

    let fails = |_: &HeadWeights| Err(PlaceError::Refused("no device".into()));
    let error = open_on(Arc::new(store), LIMITS, Box::new(fails)).err().unwrap();
    assert!(error.to_string().contains("no device"), "{error}");
}

/// The whole room on a real folder: acknowledged heads come back, damaged ones fall back, numbers are never reused.
#[test]
fn heads_on_disk_survive_restarts_and_damage() {
    let dir = tempfile::tempdir().unwrap();
    let backbone = Digest::of_parameters(&Parameters::new(), &[]);
    let limits = HeadLimits {
        classes_max: 4,
        features: 2,
        deeper: BTreeMap::new(),
    };
    let open = || {
        let store = DirStore::open(dir.path(), backbone, backbone, limits.clone()).unwrap();
        open_on(Arc::new(store), LIMITS, Box::new(|_| Ok(()))).unwrap()
    };
    let registry = open();
    for (head, seed) in [("cats", 1.0), ("cats", 2.0), ("cats", 3.0), ("default", 4.0)] {
        replace(&registry, head, seed).unwrap();
    }
    let before = seen(&registry);
    let registry = open();
    assert_eq!(seen(&registry), before);
    assert_eq!(before["cats"], [(2, 2.0), (3, 3.0)]);
    assert_eq!(before["default"], [(1, -1.0), (2, 4.0)]);

    let head = dir.path().join(backbone.short()).join("cats");
    let mut files: Vec<_> = std::fs::read_dir(&head)
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["2.safetensors", "3.safetensors"]);

    let newest = head.join("3.safetensors");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() - 1]).unwrap();
    let registry = open();
    assert_eq!(seen(&registry)["cats"], [(2, 2.0)]);
    let replaced = replace(&registry, "cats", 5.0).unwrap();
    assert_eq!((replaced.info.version, replaced.previous_version), (4, 2));
    assert!(newest.exists(), "a damaged file is never deleted");
    assert_eq!(seen(&open())["cats"], [(2, 2.0), (4, 5.0)]);

    // The highest number there is: nothing can follow it, and nothing changes.
    std::fs::write(head.join(format!("{}.safetensors", u64::MAX)), b"?").unwrap();
    let error = replace(&registry, "cats", 6.0).unwrap_err();
    assert!(error.to_string().contains("highest number"), "{error}");
}

/// What the metrics say now, without those that only grow.
fn gauges(metrics: &prometheus_client::registry::Registry) -> BTreeMap<String, i64> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, metrics).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| line.rsplit_once(' ').unwrap());
    values
        .filter(|(name, _)| !name.contains("_total") && !name.contains("seconds"))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// A registry with all metrics, whose device asks `device` first.
fn open_counted(store: &MemoryStore, device: Device) -> (Registry, prometheus_client::registry::Registry) {
    let mut metrics = prometheus_client::registry::Registry::default();
    let place = move |weights: &HeadWeights, room: Reservation| {
        device(weights)?;
        let seed = seed_of(weights);
        Ok(Resident { seed, _room: room })
    };
    let parts = RegistryParts {
        store: Arc::new(store.clone()),
        placer: Box::new(place),
        metrics: HeadMetrics::register(&mut metrics),
    };
    (Registry::open(parts, LIMITS, &weights(-1.0)).unwrap(), metrics)
}

/// Invariant 5: up to the commit, a caller that gives up leaves everything as it was, wherever the swap is.
#[test]
fn a_swap_that_its_caller_gave_up_changes_nothing() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum At {
        Queued,
        Placing,
        Staged,
    }
    for at in [At::Queued, At::Placing, At::Staged] {
        let (store, commit) = (MemoryStore::default(), Commit::default());
        let gives_up = commit.clone();
        let device = move |weights: &HeadWeights| {
            if at == At::Placing && seed_of(weights) == 2.0 {
                assert!(gives_up.abandon());
            }
            Ok(())
        };
        let (registry, metrics) = open_counted(&store, Box::new(device));
        replace(&registry, "cats", 1.0).unwrap();
        let (before, shown) = (seen(&registry), gauges(&metrics));
        match at {
            At::Queued => drop(commit.abandon()),
            At::Placing => {}
            At::Staged => {
                let gives_up = commit.clone();
                let stop: Stop = Arc::new(move || assert!(gives_up.abandon()));
                store.0.stops.lock().unwrap().insert("cats", stop);
            }
        }
        let error = registry
            .replace(replacement("cats", 2.0), &commit, &Throttle::off())
            .unwrap_err();
        assert!(matches!(error, HeadError::Cancelled), "{at:?}: {error}");
        assert_eq!((seen(&registry), gauges(&metrics)), (before, shown), "{at:?}");
        assert_eq!(
            (store.numbers("cats"), store.0.staged.load(Ordering::SeqCst)),
            (vec![1], 0)
        );
        // Its number was never seen, so the next one gets it.
        store.0.stops.lock().unwrap().clear();
        assert_eq!(replace(&registry, "cats", 3.0).unwrap().info.version, 2);
    }
}

/// A place where threads stop until they are let on.
#[derive(Default)]
struct Barrier {
    state: Mutex<(usize, bool)>,
    changed: std::sync::Condvar,
}

impl Barrier {
    /// Stops here.
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.1).unwrap());
    }

    /// Returns once so many threads have come.
    fn wait_for(&self, threads: usize) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.0 < threads).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// Opens when it is dropped, so that a test that fails does not wait for the threads that it stopped.
struct Opened<'a>(&'a Barrier);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Stops the thread that places a head of this number.
fn placing(barrier: &Arc<Barrier>, number: f32) -> Device {
    let barrier = Arc::clone(barrier);
    Box::new(move |weights| {
        if seed_of(weights) == number {
            barrier.pass();
        }
        Ok(())
    })
}

#[test]
fn swaps_of_other_heads_go_on_beside_one_that_is_blocked() {
    let (store, in_placing, in_writing) = (MemoryStore::default(), Arc::default(), Arc::<Barrier>::default());
    let registry = open_on(Arc::new(store.clone()), LIMITS, placing(&in_placing, 1.0)).unwrap();
    let stop = Arc::clone(&in_writing);
    store
        .0
        .stops
        .lock()
        .unwrap()
        .insert("dogs", Arc::new(move || stop.pass()));
    std::thread::scope(|scope| {
        let _opened = (Opened(&in_placing), Opened(&in_writing));
        let cats = scope.spawn(|| replace(&registry, "cats", 1.0).unwrap());
        let dogs = scope.spawn(|| replace(&registry, "dogs", 2.0).unwrap());
        in_placing.wait_for(1);
        in_writing.wait_for(1);
        for (version, seed) in [(1, 3.0), (2, 4.0)] {
            assert_eq!(replace(&registry, "birds", seed).unwrap().info.version, version);
        }
        assert_eq!(registry.table().count(), 2);
        in_placing.open();
        in_writing.open();
        assert_eq!(
            (cats.join().unwrap().info.version, dogs.join().unwrap().info.version),
            (1, 1)
        );
    });
    assert_eq!(registry.table().count(), 4);
}

/// What a swap under way will take counts already, and is given back if the swap fails.
#[test]
fn limits_hold_with_swaps_beside_each_other() {
    let check = |limits: RegistryLimits, setting: &str| {
        let (store, barrier) = (MemoryStore::default(), Arc::default());
        let stopped = placing(&barrier, 1.0);
        let device = move |weights: &HeadWeights| {
            stopped(weights)?;
            match seed_of(weights) {
                1.0 => Err(PlaceError::Refused("the trial gave NaN".into())),
                _ => Ok(()),
            }
        };
        let registry = open_on(Arc::new(store), limits, Box::new(device)).unwrap();
        std::thread::scope(|scope| {
            let _opened = Opened(&barrier);
            let fails = scope.spawn(|| replace(&registry, "cats", 1.0).unwrap_err());
            barrier.wait_for(1);
            let message = replace(&registry, "dogs", 2.0).unwrap_err().to_string();
            assert!(message.contains(setting), "{message}");
            let request = Replacement {
                dry_run: true,
                ..replacement("dogs", 2.0)
            };
            let message = registry
                .replace(request, &Commit::default(), &Throttle::off())
                .unwrap_err()
                .to_string();
            assert!(message.contains(setting), "{message}");
            barrier.open();
            fails.join().unwrap();
        });
        replace(&registry, "dogs", 2.0).unwrap();
    };
    check(RegistryLimits { heads_max: 2, ..LIMITS }, "--heads-max");
    let bytes_max = 2 * HEAD_BYTES;
    check(RegistryLimits { bytes_max, ..LIMITS }, "--heads-bytes-max");
}

/// Says that something has ended, also if that fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_gauge_of_the_live_version_never_goes_back() {
    const WRITERS: u64 = 8;
    const SWAPS: u64 = 60;
    let (registry, metrics) = open_counted(&MemoryStore::default(), Box::new(|_| Ok(())));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (registry, metrics, ended) = (&registry, &metrics, &ended);
        let writing = Ends(ended);
        scope.spawn(move || {
            let mut least = BTreeMap::<String, i64>::new();
            while !ended.load(Ordering::SeqCst) {
                let shown = gauges(metrics).into_iter();
                for (name, version) in shown.filter(|(name, _)| name.starts_with("live_head_version")) {
                    let before = least.insert(name, version).unwrap_or(0);
                    assert!(version >= before, "{version} after {before}");
                }
            }
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let head = ["cats", "dogs"][writer as usize % 2];
                    for _ in 0..SWAPS {
                        let version = replace(registry, head, writer as f32).unwrap().info.version as i64;
                        // Set before the swap returns.
                        let shown = gauges(metrics)[&format!("live_head_version{{head=\"{head}\"}}")];
                        assert!(shown >= version, "{shown} after {version}");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        drop(writing);
    });
    let shown = gauges(&metrics);
    for head in ["cats", "dogs"] {
        assert_eq!(
            shown[&format!("live_head_version{{head=\"{head}\"}}")],
            (SWAPS * WRITERS / 2) as i64
        );
    }
}

/// A file that the system does not read now is not damaged: it stays, and is read when it is asked for.
#[test]
fn a_file_that_cannot_be_read_now_is_not_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let backbone = Digest::of_parameters(&Parameters::new(), &[]);
    let limits = HeadLimits {
        classes_max: 4,
        features: 2,
        deeper: BTreeMap::new(),
    };
    let open = |eager: bool| {
        let store = DirStore::open(dir.path(), backbone, backbone, limits.clone()).unwrap();
        open_on(
            Arc::new(store),
            RegistryLimits { eager, ..LIMITS },
            Box::new(|_| Ok(())),
        )
        .unwrap()
    };
    replace(&open(false), "cats", 1.0).unwrap();
    let registry = open(false);
    let file = dir.path().join(backbone.short()).join("cats/1.safetensors");
    let aside = file.with_extension("aside");
    std::fs::rename(&file, &aside).unwrap();
    // ELOOP stands for all that is neither in the file nor its absence: EIO, EMFILE, ENOMEM.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let live = registry.table().resolve(&name("cats"), 0).unwrap();
    for _ in 0..2 {
        let error = acquire(&registry, &live).unwrap_err();
        assert!(matches!(*error, HeadError::Unreadable { .. }), "{error}");
        let error = registry.labels(&live).unwrap_err();
        assert!(matches!(error, HeadError::Unreadable { .. }), "{error}");
    }
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(acquire(&registry, &live).unwrap().resident.seed, 1.0);
    drop(registry);
    assert_eq!(seen(&open(true))["cats"], [(1, 1.0)]);
}
