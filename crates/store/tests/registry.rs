//! The registry of heads: compared to a simple model, read during swaps, at its limits, and after restarts.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use headswap_checkpoint::{Digest, HostTensor, Parameters, Throttle};
use headswap_heads::{
    Acquired, Backbones, Commit, HeadError, HeadInfo, HeadLimits, HeadMetrics, HeadName, HeadPlacer, HeadRegistry,
    HeadStore, HeadVersion, HeadWeights, KnownBackbone, PinnedHead, PlaceError, RegistryLimits, RegistryParts,
    Replaced, Replacement, Reservation, ResidencyLimits, StagedHead, StoreError, Urgency,
};
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT, Preset};
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
/// Bytes of a head with one class and two features.
const HEAD_BYTES: u64 = 12;

/// A version on the device of this test: the number that all its weights have.
#[derive(Debug)]
struct Resident {
    seed: f32,
    _reservation: Reservation,
}
type Registry = HeadRegistry<Resident>;

fn weights(seed: f32) -> HeadWeights {
    let parameters = Parameters::from([
        (
            LAST_WEIGHT.to_owned(),
            Arc::new(HostTensor::new(vec![1, 2], vec![seed; 2])),
        ),
        (LAST_BIAS.to_owned(), Arc::new(HostTensor::new(vec![1], vec![seed]))),
    ]);
    HeadWeights::new(parameters, Vec::new(), Preset::Torchvision.preprocessing())
}

fn seed_of(weights: &HeadWeights) -> f32 {
    weights.parameters[LAST_BIAS].values[0]
}

/// Accepts or refuses weights on the device.
type Device = Box<dyn Fn(&HeadWeights) -> Result<(), PlaceError> + Send + Sync>;

/// Places heads that the device accepts.
struct Placer(Device);

impl HeadPlacer<Resident> for Placer {
    fn place(&self, weights: &HeadWeights, reservation: Reservation) -> Result<Resident, PlaceError> {
        (self.0)(weights)?;
        Ok(Resident {
            seed: seed_of(weights),
            _reservation: reservation,
        })
    }
}

/// Opens a registry on a device that may fail.
fn open_on(store: Arc<dyn HeadStore>, limits: RegistryLimits, device: Device) -> Result<Registry, HeadError> {
    let parts = RegistryParts {
        store,
        placer: Box::new(Placer(device)),
        metrics: HeadMetrics::register(&mut prometheus_client::registry::Registry::default()),
    };
    Registry::open(parts, limits, Some(&weights(-1.0)))
}

/// Pins a version, and loads it if necessary.
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

/// A store in memory with switches to make it fail; clones share it.
#[derive(Clone, Default)]
struct MemoryStore(Arc<MemoryState>);

/// Called by the thread that stages a version.
type StageHook = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct MemoryState {
    /// The number of versions staged and not yet committed.
    staged: AtomicU64,
    /// Called when a version of the head is staged.
    stage_hooks: Mutex<BTreeMap<&'static str, StageHook>>,
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
        fail_if(&self.store.0.commit_fails)?;
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

fn fail_if(fails: &AtomicBool) -> Result<(), StoreError> {
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
        let hook = self.0.stage_hooks.lock().unwrap().get(info.name.as_str()).cloned();
        if let Some(hook) = hook {
            hook();
        }
        fail_if(&self.0.save_fails)?;
        Ok(Box::new(staged))
    }

    fn remove(&self, info: &HeadInfo) -> Result<(), StoreError> {
        fail_if(&self.0.remove_fails)?;
        self.0.heads.lock().unwrap().remove(&(info.name.clone(), info.version));
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
            reason: "it is missing".into(),
        })
    }

    fn labels(&self, info: &HeadInfo) -> Result<Vec<String>, HeadError> {
        Ok(self.load(info)?.labels.to_vec())
    }

    fn highest_version(&self, name: &HeadName) -> Result<u64, StoreError> {
        fail_if(&self.0.count_fails)?;
        Ok(self.numbers(name.as_str()).last().copied().unwrap_or(0))
    }
}

