//! Isolation between clients: requests do not wait for a client that stopped reading, for streams of others, or for a head
//! that fails.

use std::collections::HashSet;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use headswap_model::demo_head_from;
use headswap_proto::classify_request::Input;
use headswap_proto::replace_head_request::Source;
use headswap_proto::{
    ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, ClassifyStreamResponse, ReplaceHeadRequest,
};
use image::{ImageFormat, Rgb, RgbImage};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use crate::support::raw_call::{Ended, RawCall};
use crate::support::{Classifier, NARROW, Server, replace, safetensors};

/// Timeout of every wait in these tests.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The number of classes by which the null backend recognises the faulty head.
const FAULTY: usize = 13;

/// With this many classes, a response with logits exceeds what tonic encodes ahead (32 KiB), so the transport takes one
/// response at a time.
const MANY_CLASSES: usize = 10_000;

/// Starts a server with the null backend, which takes `row` for each picture.
fn server(dir: &TempDir, row: Duration, args: &[&str]) -> Server {
    Server::start(dir.path(), &null(&row.as_micros().to_string(), args))
}

fn null<'a>(row_us: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["--backend", "null", "--null-row-us", row_us], args].concat()
}

const MS: Duration = Duration::from_millis(1);

/// Polls until `condition` is true.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let reached = timeout(TIMEOUT, poll).await;
    reached.unwrap_or_else(|_| panic!("timed out waiting until {what}"));
}

/// Returns the value of a metric with its labels, or 0 if it does not exist yet.
fn counted(server: &Server, line: &str) -> u64 {
    value(&server.get("/metrics").1, line)
}

fn value(text: &str, line: &str) -> u64 {
    for found in text.lines() {
        if let Some(value) = found.strip_prefix(line).and_then(|rest| rest.strip_prefix(' ')) {
            return value.parse().unwrap();
        }
    }
    0
}

fn requests(server: &Server, method: &str, code: &str) -> u64 {
    let line = format!("headswap_requests_total{{method=\"{method}\",code=\"{code}\"}}");
    counted(server, &line)
}

/// Returns the number of stream requests that the server has answered, including unread responses.
fn streamed(server: &Server) -> u64 {
    requests(server, "ClassifyStream", "Ok")
}

fn cancelled(server: &Server) -> u64 {
    requests(server, "Classify", "Cancelled")
}

fn batches(server: &Server) -> u64 {
    counted(server, "headswap_compute_seconds_count")
}

/// Returns the number of cache misses, including those that are being computed.
fn misses(server: &Server) -> u64 {
    counted(server, "headswap_feature_cache_misses_total")
}

fn deadlines(server: &Server, stage: &str) -> u64 {
    counted(
        server,
        &format!("headswap_deadline_exceeded_total{{stage=\"{stage}\"}}"),
    )
}

/// Returns the number of admitted requests, and how many of them wait for their forward pass.
fn gauges(server: &Server) -> (u64, u64) {
    let text = server.get("/metrics").1;
    (
        value(&text, "headswap_in_flight"),
        value(&text, "headswap_queue_length"),
    )
}

fn is_idle(server: &Server) -> bool {
    gauges(server) == (0, 0)
}

/// A PNG of one colour.
fn png(side: u32, shade: u8) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(side, side, Rgb([shade; 3]));
    picture.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// Returns a request for a small picture and some heads; without heads, the default head.
fn ask(heads: &[&str]) -> ClassifyRequest {
    ClassifyRequest {
        input: Some(Input::Image(png(8, 0).into())),
        heads: heads.iter().map(ToString::to_string).collect(),
        include_logits: true,
        ..Default::default()
    }
}

fn item(request: ClassifyRequest, id: u64) -> ClassifyStreamRequest {
    let request_id = id.to_string();
    ClassifyStreamRequest {
        request: Some(ClassifyRequest { request_id, ..request }),
    }
}

/// Opens a stream that sends `requests` requests, reads no response and does not end.
async fn unread(server: &Server, timeout: Option<&str>, requests: u64, request: &ClassifyRequest) -> RawCall {
    let mut stream = RawCall::open(&server.grpc, "ClassifyStream", timeout).await;
    for id in 0..requests {
        stream.send(&item(request.clone(), id));
    }
    stream
}

/// Makes a unary call whose deadline only the server enforces.
async fn unary(server: &Server, timeout: &str, request: &ClassifyRequest) -> Ended<ClassifyResponse> {
    let mut call = RawCall::open(&server.grpc, "Classify", Some(timeout)).await;
    call.send(request);
    call.finish();
    call.end().await
}

