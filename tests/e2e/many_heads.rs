//! More heads than the device can hold.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headswap_heads::{Backbones, HeadInfo as StoredInfo, HeadName, HeadStore as _, HeadWeights, KnownBackbone};
use headswap_model::{Backbone, WeightsSource, demo_head};
use headswap_proto::embed_request::Input;
use headswap_proto::{
    ClassifyResponse, EmbedRequest, GetHeadRequest, HeadInfo, HeadResult, HeadTier, ListHeadsRequest,
    ReplaceHeadRequest,
};
use headswap_spec::Preset;
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};
use headswap_store::DirStore;
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::support::{Admin, Classifier, NARROW, ROCKET, Server, classify, replace};

/// The number of heads in [`all_heads_are_served_although_they_do_not_fit`].
const HEADS: usize = 24;

/// Returns the bytes of a head of `classes` in f32.
const fn bytes(classes: u64) -> u64 {
    classes * (128 + 1) * 4
}

fn classes(head: usize) -> usize {
    2 + head % 3
}

/// Returns the logits that head number `head` must compute.
fn expected(head: usize, features: &[f32]) -> Vec<f64> {
    let parameters = demo_head(NARROW, classes(head), head as u64);
    let (weight, bias) = (&parameters[LAST_WEIGHT].values, &parameters[LAST_BIAS].values);
    let mut logits = Vec::new();
    for (row, bias) in weight.chunks(features.len()).zip(bias) {
        let products = row.iter().zip(features).map(|(w, x)| f64::from(*w) * f64::from(*x));
        logits.push(products.sum::<f64>() + f64::from(*bias));
    }
    logits
}

async fn features(client: &mut Classifier) -> Vec<f32> {
    let request = EmbedRequest {
        input: Some(Input::Image(ROCKET.into())),
        ..Default::default()
    };
    client.embed(request).await.unwrap().into_inner().features
}

fn name(head: usize) -> String {
    format!("head-{head:02}")
}

fn check(result: &HeadResult, head: usize, expected: &[f64]) {
    assert_eq!((result.head.as_str(), result.version), (name(head).as_str(), 1));
    assert_eq!(result.logits.len(), expected.len());
    let scale = expected
        .iter()
        .fold(1e-6, |largest: f64, logit| largest.max(logit.abs()));
    for (got, want) in result.logits.iter().zip(expected) {
        assert!(
            (f64::from(*got) - want).abs() < 1e-4 * scale,
            "{result:?} instead of {expected:?}"
        );
    }
}

/// Repeats a request until no head is refused because the device is full. Returns the response and the number of refused
/// results.
async fn ask(client: &mut Classifier, heads: &[usize]) -> (ClassifyResponse, usize) {
    let names: Vec<String> = heads.iter().map(|head| name(*head)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut refused = 0;
    loop {
        match client.classify(classify(&names)).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let errors = answer.results.iter().filter_map(|result| result.error.as_ref());
                let errors: Vec<i32> = errors.map(|error| error.code).collect();
                if errors.is_empty() {
                    return (answer, refused);
                }
                assert!(
                    errors.iter().all(|code| *code == Code::ResourceExhausted as i32),
                    "{answer:?}"
                );
                refused += errors.len();
            }
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                assert!(status.message().contains("--heads-resident-bytes-max"), "{status:?}");
                assert!(status.get_details_retry_info().is_some());
                refused += names.len();
            }
        }
    }
}

/// Returns a random head: few heads often, most rarely. `state` is a linear congruential generator (MMIX's constants).
fn next_head(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let uniform = (*state >> 33) as usize % (HEADS * HEADS);
    uniform * uniform / HEADS.pow(3)
}

async fn list(admin: &mut Admin, request: ListHeadsRequest) -> Vec<HeadInfo> {
    admin.list_heads(request).await.unwrap().into_inner().heads
}

/// Returns the store's only directory of heads.
fn store(dir: &Path) -> PathBuf {
    std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
}