fn open_with(store: &MemoryStore, limits: RegistryLimits) -> Registry {
    let state = Arc::clone(&store.0);
    let device: Device = Box::new(move |_| match state.device_fails.load(Ordering::SeqCst) {
        true => Err(PlaceError::Refused("the trial gave NaN".into())),
        false => Ok(()),
    });
    open_on(Arc::new(store.clone()), limits, device).unwrap()
}

fn open(store: &MemoryStore) -> Registry {
    open_with(store, LIMITS)
}

/// Returns everything that a reader can see: every head's versions and their seeds.
fn seen(registry: &Registry) -> BTreeMap<String, Vec<(u64, f32)>> {
    let table = registry.table();
    let mut seen = BTreeMap::<String, Vec<(u64, f32)>>::new();
    for head in table.list() {
        let name = &head.info.name;
        for version in table.versions(name) {
            let pinned = acquire(registry, &table.resolve(name, version).unwrap()).unwrap();
            let versions = seen.entry(name.to_string()).or_default();
            versions.push((version, pinned.resident.seed));
        }
    }
    seen
}

#[derive(Clone, Debug)]
enum Step {
    Replace {
        head: usize,
        expected: Option<u64>,
        variant: Variant,
    },
    Restart,
}

/// How a replacement is requested, and what fails during it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    Plain,
    DryRun,
    PlaceFails,
    SaveFails,
    CommitFails,
    PruneFails,
    Cancelled,
}

const HEADS: [&str; 3] = ["default", "cats", "dogs"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let variant = prop_oneof![
        5 => Just(Variant::Plain), 1 => Just(Variant::DryRun), 1 => Just(Variant::PlaceFails),
        1 => Just(Variant::SaveFails), 1 => Just(Variant::CommitFails), 1 => Just(Variant::PruneFails),
        1 => Just(Variant::Cancelled),
    ];
    let expected = prop_oneof![3 => Just(None), 2 => (0..5u64).prop_map(Some)];
    let replace = (0..HEADS.len(), expected, variant);
    let replace = replace.prop_map(|(head, expected, variant)| Step::Replace {
        head,
        expected,
        variant,
    });
    proptest::collection::vec(prop_oneof![9 => replace, 1 => Just(Step::Restart)], 1..40)
}

/// The model of the registry: the versions of each head, oldest first, with their seeds.
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