async fn unary_calls(client: &mut Classifier, count: usize, request: &ClassifyRequest) {
    for call in 0..count {
        let answer = client.classify(request.clone()).await;
        answer.unwrap_or_else(|status| panic!("unary call {call}: {status:?}"));
    }
}

/// Clients that send the next request after each response, until [`Crowd::stop`].
struct Crowd {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    clients: JoinSet<Result<(), Status>>,
}

impl Crowd {
    /// Starts `count` clients with unary calls, each on its own connection.
    async fn unary(server: &Server, count: usize, request: &ClassifyRequest) -> Self {
        let mut crowd = Self::empty();
        for _ in 0..count {
            crowd.add(server.classifier().await, request.clone());
        }
        crowd
    }

    fn empty() -> Self {
        Self {
            stop: Arc::default(),
            answers: Arc::default(),
            clients: JoinSet::new(),
        }
    }

    fn add(&mut self, mut client: Classifier, request: ClassifyRequest) {
        let (stop, answers) = (Arc::clone(&self.stop), Arc::clone(&self.answers));
        self.clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.classify(request.clone()).await?;
                answers.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }

    /// Adds a client with a stream that keeps `open` requests in flight and reads the responses.
    async fn add_stream(&mut self, server: &Server, open: usize, request: ClassifyRequest) {
        let (requests, receiver) = tokio::sync::mpsc::channel(open);
        for id in 0..open as u64 {
            requests.send(item(request.clone(), id)).await.unwrap();
        }
        let mut client = server.classifier().await;
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let (stop, answers) = (Arc::clone(&self.stop), Arc::clone(&self.answers));
        self.clients.spawn(async move {
            let mut received = client.classify_stream(stream).await?.into_inner();
            let (mut requests, mut sent, mut answered) = (Some(requests), open as u64, HashSet::new());
            while let Some(answer) = received.message().await? {
                let answer = answer.response.unwrap();
                assert!(answer.results.iter().all(|result| result.error.is_none()), "{answer:?}");
                assert!(answered.insert(answer.request_id), "answered twice");
                answers.fetch_add(1, Ordering::Relaxed);
                match &requests {
                    Some(requests) if !stop.load(Ordering::Relaxed) => {
                        requests.send(item(request.clone(), sent)).await.unwrap();
                        sent += 1;
                    }
                    _ => requests = None,
                }
            }
            assert_eq!(answered.len() as u64, sent, "each request of a stream is answered once");
            Ok(())
        });
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Stops the clients after their current calls. All calls must have succeeded.
    async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = timeout(TIMEOUT, self.clients.join_next()).await.unwrap() {
            client.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_not_read_occupies_only_its_own_slots() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, 2 * MS, &["--stream-in-flight-max", "16", "--in-flight-max", "16"]);
    let mut admin = server.admin().await;
    admin.replace_head(replace("large", MANY_CLASSES, 1)).await.unwrap();
    let mut client = server.classifier().await;
    let mut stream = unread(&server, None, 600, &ask(&["large"])).await;
    stream.finish();
    unary_calls(&mut client, 50, &ask(&[])).await;

    // Unread responses occupy its 16 slots, and one more response is encoded in the transport.
    until("all slots of the stream are occupied", || {
        streamed(&server) >= 17 && is_idle(&server)
    })
    .await;
    unary_calls(&mut client, 50, &ask(&[])).await;
    until("all other requests are answered", || is_idle(&server)).await;
    assert_eq!(streamed(&server), 17);

    let ended: Ended<ClassifyStreamResponse> = timeout(TIMEOUT, stream.end()).await.unwrap();
    assert_eq!((ended.code, ended.messages.len()), (Code::Ok, 600));
    let ids: HashSet<String> = ended
        .messages
        .into_iter()
        .map(|answer| answer.response.unwrap().request_id)
        .collect();
    assert_eq!((ids.len(), streamed(&server)), (600, 600));
}

#[tokio::test]
async fn a_deadline_ends_a_stream_that_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, MS, &["--stream-in-flight-max", "16"]);
    let mut admin = server.admin().await;
    admin.replace_head(replace("large", MANY_CLASSES, 1)).await.unwrap();
    let mut client = server.classifier().await;
    let mut stream = unread(&server, Some("4S"), 600, &ask(&["large"])).await;
    stream.wait_for_headers().await;
    let deadline = Instant::now() + Duration::from_secs(4);
    until("all slots of the stream are occupied", || streamed(&server) >= 17).await;
    while Instant::now() <= deadline {
        unary_calls(&mut client, 1, &ask(&[])).await;
    }
    // The server handles these calls after its timers, which have expired by now.
    unary_calls(&mut client, 20, &ask(&[])).await;
    let ended: Ended<ClassifyStreamResponse> = timeout(TIMEOUT, stream.end()).await.unwrap();
    assert_eq!(ended.code, Code::DeadlineExceeded, "{}", ended.message);
    assert!(ended.message.contains("while the stream was open"), "{}", ended.message);
    // The stream has dropped its unread responses, except one in the channel and one that the transport has encoded.
    assert!(
        ended.messages.len() <= 2,
        "{} responses were kept",
        ended.messages.len()
    );
}

