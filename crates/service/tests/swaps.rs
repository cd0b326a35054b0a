//! Administration beside others: order, bounds, callers that give up, and reads beside swaps.
//!
//! Stores and devices stop where a test says, so that every order here is forced, none is timed.

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
    HeadError, HeadInfo, HeadLimits, HeadMetrics, HeadName, HeadRegistry, HeadStore, HeadWeights, RegistryLimits,
    RegistryParts, Reservation, ResidencyLimits, StagedHead, StoreError,
};
use headswap_model::PlacedHead;
use headswap_service::heads::{HeadQuery, HeadUpload, Source, SourceSettings, Swap, Swapped, UploadHeader};
use headswap_service::{HeadAdmin, HeadAdminParts, ModelInfo, ServiceError};
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT};
use headswap_store::DirStore;
use tokio::task::JoinHandle;

/// Where a swap stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Placing,
    Staging,
    Committing,
    ReadingLabels,
}

/// Places where threads stop until they are let on, by the label that their head has.
#[derive(Default)]
struct Stops {
    /// How many have come, and how many may go on.
    counts: Mutex<BTreeMap<(At, String), (usize, usize)>>,
    changed: Condvar,
}

impl Stops {
    fn set(&self, at: At, label: &str) {
        self.counts.lock().unwrap().insert((at, label.into()), (0, 0));
    }

    fn pass(&self, at: At, label: &str) {
        let mut counts = self.counts.lock().unwrap();
        let key = (at, label.to_owned());
        let Some(count) = counts.get_mut(&key) else { return };
        count.0 += 1;
        let number = count.0;
        self.changed.notify_all();
        let closed = |counts: &mut BTreeMap<_, (usize, usize)>| counts[&key].1 < number;
        drop(self.changed.wait_while(counts, closed).unwrap());
    }

    /// Returns once so many have come.
    fn wait_for(&self, at: At, label: &str, came: usize) {
        let key = (at, label.to_owned());
        let counts = self.counts.lock().unwrap();
        drop(self.changed.wait_while(counts, |counts| counts[&key].0 < came).unwrap());
    }

    fn came(&self, at: At, label: &str) -> usize {
        self.counts.lock().unwrap()[&(at, label.to_owned())].0
    }

    fn let_all_on(&self) {
        for count in self.counts.lock().unwrap().values_mut() {
            count.1 = usize::MAX;
        }
        self.changed.notify_all();
    }

    fn let_on(&self, at: At, label: &str) {
        self.counts.lock().unwrap().get_mut(&(at, label.to_owned())).unwrap().1 = usize::MAX;
        self.changed.notify_all();
    }
}

/// A store on the disk that stops.
struct Store {
    store: DirStore,
    stops: Arc<Stops>,
}

struct Staged {
    staged: Box<dyn StagedHead>,
    label: String,
    stops: Arc<Stops>,
}

impl StagedHead for Staged {
    fn commit(self: Box<Self>) -> Result<Duration, StoreError> {
        self.stops.pass(At::Committing, &self.label);
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
        let stops = Arc::clone(&self.stops);
        stops.pass(At::Staging, &label);
        Ok(Box::new(Staged { staged, label, stops }))
    }

    fn remove(&self, name: &HeadName, version: u64) -> Result<(), StoreError> {
        self.store.remove(name, version)
    }

    fn list(&self) -> Result<Vec<HeadInfo>, StoreError> {
        self.store.list()
    }

    fn load(&self, info: &HeadInfo) -> Result<HeadWeights, HeadError> {
        self.store.load(info)
    }

    fn labels(&self, info: &HeadInfo) -> Result<Vec<String>, HeadError> {
        self.stops.pass(At::ReadingLabels, info.name.as_str());
        self.store.labels(info)
    }

    fn highest_version(&self, name: &HeadName) -> Result<u64, StoreError> {
        self.store.highest_version(name)
    }
}

const UPLOADS_MAX: usize = 4;

/// An administration on a folder, with all its metrics.
struct Bench {
    dir: PathBuf,
    stops: Arc<Stops>,
    metrics: prometheus_client::registry::Registry,
    admin: Arc<HeadAdmin>,
}

impl Drop for Bench {
    /// A test that fails does not wait for the threads that it stopped.
    fn drop(&mut self) {
        self.stops.let_all_on();
    }
}

