//! Concurrent administration: order, limits, callers that give up, and reads during swaps.
//!
//! The store and the device stop at breakpoints of the tests, so that every order is forced and none is timed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use headswap_checkpoint::{Digest, HostTensor, Parameters, Throttle};
use headswap_heads::{
    Backbones, HeadError, HeadInfo, HeadLimits, HeadMetrics, HeadName, HeadPlacer, HeadRegistry, HeadRequest,
    HeadStore, HeadWeights, KnownBackbone, PlaceError, RegistryLimits, RegistryParts, Reservation, ResidencyLimits,
    StagedHead, StoreError,
};
use headswap_model::PlacedHead;
use headswap_service::heads::{HeadQuery, HeadUpload, Source, SourceSettings, Swap, Swapped, UploadHeader};
use headswap_service::{HeadAdmin, HeadAdminParts, ModelInfo, ServiceError};
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT, Preset};
use headswap_store::DirStore;
use tokio::task::JoinHandle;

/// A step of a swap or a read at which a thread can stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Placing,
    Staging,
    Committing,
    ReadingLabels,
}

/// Breakpoints, by step and by the label or name of the head.
#[derive(Default)]
struct Breakpoints {
    states: Mutex<BTreeMap<(At, String), Breakpoint>>,
    changed: Condvar,
}

#[derive(Default)]
struct Breakpoint {
    hits: usize,
    released: bool,
}

impl Breakpoints {
    fn set(&self, at: At, label: &str) {
        self.states
            .lock()
            .unwrap()
            .insert((at, label.into()), Breakpoint::default());
    }

    /// Blocks until the breakpoint, if one is set, is released.
    fn pass(&self, at: At, label: &str) {
        let mut states = self.states.lock().unwrap();
        let key = (at, label.to_owned());
        let Some(breakpoint) = states.get_mut(&key) else { return };
        breakpoint.hits += 1;
        self.changed.notify_all();
        drop(
            self.changed
                .wait_while(states, |states| !states[&key].released)
                .unwrap(),
        );
    }

    /// Returns once the breakpoint has been hit `hits` times.
    fn wait_for(&self, at: At, label: &str, hits: usize) {
        let key = (at, label.to_owned());
        let states = self.states.lock().unwrap();
        drop(
            self.changed
                .wait_while(states, |states| states[&key].hits < hits)
                .unwrap(),
        );
    }

    fn hits(&self, at: At, label: &str) -> usize {
        self.states.lock().unwrap()[&(at, label.to_owned())].hits
    }

    fn release_all(&self) {
        for breakpoint in self.states.lock().unwrap().values_mut() {
            breakpoint.released = true;
        }
        self.changed.notify_all();
    }

    fn release(&self, at: At, label: &str) {
        let key = (at, label.to_owned());
        self.states.lock().unwrap().get_mut(&key).unwrap().released = true;
        self.changed.notify_all();
    }
}

/// A store on the disk with breakpoints.
struct Store {
    store: DirStore,
    breakpoints: Arc<Breakpoints>,
}

struct Staged {
    staged: Box<dyn StagedHead>,
    label: String,
    breakpoints: Arc<Breakpoints>,
}

impl StagedHead for Staged {
    fn commit(self: Box<Self>) -> Result<Duration, StoreError> {
        self.breakpoints.pass(At::Committing, &self.label);
        self.staged.commit()
    }
}

impl HeadStore for Store {
    fn stage(
        &self,
        info: &HeadInfo,
        weights: &HeadWeights,
        throttle: &Throttle,
    ) -> Result<Box<dyn StagedHead>, StoreError> {
        let (staged, label) = (self.store.stage(info, weights, throttle)?, weights.labels[0].clone());
        let breakpoints = Arc::clone(&self.breakpoints);
        breakpoints.pass(At::Staging, &label);
        Ok(Box::new(Staged {
            staged,
            label,
            breakpoints,
        }))
    }

    fn remove(&self, info: &HeadInfo) -> Result<(), StoreError> {
        self.store.remove(info)
    }

    fn list(&self) -> Result<Vec<HeadInfo>, StoreError> {
        self.store.list()
    }

    fn load(&self, info: &HeadInfo) -> Result<HeadWeights, HeadError> {
        self.store.load(info)
    }