#[tokio::test]
async fn five_streams_do_not_take_the_slots_of_unary_calls() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, MS, &["--in-flight-max", "8"]);
    let mut streams = Crowd::empty();
    for _ in 0..5 {
        streams.add_stream(&server, 64, ask(&[])).await;
    }
    until("the streams occupy their slots", || {
        counted(&server, "headswap_in_flight") >= 8
    })
    .await;
    unary_calls(&mut server.classifier().await, 100, &ask(&[])).await;
    assert!(streams.answers() > 0);
    streams.stop().await;
    until("all requests are answered", || is_idle(&server)).await;
}

#[tokio::test]
async fn a_deadline_error_names_the_stage() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, 500 * MS, &["--max-batch", "1"]);
    let crowd = Crowd::unary(&server, 6, &ask(&[])).await;
    until("more requests wait than fit a batch", || {
        counted(&server, "headswap_queue_length") >= 4
    })
    .await;
    let ended = unary(&server, "400m", &ask(&[])).await;
    assert_deadline(&server, &ended, "waiting for its turn", "waiting", 1);
    crowd.stop().await;

    until("the device is free", || is_idle(&server)).await;
    let ended = unary(&server, "400m", &ask(&[])).await;
    assert_deadline(&server, &ended, "computing", "computing", 1);
    assert_eq!(counted(&server, "headswap_expired_executed_total"), 0);
}

fn assert_deadline(server: &Server, ended: &Ended<ClassifyResponse>, text: &str, stage: &str, times: u64) {
    assert_eq!(ended.code, Code::DeadlineExceeded, "{}", ended.message);
    assert!(ended.message.contains(text), "{text}: {}", ended.message);
    assert_eq!((deadlines(server, stage), ended.messages.len()), (times, 0));
}

/// The head's file is a named pipe, so reading it never ends.
#[tokio::test]
async fn a_deadline_error_names_the_loading_of_a_head() {
    let dir = tempfile::tempdir().unwrap();
    {
        let server = server(&dir, MS, &[]);
        server.admin().await.replace_head(replace("cold", 3, 1)).await.unwrap();
    }
    let server = server(&dir, MS, &["--heads-load", "lazy"]);
    let backbone = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let file = backbone.join("cold/1.safetensors");
    std::fs::remove_file(&file).unwrap();
    make_pipe(&file);
    let ended = unary(&server, "400m", &ask(&["cold"])).await;
    assert_deadline(&server, &ended, "waiting for a head to be loaded", "loading", 1);
    // Requests for another head are not delayed.
    unary_calls(&mut server.classifier().await, 10, &ask(&[])).await;
}

fn make_pipe(path: &Path) {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a string that ends with a zero and lives for the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[tokio::test]
async fn cancelled_calls_leave_the_queue_at_once_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, 1000 * MS, &["--max-batch", "1"]);
    let (mut calls, client) = (JoinSet::new(), server.classifier().await);
    for _ in 0..11 {
        let mut client = client.clone();
        calls.spawn(async move { client.classify(ask(&[])).await });
    }
    // From now on, the second call is being computed.
    until("the first call is answered", || {
        batches(&server) == 1 && gauges(&server) == (10, 9)
    })
    .await;
    calls.abort_all();
    until("no call waits", || gauges(&server) == (1, 0)).await;
    assert_eq!(counted(&server, "headswap_cancelled_total"), 9);
    // The first call may have been cancelled before its client received the response.
    until("each call is counted", || {
        cancelled(&server) + requests(&server, "Classify", "Ok") == 11
    })
    .await;
    assert!(cancelled(&server) >= 10);
    until("no request is in flight", || is_idle(&server)).await;
    unary_calls(&mut server.classifier().await, 1, &ask(&[])).await;
}