impl Bench {
    fn new(dir: &Path) -> Self {
        let (stops, mut metrics) = (
            Arc::<Stops>::default(),
            prometheus_client::registry::Registry::default(),
        );
        let limits = HeadLimits {
            classes_max: 4,
            features: 2,
            deeper: BTreeMap::new(),
        };
        let backbone = Digest::of_parameters(&Parameters::new(), &[]);
        let store = DirStore::open(dir, backbone, backbone, limits.clone()).unwrap();
        let uploads = store.uploads(1 << 20).unwrap();
        let placing = Arc::clone(&stops);
        let place = move |weights: &HeadWeights, room: Reservation| {
            placing.pass(At::Placing, &weights.labels[0]);
            Ok(PlacedHead::new(weights.classes, 12, Box::new(())).keeping(room))
        };
        let head_metrics = HeadMetrics::register(&mut metrics);
        let parts = RegistryParts {
            store: Arc::new(Store {
                store,
                stops: Arc::clone(&stops),
            }),
            placer: Box::new(place),
            metrics: head_metrics.clone(),
        };
        let registry_limits = RegistryLimits {
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
        let registry = HeadRegistry::open(parts, registry_limits, &HeadWeights::new(weights(), vec!["own".into()]));
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
                backbone_digest: String::new(),
                weights: String::new(),
                device: String::new(),
                precision: String::new(),
                max_batch: 1,
            },
            in_flight: prometheus_client::metrics::gauge::Gauge::default(),
            metrics: head_metrics,
        });
        Self {
            dir: dir.to_owned(),
            stops,
            metrics,
            admin: Arc::new(admin),
        }
    }

    /// A swap that has begun: where it stops is told by its label.
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

    /// Returns once a thread has come there; meanwhile a paused clock stands.
    async fn stopped(&self, at: At, label: &'static str) {
        let stops = Arc::clone(&self.stops);
        let stopped = tokio::task::spawn_blocking(move || stops.wait_for(at, label, 1));
        stopped.await.unwrap();
    }

    /// An upload whose file has come.
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

    /// Every file below the folder of heads, without the folders.
    fn files(&self) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![self.dir.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { &mut folders } else { &mut files }.push(path);
            }
        }
        files.sort();
        files
    }

    /// Files and gauges: what a swap that failed must leave as it was.
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

    /// Returns once everything is as it was.
    async fn settles_to(&self, before: &(Vec<PathBuf>, BTreeMap<String, i64>)) {
        while self.state() != *before {
            tokio::task::yield_now().await;
        }
    }
}

fn weights() -> Parameters {
    let tensor = |shape: &[usize]| Arc::new(HostTensor::new(shape.to_vec(), vec![1.0; shape.iter().product()]));
    Parameters::from([
        (LAST_WEIGHT.to_owned(), tensor(&[1, 2])),
        (LAST_BIAS.to_owned(), tensor(&[1])),
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
        labels: vec![label.into()],
        ..Swap::default()
    }
}

/// Lets all that can go on do so.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_of_one_head_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.stops.set(At::Placing, "first");
    let first = bench.start("cats", "first");
    bench.stops.wait_for(At::Placing, "first", 1);
    // Each is polled once, in this order, so that they wait in this order.
    let waiting: Vec<_> = (2..20)
        .map(|number| {
            let (admin, swap) = (Arc::clone(&bench.admin), swap("cats", &number.to_string()));
            let mut call = Box::pin(async move { admin.replace(swap, source(), None).await });
            assert!((&mut call).now_or_never().is_none());
            (number, call)
        })
        .collect();
    // Another head's swaps pass all of them.
    assert_eq!(bench.replace("dogs", "a dog").await, 1);
    bench.stops.let_on(At::Placing, "first");
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
    assert_eq!(bench.admin.get("cats", 0).await.unwrap().head.labels[..], ["19"]);
}

/// Blocked uploads, as many as there may be, blocked swaps of other heads in placing and writing: none is in the way of a
/// small swap. When all threads of small swaps are blocked, more wait, and give up with their caller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_swaps_wait_for_no_other() {
    const SMALL_SWAPS_MAX: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.stops.set(At::Placing, "large");
    let mut uploads = Vec::new();
    for number in 0..UPLOADS_MAX {
        let upload = bench.upload(&format!("large-{number}"), "large").await;
        uploads.push(tokio::spawn(upload.finish()));
    }
    bench.stops.wait_for(At::Placing, "large", UPLOADS_MAX);
    assert_eq!(bench.replace("cats", "small").await, 1);

    for at in [At::Placing, At::Staging, At::Committing] {
        bench.stops.set(at, "blocked");
        let blocked = bench.start("dogs", "blocked");
        bench.stops.wait_for(at, "blocked", 1);
        bench.replace("cats", "small").await;
        bench.stops.let_on(at, "blocked");
        blocked.await.unwrap().unwrap();
    }

    bench.stops.set(At::Placing, "many");
    let blocked: Vec<_> = (0..2 * SMALL_SWAPS_MAX)
        .map(|number| bench.start(&format!("head-{number}"), "many"))
        .collect();
    bench.stops.wait_for(At::Placing, "many", SMALL_SWAPS_MAX);
    let gives_up = bench.start("head-0", "gives up");
    settle().await;
    assert_eq!(bench.stops.came(At::Placing, "many"), SMALL_SWAPS_MAX);
    gives_up.abort();
    assert!(gives_up.await.unwrap_err().is_cancelled());
    bench.stops.let_on(At::Placing, "many");
    for swap in blocked {
        assert_eq!(swap.await.unwrap().unwrap().head.info.version, 1);
    }
    assert_eq!(bench.replace("head-0", "next").await, 2);
    bench.stops.let_on(At::Placing, "large");
    for upload in uploads {
        assert_eq!(upload.await.unwrap().unwrap().head.info.version, 1);
    }
}