    fn labels(&self, info: &HeadInfo) -> Result<Vec<String>, HeadError> {
        self.breakpoints.pass(At::ReadingLabels, info.name.as_str());
        self.store.labels(info)
    }

    fn highest_version(&self, name: &HeadName) -> Result<u64, StoreError> {
        self.store.highest_version(name)
    }
}

const UPLOADS_MAX: usize = 4;
/// Bytes of a head with two classes and 128 features.
const HEAD_BYTES: usize = 1032;

const REGISTRY_LIMITS: RegistryLimits = RegistryLimits {
    heads_max: 100,
    versions_kept: 1,
    bytes_max: 1 << 20,
    eager: false,
    residency: ResidencyLimits {
        resident_bytes_max: 1 << 20,
        warm_bytes_max: 0,
        loads_max: 1,
    },
};

/// Places heads on a device with breakpoints.
struct Placer(Arc<Breakpoints>);

impl HeadPlacer<PlacedHead> for Placer {
    fn place(&self, weights: &HeadWeights, reservation: Reservation) -> Result<PlacedHead, PlaceError> {
        self.0.pass(At::Placing, &weights.labels[0]);
        Ok(PlacedHead::new(&weights.spec, weights.classes(), HEAD_BYTES, Box::new(())).keeping(reservation))
    }
}

/// Administration on a directory, with its metrics.
struct Bench {
    dir: PathBuf,
    breakpoints: Arc<Breakpoints>,
    metrics: prometheus_client::registry::Registry,
    admin: Arc<HeadAdmin>,
}

impl Drop for Bench {
    /// Releases all threads, so that a failing test does not wait for them.
    fn drop(&mut self) {
        self.breakpoints.release_all();
    }
}

impl Bench {
    fn new(dir: &Path) -> Self {
        let breakpoints = Arc::<Breakpoints>::default();
        let mut metrics = prometheus_client::registry::Registry::default();
        let limits = HeadLimits {
            classes_max: 4,
            architecture: Architecture::Vgg16Narrow,
            require_spec: false,
            backbones: Backbones::new(
                KnownBackbone::of_any_heads("default", Digest::of_backbone([]), Preset::Torchvision.preprocessing()),
                [],
            ),
        };
        let store = DirStore::open(dir, limits.backbones.clone()).unwrap();
        let uploads = store.uploads(1 << 20).unwrap();
        let head_metrics = HeadMetrics::register(&mut metrics);
        let parts = RegistryParts {
            store: Arc::new(Store {
                store,
                breakpoints: Arc::clone(&breakpoints),
            }),
            placer: Box::new(Placer(Arc::clone(&breakpoints))),
            metrics: head_metrics.clone(),
        };
        let own = HeadWeights::new(weights(), labels("own"), Preset::Torchvision.preprocessing());
        let registry = HeadRegistry::open(parts, REGISTRY_LIMITS, Some(&own));
        let backbones = Arc::new(limits.backbones.clone());
        let admin = HeadAdmin::new(HeadAdminParts {
            registry: Arc::new(registry.unwrap()),
            limits,
            uploads,
            uploads_max: UPLOADS_MAX,
            trial_bytes_max: 1 << 20,
            sources: SourceSettings {
                dir: None,
                bytes_max: 0,
            },
            model: ModelInfo {
                architecture: Architecture::Vgg16Narrow,
                backbones,
                device: String::new(),
                precision: String::new(),
                max_batch: 1,
            },
            in_flight: prometheus_client::metrics::gauge::Gauge::default(),
            metrics: head_metrics,
        });
        Self {
            dir: dir.to_owned(),
            breakpoints,
            metrics,
            admin: Arc::new(admin),
        }
    }

    /// Starts a swap. Its label selects the breakpoints at which it stops.
    fn start(&self, head: &str, label: &str) -> JoinHandle<Result<Swapped, ServiceError>> {
        self.start_until(head, label, None)
    }

    fn start_until(
        &self,
        head: &str,
        label: &str,
        deadline: Option<tokio::time::Instant>,
    ) -> JoinHandle<Result<Swapped, ServiceError>> {
        let (admin, swap) = (Arc::clone(&self.admin), swap(head, label));
        tokio::spawn(async move { admin.replace(swap, source(), deadline).await })
    }