/// Returns the next number of a linear congruential generator (MMIX's constants).
fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[tokio::test]
async fn two_thousand_cancelled_calls_fail_no_other_call() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, MS, &[]);
    let others = Crowd::unary(&server, 4, &ask(&[])).await;
    let mut cancelling = JoinSet::new();
    for seed in 0..8 {
        let client = server.classifier().await;
        let (mut state, answers) = (seed, Arc::clone(&others.answers));
        cancelling.spawn(async move {
            let mut answered = 0;
            for _ in 0..250 {
                // A random delay, in responses to other clients and in turns of this thread's tasks.
                let (responses, turns) = (random(&mut state) % 4, random(&mut state) % 64);
                let mut caller = client.clone();
                let cancelled = async {
                    let began = answers.load(Ordering::Relaxed);
                    while answers.load(Ordering::Relaxed) < began + responses {
                        tokio::task::yield_now().await;
                    }
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    answer = caller.classify(ask(&[])) => {
                        answer.unwrap();
                        answered += 1;
                    }
                    () = cancelled => {}
                }
            }
            answered
        });
    }
    let mut answered = 0;
    while let Some(client) = timeout(TIMEOUT, cancelling.join_next()).await.unwrap() {
        answered += client.unwrap();
    }
    let others_answered = others.answers();
    others.stop().await;
    until("the gauges are back at zero", || is_idle(&server)).await;
    let cancelled = cancelled(&server);
    assert!(
        cancelled > 0 && cancelled <= 2000 - answered,
        "{cancelled} cancelled, {answered} answered"
    );
    assert!(requests(&server, "Classify", "Ok") >= answered + others_answered);
    unary_calls(&mut server.classifier().await, 10, &ask(&[])).await;
}

#[tokio::test]
async fn streams_keep_their_share_beside_unary_calls() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, 2 * MS, &["--bulk-share", "10"]);
    let pixels = ClassifyRequest {
        input: Some(Input::Pixels(vec![0; 224 * 224 * 3].into())),
        ..Default::default()
    };
    let unary = Crowd::unary(&server, 64, &pixels).await;
    let mut bulk = Crowd::empty();
    bulk.add_stream(&server, 64, pixels).await;
    until("unary calls and the stream wait", || {
        unary.answers() >= 100 && bulk.answers() >= 1
    })
    .await;
    let (unary_before, bulk_before) = (unary.answers(), bulk.answers());
    until("1,000 more requests are answered", || {
        unary.answers() + bulk.answers() >= unary_before + bulk_before + 1000
    })
    .await;
    let (unary_part, bulk_part) = (unary.answers() - unary_before, bulk.answers() - bulk_before);
    let share = bulk_part as f64 / (unary_part + bulk_part) as f64;
    assert!(
        (0.05..0.3).contains(&share),
        "the stream has {share}: {bulk_part} of {}",
        unary_part + bulk_part
    );
    unary.stop().await;
    bulk.stop().await;
}

/// After the first call of the faulty head, every call in flight is answered, the probes fail and the process ends.
async fn check_lost_device(fault: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (log, heads) = (dir.path().join("log"), dir.path().join("heads"));
    let fault = format!("{fault}:{FAULTY}");
    let server = Server::start_logging(&log, &heads, &null("5000", &["--null-fault", &fault]));
    server
        .admin()
        .await
        .replace_head(replace("faulty", FAULTY, 1))
        .await
        .unwrap();
    let mut client = server.classifier().await;
    unary_calls(&mut client, 3, &ask(&[])).await;

    // Delays the end of the process until it is dropped, so that the probes can be checked.
    let reader = unread(&server, None, 200, &ask(&[])).await;
    let mut calls = JoinSet::new();
    for index in 0..60 {
        let mut client = client.clone();
        let heads: &[&str] = if index == 30 { &["faulty"] } else { &[] };
        calls.spawn(async move { (index, client.classify(ask(heads)).await) });
    }
    let mut failed = 0;
    while let Some(call) = timeout(TIMEOUT, calls.join_next())
        .await
        .expect("every call is answered")
    {
        match call.unwrap() {
            (30, answer) => {
                let code = answer.unwrap_err().code();
                assert!(matches!(code, Code::Internal | Code::Unavailable), "{code:?}");
                failed += 1;
            }
            (_, Err(status)) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                failed += 1;
            }
            (_, Ok(_)) => {}
        }
    }
    assert!(failed >= 1);
    for probe in ["/readyz", "/healthz"] {
        until(probe, || server.get(probe).0 == 503).await;
    }
    drop((client, reader));
    let status = tokio::task::spawn_blocking(move || server.wait());
    assert!(!timeout(TIMEOUT, status).await.unwrap().unwrap().success());
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("the device no longer computes"), "{log}");
}