/// Invariant 5, of a call that is cancelled or whose deadline passes: before the commit nothing is changed and nothing
/// stays behind. The paused clock goes on, to the deadline, when nothing else can.
#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_before_the_commit_changes_nothing() {
    for at in [At::Placing, At::Staging] {
        for (upload, deadline) in [(false, false), (false, true), (true, false), (true, true)] {
            let dir = tempfile::tempdir().unwrap();
            let bench = Bench::new(dir.path());
            bench.replace("cats", "before").await;
            let before = bench.state();
            bench.stops.set(at, "given up");
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
            bench.stops.let_on(at, "given up");
            bench.settles_to(&before).await;
            let got = bench.admin.get("cats", 0).await.unwrap();
            assert_eq!((got.head.info.version, &got.head.labels[0][..]), (1, "before"));
            assert_eq!(bench.replace("cats", "next").await, 2);
        }
    }
}

/// The same while the file is read: here from a pipe that nothing comes through until the caller is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_while_its_file_is_read_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let before = bench.state();
    let upload = bench.upload("cats", "given up").await;
    let arrived = |path: &PathBuf| path.metadata().is_ok_and(|part| part.len() == file().len() as u64);
    let part = loop {
        match bench.files().into_iter().find(arrived) {
            Some(part) => break part,
            None => tokio::task::yield_now().await,
        }
    };
    std::fs::remove_file(&part).unwrap();
    let path = std::ffi::CString::new(part.as_os_str().as_bytes()).unwrap();
    // SAFETY: mkfifo reads a string that ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let call = tokio::spawn(upload.finish());
    settle().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // Refused until the pipe's other end is open for reading.
    let mut other_end = std::fs::OpenOptions::new();
    other_end.write(true).custom_flags(libc::O_NONBLOCK);
    while part.exists() && other_end.open(&part).is_err() {
        tokio::task::yield_now().await;
    }
    bench.settles_to(&before).await;
    assert_eq!(bench.replace("cats", "next").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_has_begun_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.stops.set(At::Committing, "begun");
    let call = bench.start("cats", "begun");
    bench.stops.wait_for(At::Committing, "begun", 1);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let next = bench.start("cats", "next");
    bench.stops.let_on(At::Committing, "begun");
    let next = next.await.unwrap().unwrap();
    assert_eq!((next.head.info.version, next.previous_version), (2, 1));
}

/// A caller whose deadline passes while its swap is being committed is told what became of it.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_in_the_commit_is_too_late() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.stops.set(At::Committing, "begun");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
    let mut call = bench.start_until("cats", "begun", Some(deadline));
    // The clock stands while this thread waits.
    let stops = Arc::clone(&bench.stops);
    tokio::task::spawn_blocking(move || stops.wait_for(At::Committing, "begun", 1))
        .await
        .unwrap();
    tokio::time::advance(Duration::from_secs(7200)).await;
    settle().await;
    assert!((&mut call).now_or_never().is_none());
    bench.stops.let_on(At::Committing, "begun");
    assert_eq!(call.await.unwrap().unwrap().head.info.version, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_dropped_leaves_nothing() {
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

/// A swap makes the version that is read another's, and removes its file: that is not damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_beside_a_swap_tell_what_is_live() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.replace("cats", "old").await;
    // Labels of heads that are in the store alone are read from there.
    drop(bench);
    let bench = Bench::new(dir.path());
    bench.stops.set(At::ReadingLabels, "cats");
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
    bench.stops.wait_for(At::ReadingLabels, "cats", 3);
    assert_eq!(bench.replace("cats", "new").await, 2);
    bench.stops.let_on(At::ReadingLabels, "cats");

    let live = live.await.unwrap().unwrap();
    assert_eq!(
        (live.head.info.version, &live.head.labels[0][..], live.head.live),
        (2, "new", true)
    );
    assert_eq!(live.available_versions, [2]);
    let error = by_number.await.unwrap().unwrap_err();
    let unknown = |error: &ServiceError| match error {
        ServiceError::Head(error) => matches!(**error, HeadError::UnknownVersion { version: 1, .. }),
        _ => false,
    };
    assert!(unknown(&error), "{error}");
    let listed = listed.await.unwrap().unwrap();
    let heads: Vec<_> = listed
        .heads
        .iter()
        .map(|head| (head.info.version, &head.labels[0][..]))
        .collect();
    assert_eq!(heads, [(2, "new")]);
}