/// The logits are correct while heads are loaded and evicted, also after a restart, and the limit holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_heads_are_served_although_they_do_not_fit() {
    const ROUNDS: usize = 60;
    let budget = 8 * bytes(4);
    let limit = budget.to_string();
    let args = ["--heads-resident-bytes-max", limit.as_str(), "--head-loads-max", "2"];
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &args);
    let mut admin = server.admin().await;
    for head in 0..HEADS {
        admin
            .replace_head(replace(&name(head), classes(head), head as u64))
            .await
            .unwrap();
    }
    let features = Arc::new(features(&mut server.classifier().await).await);

    let mut clients = JoinSet::new();
    for client in 0..4usize {
        let (mut connection, features) = (server.classifier().await, Arc::clone(&features));
        clients.spawn(async move {
            let (mut random, mut answered) = (client as u64 + 1, 0);
            for round in 0..ROUNDS {
                let (one, other) = (next_head(&mut random), next_head(&mut random));
                let heads = if round % 3 == 0 && one != other {
                    vec![one, other]
                } else {
                    vec![one]
                };
                let (answer, _) = ask(&mut connection, &heads).await;
                for (result, head) in answer.results.iter().zip(&heads) {
                    check(result, *head, &expected(*head, &features));
                }
                answered += heads.len() as u64;
            }
            answered
        });
    }
    let answered: u64 = clients.join_all().await.iter().sum();

    assert!(server.metric("headswap_head_loads_total{result=\"ok\"}") > HEADS as f64);
    assert!(server.metric("headswap_head_evictions_total") > HEADS as f64);
    assert_eq!(server.metric("headswap_expired_executed_total"), 0.0);
    let heads = list(&mut admin, ListHeadsRequest::default()).await;
    let hot = heads
        .iter()
        .filter(|head| head.tier() == HeadTier::Hot && head.head != "default");
    assert!(hot.map(|head| head.resident_bytes).sum::<u64>() <= budget);
    let requests: u64 = heads.iter().map(|head| head.requests).sum();
    // Results whose request was repeated because of another head count, too.
    assert!(requests >= answered, "{requests} of {answered}");

    server.signal(libc::SIGKILL);
    server.wait();
    let server = Server::start(dir.path(), &[&args[..], &["--heads-load", "lazy"]].concat());
    assert_eq!(server.metric("headswap_head_versions{tier=\"cold\"}"), HEADS as f64);
    assert_eq!(server.metric("headswap_head_versions{tier=\"hot\"}"), 1.0);
    let mut connection = server.classifier().await;
    for head in 0..HEADS {
        let (answer, refused) = ask(&mut connection, &[head]).await;
        check(&answer.results[0], head, &expected(head, &features));
        assert_eq!(refused, 0, "there are no other requests");
    }
}

#[tokio::test]
async fn eager_loading_stops_when_the_device_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    for head in 0..6 {
        admin.replace_head(replace(&name(head), 2, head as u64)).await.unwrap();
    }
    drop(server);
    let limit = (4 * bytes(2)).to_string();
    let server = Server::start(dir.path(), &["--heads-resident-bytes-max", &limit]);
    assert_eq!(server.metric("headswap_head_loads_total{result=\"ok\"}"), 4.0);
    assert_eq!(
        server.metric("headswap_head_bytes{tier=\"cold\"}"),
        2.0 * bytes(2) as f64
    );
    // The newest heads are loaded, because they are the most likely to be requested.
    let mut admin = server.admin().await;
    let cold = ListHeadsRequest {
        tier: HeadTier::Cold.into(),
        ..Default::default()
    };
    let cold = list(&mut admin, cold).await;
    assert_eq!(
        cold.iter().map(|head| head.head.as_str()).collect::<Vec<_>>(),
        ["head-00", "head-01"]
    );
    ask(&mut server.classifier().await, &[0]).await;
    assert_eq!(server.metric("headswap_head_evictions_total"), 1.0);

    // A head that was evicted from the device is loaded again from host memory.
    let limit = bytes(2).to_string();
    let warm = (6 * bytes(2)).to_string();
    let limits = ["--heads-resident-bytes-max", &limit, "--heads-warm-bytes-max", &warm];
    drop(server);
    let server = Server::start(dir.path(), &limits);
    let (mut admin, mut client) = (server.admin().await, server.classifier().await);
    ask(&mut client, &[0]).await;
    ask(&mut client, &[1]).await;
    let get = GetHeadRequest {
        head: name(0),
        version: 0,
    };
    let head = admin.get_head(get).await.unwrap().into_inner().head.unwrap();
    assert_eq!((head.tier(), head.requests), (HeadTier::Warm, 1));
    std::fs::remove_dir_all(store(dir.path()).join(name(0))).unwrap();
    ask(&mut client, &[0]).await;
}