#[tokio::test]
async fn a_device_that_always_fails_ends_the_server() {
    check_lost_device("fail").await;
}

#[tokio::test]
async fn a_device_that_always_panics_ends_the_server() {
    check_lost_device("panic").await;
}

#[tokio::test]
async fn a_lost_device_ends_the_server() {
    check_lost_device("lose").await;
}

/// Calls of the faulty head are INTERNAL, alone and beside a good head, while 200 calls of other heads succeed.
async fn check_faulty_head(fault: &str, text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (log, heads) = (dir.path().join("log"), dir.path().join("heads"));
    let fault = format!("{fault}:{FAULTY}");
    let server = Server::start_logging(&log, &heads, &null("1000", &["--null-fault", &fault]));
    let mut admin = server.admin().await;
    admin.replace_head(replace("good", 2, 1)).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let (mut client, stopped) = (server.classifier().await, Arc::clone(&stop));
    let faulty = tokio::spawn(async move {
        let mut calls = 0;
        while !stopped.load(Ordering::Relaxed) {
            // A new version is not known to fail, so it is batched with other heads.
            admin.replace_head(replace("faulty", FAULTY, calls)).await.unwrap();
            let status = client.classify(ask(&["faulty"])).await.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "{status:?}");
            calls += 1;
        }
        calls
    });
    let mut good = JoinSet::new();
    for _ in 0..4 {
        let mut client = server.classifier().await;
        good.spawn(async move {
            unary_calls(&mut client, 25, &ask(&["good"])).await;
            unary_calls(&mut client, 25, &ask(&[])).await;
        });
    }
    while let Some(client) = timeout(TIMEOUT, good.join_next()).await.unwrap() {
        client.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(faulty.await.unwrap() > 0);

    let answer = server
        .classifier()
        .await
        .classify(ask(&["good", "faulty"]))
        .await
        .unwrap();
    let results = answer.into_inner().results;
    assert_eq!((results[0].logits.len(), results[1].logits.len()), (2, 0));
    assert!(results[0].error.is_none(), "{results:?}");
    let error = results[1].error.as_ref().unwrap();
    assert_eq!(error.code, Code::Internal as i32);
    assert!(error.message.contains(text), "{error:?}");
    assert_eq!((server.get("/readyz").0, server.get("/healthz").0), (200, 200));
}

#[tokio::test]
async fn a_head_that_fails_its_batch_fails_alone() {
    check_faulty_head("poison", "the null backend is set to fail").await;
}

#[tokio::test]
async fn a_head_with_nan_outputs_fails_alone() {
    check_faulty_head("nan", "not finite").await;
}

/// With a bulk share of 0 the stream's request never runs, but a unary call for the same picture does.
#[tokio::test]
async fn a_unary_call_computes_a_picture_that_a_stalled_stream_requested_first() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(
        &dir,
        2 * MS,
        &["--bulk-share", "0", "--feature-cache-bytes-max", "1000000"],
    );
    // A head that overrides more than the last Linear is computed whole, past the cache.
    let deep = ReplaceHeadRequest {
        head: "deep".into(),
        source: Some(Source::Safetensors(
            safetensors(&demo_head_from(NARROW, "features.28", 4, 9), &[]).into(),
        )),
        ..Default::default()
    };
    server.admin().await.replace_head(deep).await.unwrap();
    let crowd = Crowd::unary(&server, 32, &ask(&["deep"])).await;
    until("the crowd waits", || crowd.answers() >= 32).await;
    let stream = unread(&server, None, 1, &ask(&[])).await;
    until("the stream's picture is in flight", || misses(&server) == 1).await;
    let (mut client, before) = (server.classifier().await, crowd.answers());
    timeout(TIMEOUT, unary_calls(&mut client, 1, &ask(&[])))
        .await
        .expect("the call is answered beside the crowd");
    // The call waited for earlier requests, at most one of each client, and not for the stream.
    let answered = crowd.answers() - before;
    assert!(answered < 10 * 32, "{answered} other calls were answered first");
    crowd.stop().await;
    drop(stream);
    until("the gauges are back at zero", || is_idle(&server)).await;
}