/// Replaces a head and checks the result against the model.
fn check_replace(registry: &Registry, store: &MemoryStore, model: &mut Model, seed: f32, step: &Step) {
    let device_fails = &store.0.device_fails;
    let Step::Replace {
        head,
        expected,
        variant,
    } = *step
    else {
        return;
    };
    let head = HEADS[head];
    let live = model.live(head);
    let state = &store.0;
    state.save_fails.store(variant == Variant::SaveFails, Ordering::SeqCst);
    state
        .commit_fails
        .store(variant == Variant::CommitFails, Ordering::SeqCst);
    state
        .remove_fails
        .store(variant == Variant::PruneFails, Ordering::SeqCst);
    let request = Replacement {
        expected_version: expected,
        dry_run: variant == Variant::DryRun,
        ..replacement(head, seed)
    };
    device_fails.store(variant == Variant::PlaceFails, Ordering::SeqCst);
    let commit = Commit::default();
    if variant == Variant::Cancelled {
        assert!(commit.abandon());
    }
    let result = registry.replace(request, &commit, &Throttle::off());
    assert_eq!(store.0.staged.load(Ordering::SeqCst), 0);
    device_fails.store(false, Ordering::SeqCst);
    if variant == Variant::Cancelled {
        assert!(matches!(result.unwrap_err(), HeadError::Cancelled));
        return;
    }
    if let Some(stale) = expected.filter(|expected| *expected != live) {
        let error = result.unwrap_err();
        assert!(matches!(error, HeadError::VersionMismatch { live: l, expected: e } if (l, e) == (live, stale)));
        return;
    }
    match (variant, result) {
        (Variant::PlaceFails, Err(HeadError::Place(_)))
        | (Variant::SaveFails | Variant::CommitFails, Err(HeadError::Store(_))) => {}
        (Variant::Plain | Variant::PruneFails | Variant::DryRun, Ok(replaced)) => {
            assert_eq!((replaced.info.version, replaced.previous_version), (live + 1, live));
            assert_eq!(replaced.info.digest, weights(seed).digest);
            if variant != Variant::DryRun {
                model.publish(head, seed);
            }
        }
        (_, Ok(_)) => panic!("{variant:?} was accepted"),
        (_, Err(error)) => panic!("{variant:?}: {error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Invariants 5 and 6: acknowledged versions stay, also after restarts; failed swaps change nothing.
    #[test]
    fn the_registry_behaves_as_its_model(steps in steps()) {
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

/// Invariant 4, and that a reader sees a consistent version: its number, digest and seed on the device agree.
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
fn concurrent_writers_lose_no_version() {
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
fn a_retired_version_stays_on_the_device_until_it_is_unpinned() {
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
        "head `cats` has no version 1; it has [2, 3], and 0 stands for the live version"
    );
}

fn check_nearest(heads: &[&str], requested: &str, nearest: &[&str]) {
    let limits = RegistryLimits {
        heads_max: 100,
        ..LIMITS
    };
    let registry = open_with(&MemoryStore::default(), limits);
    for head in heads {
        replace(&registry, head, 1.0).unwrap();
    }
    match registry.table().resolve(&name(requested), 0) {
        Err(HeadError::UnknownHead { known, .. }) => assert_eq!(known, nearest),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_error_for_an_unknown_head_lists_the_nearest_names() {
    check_nearest(&[], "cats", &["default"]);
    check_nearest(&["cats"], "cat", &["cats", "default"]);
    let many = ["a0", "a1", "a2", "a3", "a4", "a5", "x0", "x1", "x2", "x3", "x4", "x5"];
    check_nearest(&many, "x", &["a3", "a4", "a5", "default", "x0", "x1", "x2", "x3"]);
    check_nearest(&many, "zebra", &["a5", "default", "x0", "x1", "x2", "x3", "x4", "x5"]);
    check_nearest(&many, "0", &["a0", "a1", "a2", "a3", "a4", "a5", "default", "x0"]);
}

#[test]
fn a_swap_beyond_a_limit_names_the_setting_and_changes_nothing() {
    let heads = RegistryLimits { heads_max: 2, ..LIMITS };
    let bytes = RegistryLimits {
        bytes_max: 3 * HEAD_BYTES - 1,
        ..LIMITS
    };
    for (limits, head, part) in [
        (
            heads,
            "dogs",
            "there are 2 heads already, which is the limit; raise --heads-max",
        ),
        (
            bytes,
            "cats",
            "have 24 bytes and this one 12; the limit is 35; raise --heads-bytes-max",
        ),
    ] {
        let registry = open_with(&MemoryStore::default(), limits);
        replace(&registry, "cats", 1.0).unwrap();
        let before = seen(&registry);
        let message = replace(&registry, head, 2.0).unwrap_err().to_string();
        assert!(message.contains(part), "{message:?} lacks {part:?}");
        assert_eq!(seen(&registry), before);
    }

    // At the limit, an existing head can be replaced.
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
fn acknowledged_heads_stay_when_the_limits_are_lowered() {
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
    for accepted in [many_annotations(64), one_annotation(128, 1024)] {
        let replaced = annotate(&registry, &accepted).unwrap();
        assert_eq!(replaced.info.annotations, accepted);
    }
    for (refused, part) in [
        (many_annotations(65), "there are 65; the limit is 64"),
        (one_annotation(129, 0), "has 129 bytes; the limit is 128"),
        (
            one_annotation(1, 1025),
            "the value of `k` has 1025 bytes; the limit is 1024",
        ),
    ] {
        let error = annotate(&registry, &refused).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, HeadError::Annotations { .. }), "{message}");
        assert!(
            message.contains(part) && message.len() < 500,
            "{message:?} lacks {part:?}"
        );
    }
    let default = registry.table().resolve(&name("default"), 1).unwrap();
    assert_eq!(default.info.annotations["source"], "backbone");
}

fn annotate(registry: &Registry, annotations: &BTreeMap<String, String>) -> Result<Replaced, HeadError> {
    let request = Replacement {
        annotations: annotations.clone(),
        ..replacement("cats", 1.0)
    };
    registry.replace(request, &Commit::default(), &Throttle::off())
}

fn many_annotations(count: usize) -> BTreeMap<String, String> {
    (0..count).map(|i| (i.to_string(), String::new())).collect()
}

fn one_annotation(key_bytes: usize, value_bytes: usize) -> BTreeMap<String, String> {
    BTreeMap::from([("k".repeat(key_bytes), "v".repeat(value_bytes))])
}

#[test]
fn a_dry_run_returns_the_next_version_and_changes_nothing() {
    let (store, placed) = (MemoryStore::default(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&placed);
    let device: Device = Box::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let registry = open_on(Arc::new(store.clone()), LIMITS, device).unwrap();
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
fn a_swap_fails_if_the_store_cannot_report_the_highest_version() {
    let store = MemoryStore::default();
    let registry = open(&store);
    store.0.count_fails.store(true, Ordering::SeqCst);
    let error = replace(&registry, "default", 2.0).unwrap_err();
    assert!(error.to_string().starts_with("cannot write /a/full/disk: "), "{error}");
    assert_eq!(registry.table().versions(&name("default")), [1]);
}

#[test]
fn the_registry_works_on_after_a_panic_while_placing() {
    let device: Device = Box::new(|weights| match seed_of(weights) {
        2.0 => panic!("a test's panic"),
        _ => Ok(()),
    });
    let registry = open_on(Arc::new(MemoryStore::default()), LIMITS, device).unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| replace(&registry, "default", 2.0)));
    assert!(result.is_err());
    assert_eq!(registry.table().versions(&name("default")), [1]);
    assert_eq!(replace(&registry, "default", 3.0).unwrap().info.version, 2);
}

#[test]
fn an_older_version_replaces_a_stored_one_that_cannot_be_placed() {
    let store = MemoryStore::default();
    let registry = open(&store);
    for (head, seed) in [("cats", 1.0), ("cats", 2.0), ("dogs", 2.0)] {
        replace(&registry, head, seed).unwrap();
    }
    let device: Device = Box::new(|weights| match seed_of(weights) {
        2.0 => Err(PlaceError::Refused("out of memory".into())),
        _ => Ok(()),
    });
    let registry = open_on(Arc::new(store.clone()), LIMITS, device).unwrap();
    assert_eq!(
        seen(&registry),
        [("cats", (1, 1.0)), ("default", (1, -1.0))]
            .map(|(h, v)| (h.into(), vec![v]))
            .into()
    );
    // It is not lost: later numbers are higher, and it is live again once the device can place it.
    assert_eq!(store.numbers("cats"), [1, 2]);
    assert_eq!(replace(&registry, "dogs", 3.0).unwrap().info.version, 2);
    assert_eq!(seen(&open(&store))["cats"], [(1, 1.0), (2, 2.0)]);

    let device: Device = Box::new(|_| Err(PlaceError::Refused("no device".into())));
    let error = open_on(Arc::new(store), LIMITS, device).err().unwrap();
    assert!(error.to_string().contains("no device"), "{error}");
}

fn backbone() -> Digest {
    Digest::of_parameters(&Parameters::new(), &[])
}

/// Opens a registry on a real directory.
fn open_dir(dir: &Path, limits: RegistryLimits) -> Registry {
    let head_limits = HeadLimits {
        classes_max: 4,
        architecture: Architecture::Vgg16Narrow,
        require_spec: false,
        backbones: Backbones::new(
            KnownBackbone::of_any_heads("default", backbone(), Preset::Torchvision.preprocessing()),
            [],
        ),
    };
    let store = DirStore::open(dir, head_limits.backbones).unwrap();
    open_on(Arc::new(store), limits, Box::new(|_| Ok(()))).unwrap()
}

/// On a real directory, acknowledged heads survive, an older version replaces a damaged one, and numbers are not reused.
#[test]
fn heads_on_disk_survive_restarts_and_damage() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open_dir(dir.path(), LIMITS);
    for (head, seed) in [("cats", 1.0), ("cats", 2.0), ("cats", 3.0), ("default", 4.0)] {
        replace(&registry, head, seed).unwrap();
    }
    let before = seen(&registry);
    let registry = open_dir(dir.path(), LIMITS);
    assert_eq!(seen(&registry), before);
    assert_eq!(before["cats"], [(2, 2.0), (3, 3.0)]);
    assert_eq!(before["default"], [(1, -1.0), (2, 4.0)]);

    let head = dir.path().join(backbone().short()).join("cats");
    let mut files: Vec<_> = std::fs::read_dir(&head)
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["2.safetensors", "3.safetensors"]);

    let newest = head.join("3.safetensors");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() - 1]).unwrap();
    let registry = open_dir(dir.path(), LIMITS);
    assert_eq!(seen(&registry)["cats"], [(2, 2.0)]);
    let replaced = replace(&registry, "cats", 5.0).unwrap();
    assert_eq!((replaced.info.version, replaced.previous_version), (4, 2));
    assert!(newest.exists(), "a damaged file is never deleted");
    assert_eq!(seen(&open_dir(dir.path(), LIMITS))["cats"], [(2, 2.0), (4, 5.0)]);

    // No number can follow the highest one, so the swap fails.
    std::fs::write(head.join(format!("{}.safetensors", u64::MAX)), b"?").unwrap();
    let error = replace(&registry, "cats", 6.0).unwrap_err();
    assert!(error.to_string().contains("highest number"), "{error}");
}

/// Returns the current values of all gauges.
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

/// Opens a registry and returns its metrics, too.
fn open_with_metrics(store: &MemoryStore, device: Device) -> (Registry, prometheus_client::registry::Registry) {
    let mut metrics = prometheus_client::registry::Registry::default();
    let parts = RegistryParts {
        store: Arc::new(store.clone()),
        placer: Box::new(Placer(device)),
        metrics: HeadMetrics::register(&mut metrics),
    };
    (Registry::open(parts, LIMITS, Some(&weights(-1.0))).unwrap(), metrics)
}

/// Invariant 5: if the caller gives up at any step before the commit, nothing changes.
#[test]
fn a_swap_abandoned_before_its_commit_changes_nothing() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum At {
        Queued,
        Placing,
        Staged,
    }
    for at in [At::Queued, At::Placing, At::Staged] {
        let (store, commit) = (MemoryStore::default(), Commit::default());
        let caller = commit.clone();
        let device: Device = Box::new(move |weights| {
            if at == At::Placing && seed_of(weights) == 2.0 {
                assert!(caller.abandon());
            }
            Ok(())
        });
        let (registry, metrics) = open_with_metrics(&store, device);
        replace(&registry, "cats", 1.0).unwrap();
        let before = (seen(&registry), gauges(&metrics));
        match at {
            At::Queued => drop(commit.abandon()),
            At::Placing => {}
            At::Staged => {
                let caller = commit.clone();
                let hook: StageHook = Arc::new(move || assert!(caller.abandon()));
                store.0.stage_hooks.lock().unwrap().insert("cats", hook);
            }
        }
        let error = registry
            .replace(replacement("cats", 2.0), &commit, &Throttle::off())
            .unwrap_err();
        assert!(matches!(error, HeadError::Cancelled), "{at:?}: {error}");
        assert_eq!((seen(&registry), gauges(&metrics)), before, "{at:?}");
        assert_eq!(
            (store.numbers("cats"), store.0.staged.load(Ordering::SeqCst)),
            (vec![1], 0)
        );
        // Its number was never published, so the next swap gets it.
        store.0.stage_hooks.lock().unwrap().clear();
        assert_eq!(replace(&registry, "cats", 3.0).unwrap().info.version, 2);
    }
}