    async fn replace(&self, head: &str, label: &str) -> u64 {
        let swapped = self.start(head, label).await.unwrap().unwrap();
        swapped.head.info.version
    }

    /// Waits until a thread has hit the breakpoint. A paused clock does not advance while this waits.
    async fn stopped(&self, at: At, label: &'static str) {
        let breakpoints = Arc::clone(&self.breakpoints);
        let stopped = tokio::task::spawn_blocking(move || breakpoints.wait_for(at, label, 1));
        stopped.await.unwrap();
    }

    /// Starts an upload and sends its whole file.
    async fn upload(&self, head: &str, label: &str) -> HeadUpload {
        self.upload_until(head, label, None).await
    }

    async fn upload_until(&self, head: &str, label: &str, deadline: Option<tokio::time::Instant>) -> HeadUpload {
        let header = UploadHeader {
            swap: swap(head, label),
            ..UploadHeader::default()
        };
        let mut upload = self.admin.begin_upload(header, deadline).unwrap();
        assert!(upload.write(file().into()).await);
        upload
    }

    /// Returns every file below the directory of heads.
    fn files(&self) -> Vec<PathBuf> {
        let (mut files, mut dirs) = (Vec::new(), vec![self.dir.clone()]);
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { &mut dirs } else { &mut files }.push(path);
            }
        }
        files.sort();
        files
    }

    /// Returns all files and metrics, which a failed swap must not change.
    fn state(&self) -> (Vec<PathBuf>, BTreeMap<String, i64>) {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let values = lines.map(|line| line.rsplit_once(' ').unwrap());
        let gauges = values
            .filter(|(name, _)| !name.contains("seconds"))
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
        (self.files(), gauges.collect())
    }

    /// Waits until the state equals `before`.
    async fn settles_to(&self, before: &(Vec<PathBuf>, BTreeMap<String, i64>)) {
        while self.state() != *before {
            tokio::task::yield_now().await;
        }
    }
}

fn weights() -> Parameters {
    let (weight, bias) = (
        HostTensor::new(vec![2, 128], vec![1.0; 256]),
        HostTensor::new(vec![2], vec![1.0; 2]),
    );
    Parameters::from([
        (LAST_WEIGHT.to_owned(), Arc::new(weight)),
        (LAST_BIAS.to_owned(), Arc::new(bias)),
    ])
}

fn file() -> Vec<u8> {
    let parameters = weights();
    let tensors = parameters.iter().map(|(name, tensor)| (name, &**tensor));
    safetensors::serialize(tensors, None).unwrap()
}

fn source() -> Source {
    Source::Bytes(file().into())
}

fn swap(head: &str, label: &str) -> Swap {
    Swap {
        head: head.into(),
        request: HeadRequest {
            labels: labels(label),
            spec: None,
            ..HeadRequest::default()
        },
        ..Swap::default()
    }
}

/// Returns a head's labels, the first of which selects breakpoints.
fn labels(first: &str) -> Vec<String> {
    vec![first.into(), "other".into()]
}

/// Lets every task that can run do so.
async fn run_tasks() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_of_one_head_run_in_order_of_arrival() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.breakpoints.set(At::Placing, "first");
    let first = bench.start("cats", "first");
    bench.breakpoints.wait_for(At::Placing, "first", 1);
    // Each is polled once, in this order, so that they wait in this order.
    let waiting: Vec<_> = (2..20)
        .map(|number| {
            let (admin, swap) = (Arc::clone(&bench.admin), swap("cats", &number.to_string()));
            let mut call = Box::pin(async move { admin.replace(swap, source(), None).await });
            assert!((&mut call).now_or_never().is_none());
            (number, call)
        })
        .collect();
    // A swap of another head does not wait for them.
    assert_eq!(bench.replace("dogs", "a dog").await, 1);
    bench.breakpoints.release(At::Placing, "first");
    assert_eq!(first.await.unwrap().unwrap().head.info.version, 1);
    let calls: Vec<_> = waiting
        .into_iter()
        .map(|(number, call)| async move {
            let swapped = call.await.unwrap();
            assert_eq!(
                (swapped.head.info.version, swapped.previous_version),
                (number, number - 1)
            );
        })
        .collect();
    futures::future::join_all(calls).await;
    assert_eq!(
        bench.admin.get("cats", 0).await.unwrap().head.labels[..],
        ["19", "other"]
    );
}