#[tokio::test]
async fn a_head_that_cannot_fit_is_refused_and_the_live_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let limit = bytes(3).to_string();
    let server = Server::start(dir.path(), &["--heads-resident-bytes-max", &limit]);
    let mut admin = server.admin().await;
    let status = admin.replace_head(replace("cats", 4, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(
        status.message().contains("raise --heads-resident-bytes-max"),
        "{status:?}"
    );
    let violation = &status.get_details_quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, "--heads-resident-bytes-max");
    admin.replace_head(replace("cats", 3, 1)).await.unwrap();
    let mut client = server.classifier().await;
    let before = client.classify(classify(&["cats"])).await.unwrap().into_inner().results;
    admin.replace_head(replace("cats", 4, 2)).await.unwrap_err();
    let after = client.classify(classify(&["cats"])).await.unwrap().into_inner().results;
    assert_eq!(after, before);
}

fn check_data_loss(status: &Status, head: &str, version: u64) {
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    let start = format!("head `{head}` version {version} is damaged in the store (");
    assert!(status.message().starts_with(&start), "{status:?}");
    assert!(status.message().ends_with("); replace it again"), "{status:?}");
    let resource = status.get_details_resource_info().unwrap();
    assert_eq!(resource.resource_name, format!("{head}/{version}"));
}

#[tokio::test]
async fn a_damaged_cold_head_is_data_loss_and_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    for (head, seed) in [("cats", 1), ("cats", 2), ("dogs", 3), ("gone", 4)] {
        admin.replace_head(replace(head, 2, seed)).await.unwrap();
    }
    drop(server);
    let server = Server::start(dir.path(), &["--heads-load", "lazy"]);
    let file = store(dir.path()).join("cats/2.safetensors");
    let mut damaged = std::fs::read(&file).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&file, damaged).unwrap();
    std::fs::remove_file(store(dir.path()).join("gone/1.safetensors")).unwrap();

    let (mut admin, mut client) = (server.admin().await, server.classifier().await);
    for _ in 0..2 {
        check_data_loss(&client.classify(classify(&["cats"])).await.unwrap_err(), "cats", 2);
    }
    check_data_loss(&client.classify(classify(&["gone"])).await.unwrap_err(), "gone", 1);
    let results = client
        .classify(classify(&["cats", "dogs", "default"]))
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(results[0].error.as_ref().unwrap().code, Code::DataLoss as i32);
    assert!(results[1..].iter().all(|result| result.error.is_none()));
    assert_eq!(server.metric("headswap_head_loads_total{result=\"damaged\"}"), 4.0);
    // Older versions are still served, and replacing the head again works, as the message says.
    let older = headswap_proto::ClassifyRequest {
        head_version: 1,
        ..classify(&["cats"])
    };
    client.classify(older).await.unwrap();
    admin.replace_head(replace("cats", 2, 5)).await.unwrap();
    assert_eq!(
        client.classify(classify(&["cats"])).await.unwrap().into_inner().results[0].version,
        3
    );
}