/// Blocks threads until it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: std::sync::Condvar,
}

#[derive(Default)]
struct GateState {
    arrived: usize,
    open: bool,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.arrived += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.open).unwrap());
    }

    /// Returns once `threads` threads have arrived.
    fn wait_for(&self, threads: usize) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.arrived < threads).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }
}

/// Opens a gate when dropped, so that a failing test does not wait for blocked threads.
struct OpenOnDrop<'a>(&'a Gate);

impl Drop for OpenOnDrop<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Returns a device that blocks the thread that places a head of this seed.
fn gated_device(gate: &Arc<Gate>, seed: f32) -> Device {
    let gate = Arc::clone(gate);
    Box::new(move |weights| {
        if seed_of(weights) == seed {
            gate.pass();
        }
        Ok(())
    })
}

#[test]
fn a_blocked_swap_does_not_delay_swaps_of_other_heads() {
    let (store, placing, writing) = (MemoryStore::default(), Arc::default(), Arc::<Gate>::default());
    let registry = open_on(Arc::new(store.clone()), LIMITS, gated_device(&placing, 1.0)).unwrap();
    let gate = Arc::clone(&writing);
    let hook: StageHook = Arc::new(move || gate.pass());
    store.0.stage_hooks.lock().unwrap().insert("dogs", hook);
    std::thread::scope(|scope| {
        let _open = (OpenOnDrop(&placing), OpenOnDrop(&writing));
        let cats = scope.spawn(|| replace(&registry, "cats", 1.0).unwrap());
        let dogs = scope.spawn(|| replace(&registry, "dogs", 2.0).unwrap());
        placing.wait_for(1);
        writing.wait_for(1);
        for (version, seed) in [(1, 3.0), (2, 4.0)] {
            assert_eq!(replace(&registry, "birds", seed).unwrap().info.version, version);
        }
        assert_eq!(registry.table().count(), 2);
        placing.open();
        writing.open();
        assert_eq!(
            (cats.join().unwrap().info.version, dogs.join().unwrap().info.version),
            (1, 1)
        );
    });
    assert_eq!(registry.table().count(), 4);
}