/// A small swap waits neither for the maximum number of blocked uploads nor for blocked swaps of other heads. When all
/// threads of small swaps are blocked, further ones wait and can be cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_swaps_wait_for_no_other() {
    const SMALL_SWAPS_MAX: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.breakpoints.set(At::Placing, "large");
    let mut uploads = Vec::new();
    for number in 0..UPLOADS_MAX {
        let upload = bench.upload(&format!("large-{number}"), "large").await;
        uploads.push(tokio::spawn(upload.finish()));
    }
    bench.breakpoints.wait_for(At::Placing, "large", UPLOADS_MAX);
    assert_eq!(bench.replace("cats", "small").await, 1);

    for at in [At::Placing, At::Staging, At::Committing] {
        bench.breakpoints.set(at, "blocked");
        let blocked = bench.start("dogs", "blocked");
        bench.breakpoints.wait_for(at, "blocked", 1);
        bench.replace("cats", "small").await;
        bench.breakpoints.release(at, "blocked");
        blocked.await.unwrap().unwrap();
    }

    bench.breakpoints.set(At::Placing, "many");
    let blocked: Vec<_> = (0..2 * SMALL_SWAPS_MAX)
        .map(|number| bench.start(&format!("head-{number}"), "many"))
        .collect();
    bench.breakpoints.wait_for(At::Placing, "many", SMALL_SWAPS_MAX);
    let gives_up = bench.start("head-0", "gives up");
    run_tasks().await;
    assert_eq!(bench.breakpoints.hits(At::Placing, "many"), SMALL_SWAPS_MAX);
    gives_up.abort();
    assert!(gives_up.await.unwrap_err().is_cancelled());
    bench.breakpoints.release(At::Placing, "many");
    for swap in blocked {
        assert_eq!(swap.await.unwrap().unwrap().head.info.version, 1);
    }
    assert_eq!(bench.replace("head-0", "next").await, 2);
    bench.breakpoints.release(At::Placing, "large");
    for upload in uploads {
        assert_eq!(upload.await.unwrap().unwrap().head.info.version, 1);
    }
}

/// Invariant 5: a call that is cancelled or expires before the commit changes nothing and leaves no file. The paused clock
/// advances to the deadline when no task can run.
#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_before_the_commit_changes_nothing() {
    for at in [At::Placing, At::Staging] {
        for (upload, deadline) in [(false, false), (false, true), (true, false), (true, true)] {
            let dir = tempfile::tempdir().unwrap();
            let bench = Bench::new(dir.path());
            bench.replace("cats", "before").await;
            let before = bench.state();
            bench.breakpoints.set(at, "given up");
            let until = deadline.then(|| tokio::time::Instant::now() + Duration::from_secs(3600));
            let call = if upload {
                let upload = bench.upload_until("cats", "given up", until).await;
                tokio::spawn(upload.finish())
            } else {
                bench.start_until("cats", "given up", until)
            };
            bench.stopped(at, "given up").await;
            if deadline {
                let error = call.await.unwrap().unwrap_err();
                assert!(matches!(error, ServiceError::Expired { .. }), "{error}");
                assert!(error.to_string().contains("nothing was changed"), "{error}");
            } else {
                call.abort();
                assert!(call.await.unwrap_err().is_cancelled());
            }
            bench.breakpoints.release(at, "given up");
            bench.settles_to(&before).await;
            let got = bench.admin.get("cats", 0).await.unwrap();
            assert_eq!((got.head.info.version, &got.head.labels[0][..]), (1, "before"));
            assert_eq!(bench.replace("cats", "next").await, 2);
        }
    }
}