/// The head's file is a pipe without a writer, so the load hangs, as on a disk that does not respond.
#[tokio::test]
async fn a_hanging_load_delays_only_requests_for_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    admin.replace_head(replace("cats", 2, 1)).await.unwrap();
    admin.replace_head(replace("dogs", 2, 2)).await.unwrap();
    drop(server);
    let server = Server::start(dir.path(), &["--heads-load", "lazy"]);
    let file = store(dir.path()).join("cats/1.safetensors");
    let whole = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let path = std::ffi::CString::new(file.as_os_str().as_bytes()).unwrap();
    // SAFETY: mkfifo reads a string that ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);

    let mut client = server.classifier().await;
    for heads in [&["cats"][..], &["default", "cats"]] {
        let mut request = Request::new(classify(heads));
        request.set_timeout(Duration::from_millis(300));
        let status = client.classify(request).await.unwrap_err();
        // Either the server's deadline or the client's own may fire first.
        let ours = status.code() == Code::Cancelled && status.message() == "Timeout expired";
        assert!(ours || status.code() == Code::DeadlineExceeded, "{status:?}");
    }
    let (mut first, mut second) = (client.clone(), client.clone());
    let waiting = tokio::spawn(async move { first.classify(classify(&["cats"])).await });
    let cancelled = tokio::spawn(async move { second.classify(classify(&["cats"])).await });
    client.classify(classify(&["dogs"])).await.unwrap();
    cancelled.abort();
    // Opening and closing the pipe's other end makes the load read an empty file.
    drop(std::fs::OpenOptions::new().write(true).open(&file).unwrap());
    check_data_loss(&waiting.await.unwrap().unwrap_err(), "cats", 1);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, whole).unwrap();
    client.classify(classify(&["cats"])).await.unwrap();
}

#[tokio::test]
async fn heads_are_listed_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    for head in (0..12).rev() {
        let labels = (0..classes(head)).map(|class| format!("{head}/{class}")).collect();
        let request = ReplaceHeadRequest {
            labels,
            ..replace(&name(head), classes(head), head as u64)
        };
        admin.replace_head(request).await.unwrap();
    }
    let all: Vec<String> = std::iter::once("default".into()).chain((0..12).map(name)).collect();

    for (size, pages) in [(5, 3), (13, 1), (12, 2), (1, 13), (0, 1), (u32::MAX, 1)] {
        assert_eq!(names_in_pages(&mut admin, size).await, (all.clone(), pages), "{size}");
    }
    let filtered = ListHeadsRequest {
        name_prefix: "head-1".into(),
        include_labels: true,
        page_size: 1,
        ..Default::default()
    };
    let page = admin.list_heads(filtered.clone()).await.unwrap().into_inner();
    assert_eq!((page.total_size, page.heads.len()), (2, 1));
    let head = &page.heads[0];
    assert_eq!((head.head.as_str(), head.labels[1].as_str()), ("head-10", "10/1"));
    assert_eq!(
        (head.split_layer.as_str(), head.tier(), head.live),
        ("classifier.6", HeadTier::Hot, true)
    );
    assert_eq!(head.resident_bytes, bytes(3));
    // A head that is added between two pages is on the second.
    admin.replace_head(replace("head-10b", 2, 1)).await.unwrap();
    let next = ListHeadsRequest {
        page_token: page.next_page_token,
        page_size: 0,
        ..filtered
    };
    let heads = list(&mut admin, next).await;
    assert_eq!(
        heads.iter().map(|head| head.head.as_str()).collect::<Vec<_>>(),
        ["head-10b", "head-11"]
    );
    let none = ListHeadsRequest {
        tier: HeadTier::Warm.into(),
        ..Default::default()
    };
    assert!(list(&mut admin, none).await.is_empty());

    let page_token = ListHeadsRequest {
        page_token: "No Name".into(),
        ..Default::default()
    };
    check_invalid(&mut admin, page_token, "page_token").await;
    let tier = ListHeadsRequest {
        tier: 9,
        ..Default::default()
    };
    check_invalid(&mut admin, tier, "tier").await;
    check_command_line(&server);
}