/// A swap in progress counts toward the limits, and stops counting if it fails.
#[test]
fn limits_hold_for_concurrent_swaps() {
    check_concurrent_swaps(RegistryLimits { heads_max: 2, ..LIMITS }, "--heads-max");
    let bytes_max = 2 * HEAD_BYTES;
    check_concurrent_swaps(RegistryLimits { bytes_max, ..LIMITS }, "--heads-bytes-max");
}

fn check_concurrent_swaps(limits: RegistryLimits, setting: &str) {
    let (store, gate) = (MemoryStore::default(), Arc::default());
    let gated = gated_device(&gate, 1.0);
    let device: Device = Box::new(move |weights| {
        gated(weights)?;
        match seed_of(weights) {
            1.0 => Err(PlaceError::Refused("the trial gave NaN".into())),
            _ => Ok(()),
        }
    });
    let registry = open_on(Arc::new(store), limits, device).unwrap();
    std::thread::scope(|scope| {
        let _open = OpenOnDrop(&gate);
        let fails = scope.spawn(|| replace(&registry, "cats", 1.0).unwrap_err());
        gate.wait_for(1);
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
        gate.open();
        fails.join().unwrap();
    });
    replace(&registry, "dogs", 2.0).unwrap();
}

/// Sets a flag when dropped, also by a panic.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_gauge_of_the_live_version_never_decreases() {
    const WRITERS: u64 = 8;
    const SWAPS: u64 = 60;
    let (registry, metrics) = open_with_metrics(&MemoryStore::default(), Box::new(|_| Ok(())));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (registry, metrics, ended) = (&registry, &metrics, &ended);
        let writing = SetOnDrop(ended);
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

/// A file that the system fails to read is not treated as damaged: it stays, and the next request reads it again.
#[test]
fn an_unreadable_file_is_read_again_by_the_next_request() {
    let dir = tempfile::tempdir().unwrap();
    let lazy = RegistryLimits { eager: false, ..LIMITS };
    replace(&open_dir(dir.path(), lazy), "cats", 1.0).unwrap();
    let registry = open_dir(dir.path(), lazy);
    let file = dir.path().join(backbone().short()).join("cats/1.safetensors");
    let aside = file.with_extension("aside");
    std::fs::rename(&file, &aside).unwrap();
    // ELOOP stands for the errors that are not the file's fault: EIO, EMFILE, ENOMEM.
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
    assert_eq!(seen(&open_dir(dir.path(), LIMITS))["cats"], [(1, 1.0)]);
}