/// The same while the file is read, here from a pipe that stays empty until the caller has given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_while_its_file_is_read_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let before = bench.state();
    let upload = bench.upload("cats", "given up").await;
    let part = loop {
        let mut files = bench.files().into_iter();
        match files.find(|path| path.metadata().is_ok_and(|part| part.len() == file().len() as u64)) {
            Some(part) => break part,
            None => tokio::task::yield_now().await,
        }
    };
    std::fs::remove_file(&part).unwrap();
    let path = std::ffi::CString::new(part.as_os_str().as_bytes()).unwrap();
    // SAFETY: mkfifo reads a string that ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let call = tokio::spawn(upload.finish());
    run_tasks().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // Opening fails until the pipe's other end is open for reading.
    let mut other_end = std::fs::OpenOptions::new();
    other_end.write(true).custom_flags(libc::O_NONBLOCK);
    while part.exists() && other_end.open(&part).is_err() {
        tokio::task::yield_now().await;
    }
    bench.settles_to(&before).await;
    assert_eq!(bench.replace("cats", "next").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_has_begun_finishes_after_cancellation() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.breakpoints.set(At::Committing, "begun");
    let call = bench.start("cats", "begun");
    bench.breakpoints.wait_for(At::Committing, "begun", 1);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let next = bench.start("cats", "next");
    bench.breakpoints.release(At::Committing, "begun");
    let next = next.await.unwrap().unwrap();
    assert_eq!((next.head.info.version, next.previous_version), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_deadline_passes_during_the_commit_gets_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.breakpoints.set(At::Committing, "begun");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
    let mut call = bench.start_until("cats", "begun", Some(deadline));
    bench.stopped(At::Committing, "begun").await;
    tokio::time::advance(Duration::from_secs(7200)).await;
    run_tasks().await;
    assert!((&mut call).now_or_never().is_none());
    bench.breakpoints.release(At::Committing, "begun");
    assert_eq!(call.await.unwrap().unwrap().head.info.version, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_upload_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let before = bench.state();
    let uploads: Vec<_> = futures::future::join_all((0..UPLOADS_MAX).map(|_| bench.upload("cats", "half"))).await;
    let header = UploadHeader {
        swap: swap("cats", "one too many"),
        ..UploadHeader::default()
    };
    let refused = bench.admin.begin_upload(header, None).err().unwrap();
    assert!(
        matches!(
            refused,
            ServiceError::Exhausted {
                setting: "--uploads-max",
                ..
            }
        ),
        "{refused}"
    );
    drop(uploads);
    bench.settles_to(&before).await;
    assert!(bench.admin.get("cats", 0).await.is_err());
}

/// A swap retires the version that is being read and removes its file, which must not be reported as damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_during_a_swap_return_the_live_version() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.replace("cats", "old").await;
    // After a restart the head is only in the store, so its labels are read from there.
    drop(bench);
    let bench = Bench::new(dir.path());
    bench.breakpoints.set(At::ReadingLabels, "cats");
    let live = tokio::spawn({
        let admin = Arc::clone(&bench.admin);
        async move { admin.get("cats", 0).await }
    });
    let by_number = tokio::spawn({
        let admin = Arc::clone(&bench.admin);
        async move { admin.get("cats", 1).await }
    });
    let listed = tokio::spawn({
        let query = HeadQuery {
            include_labels: true,
            name_prefix: "cats".into(),
            ..HeadQuery::default()
        };
        let admin = Arc::clone(&bench.admin);
        async move { admin.list(query).await }
    });
    bench.breakpoints.wait_for(At::ReadingLabels, "cats", 3);
    assert_eq!(bench.replace("cats", "new").await, 2);
    bench.breakpoints.release(At::ReadingLabels, "cats");

    let live = live.await.unwrap().unwrap();
    assert_eq!(
        (live.head.info.version, &live.head.labels[0][..], live.head.live),
        (2, "new", true)
    );
    assert_eq!(live.available_versions, [2]);
    let error = by_number.await.unwrap().unwrap_err();
    let ServiceError::Head(error) = error else {
        panic!("{error}")
    };
    assert!(
        matches!(*error, HeadError::UnknownVersion { version: 1, .. }),
        "{error}"
    );
    let listed = listed.await.unwrap().unwrap();
    let heads: Vec<_> = listed
        .heads
        .iter()
        .map(|head| (head.info.version, &head.labels[0][..]))
        .collect();
    assert_eq!(heads, [(2, "new")]);
}