/// Returns the names of all heads, read in pages of `size` heads, and the number of pages.
async fn names_in_pages(admin: &mut Admin, size: u32) -> (Vec<String>, usize) {
    let (mut names, mut pages, mut request) = (Vec::new(), 0, ListHeadsRequest::default());
    request.page_size = size;
    loop {
        let page = admin.list_heads(request.clone()).await.unwrap().into_inner();
        assert_eq!(page.total_size, 13);
        names.extend(page.heads.into_iter().map(|head| head.head));
        pages += 1;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return (names, pages);
        }
    }
}

async fn check_invalid(admin: &mut Admin, request: ListHeadsRequest, field: &str) {
    let status = admin.list_heads(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, field);
}

fn check_command_line(server: &Server) {
    let cases: [(&[&str], usize); 6] = [
        (&[], 14),
        (&["--prefix", "head-1"], 3),
        (&["--prefix", "head-1", "--limit", "2"], 2),
        (&["--tier", "hot"], 14),
        (&["--tier", "cold"], 0),
        (&["--limit", "0"], 0),
    ];
    for (args, count) in cases {
        let json = list_by_command_line(server, &[args, &["--json"]].concat());
        let listed: serde_json::Value = serde_json::from_str(&json).unwrap();
        let heads = listed["heads"].as_array().unwrap();
        assert_eq!(
            (heads.len(), &listed["listed"]["heads"]),
            (count, &count.into()),
            "{args:?}"
        );
        for head in heads {
            assert_eq!(
                (&head["tier"], &head["split_layer"]),
                (&"hot".into(), &"classifier.6".into())
            );
        }
    }
    let table = list_by_command_line(server, &["--limit", "1"]);
    for column in ["split layer", "bytes", "tier", "requests", "classifier.6", "hot"] {
        assert!(table.contains(column), "{table}");
    }
}

fn list_by_command_line(server: &Server, args: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_headswap"));
    command.args(["head", "list", "--admin-address", &server.admin]);
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Prints the start time and memory of servers with many heads:
/// `cargo test --release --test e2e price_of_many_heads -- --ignored --nocapture`. A head of 320 classes and 128 features has as
/// many bytes as one of 10 classes and VGG16's 4096 features.
#[test]
#[ignore = "a benchmark that writes 1.7 GB"]
fn the_price_of_many_heads() {
    const CLASSES: usize = 320;
    let backbone = Backbone::load(&WeightsSource::Demo, NARROW).unwrap().digest;
    let preprocessing = Preset::Torchvision.preprocessing();
    let backbones = Backbones::new(KnownBackbone::of_any_heads("default", backbone, preprocessing), []);
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::open(dir.path(), backbones).unwrap();
    let mut saved = 0;
    for heads in [0, 1000, 10_000] {
        for head in saved..heads {
            let weights = HeadWeights::new(demo_head(NARROW, CLASSES, head as u64), Vec::new(), preprocessing);
            let info = StoredInfo {
                name: HeadName::parse(&format!("head-{head}")).unwrap(),
                version: 1,
                digest: weights.digest,
                classes: CLASSES,
                backbone: 0,
                spec: weights.spec.clone(),
                has_spec: false,
                assumed: weights.assumed.clone(),
                annotations: BTreeMap::new(),
                created_unix_us: head as u64,
                parameters: weights.parameters.keys().cloned().collect(),
                resident_bytes: weights.bytes(),
                shared: Arc::default(),
            };
            store.save(&info, &weights).unwrap();
        }
        saved = heads;
        measure(dir.path(), heads, &["--heads-load", "lazy"]);
        measure(dir.path(), heads, &[]);
    }
}

fn measure(dir: &Path, heads: usize, args: &[&str]) {
    let started = Instant::now();
    let server = Server::start(dir, args);
    let took = started.elapsed();
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let rss: f64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    let (hot, bytes) = (
        server.metric("headswap_head_versions{tier=\"hot\"}"),
        server.metric("headswap_head_bytes{tier=\"hot\"}"),
    );
    println!(
        "{heads} heads, {args:?}: ready after {took:?}, {hot} hot of {:.0} MB, RSS {:.0} MB",
        bytes / 1e6,
        rss / 1e3
    );
}
