//! Connections: limits, deadlines, HTTP/2 errors, and how a shutdown closes them.

use std::time::{Duration, Instant};

use crate::support::wire::{
    self, ACK, CLASSIFY, CLASSIFY_STREAM, Client, DATA, END_STREAM, GOAWAY, HEADERS, HEALTH_CHECK, HEALTH_WATCH,
    LIST_HEADS, PING, PREFACE, REFLECTION, RST_STREAM, UPLOAD_HEAD, answer, frame, headers, message, opening, ping,
    read_frame, reset, send_and_ping,
};
use bytes::Bytes;
use headswap_proto::{
    ClassifyRequest, ClassifyStreamRequest, ListHeadsRequest, ReplaceHeadRequest, UploadHeadHeader, UploadHeadRequest,
    upload_head_request::Part,
};
use http::Method;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::support::{Server, classify};

/// Far less than `--drain-ms-max`, and enough for a machine under load.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A picture of one pixel.
const GIF: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x01D\0;";

const HALF_A_MESSAGE: &[u8] = &[0, 0, 0, 1, 0, 10, 20];

/// Returns every kind of connection that its client never ends: a name, the bytes sent, and true if they include a complete
/// preface.
fn unending(paths: &[&str]) -> Vec<(String, Vec<u8>, bool)> {
    let mut kinds = vec![
        ("silent".to_owned(), Vec::new(), false),
        ("part of a preface".to_owned(), b"PRI * HT".to_vec(), false),
        ("a preface without settings".to_owned(), PREFACE.to_vec(), false),
        (
            "part of HTTP/1".to_owned(),
            b"GET / HTTP/1.1\r\nhost: x\r\n".to_vec(),
            false,
        ),
        ("idle".to_owned(), opening(), true),
    ];
    for path in paths {
        let open = [opening(), headers(1, path)].concat();
        let half = [open.clone(), frame(DATA, 0, 1, HALF_A_MESSAGE)].concat();
        let whole = [open.clone(), frame(DATA, 0, 1, &message(b""))].concat();
        let watch = [open.clone(), frame(DATA, END_STREAM, 1, &message(b""))].concat();
        kinds.push((format!("no message for {path}"), open, true));
        kinds.push((format!("half a message for {path}"), half, true));
        kinds.push((format!("a message without an end for {path}"), whole, true));
        if *path == HEALTH_WATCH {
            kinds.push(("a health watch".to_owned(), watch, true));
        }
    }
    kinds
}

/// Opens a connection of each kind. The clients read nothing after the server has received their bytes.
async fn open_all<IO, F>(connect: impl Fn() -> F, paths: &[&str]) -> Vec<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = IO>,
{
    let mut open = Vec::new();
    for (_, bytes, valid) in unending(paths) {
        let mut io = connect().await;
        if valid {
            send_and_ping(&mut io, &bytes).await;
        } else {
            io.write_all(&bytes).await.unwrap();
        }
        open.push(io);
    }
    open
}

async fn unix_stream(path: &str) -> UnixStream {
    UnixStream::connect(path).await.unwrap()
}

async fn tcp(address: &str) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// No kind of connection delays the shutdown of any listener.
#[tokio::test]
async fn no_connection_holds_the_shutdown() {
    let common = [HEALTH_CHECK, HEALTH_WATCH, REFLECTION];
    let classification = [&[CLASSIFY, CLASSIFY_STREAM], &common[..]].concat();
    let administration = [&[LIST_HEADS, UPLOAD_HEAD], &common[..]].concat();
    for listener in ["grpc", "admin", "http", "unix"] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let unix = format!("unix:{}", dir.path().join("grpc.sock").display());
        let flags: &[&str] = if listener == "unix" { &["--listen", &unix] } else { &[] };
        let server = Server::start_logging(&log, &dir.path().join("heads"), flags);
        let (mut tcp_streams, mut unix_streams) = (Vec::new(), Vec::new());
        match listener {
            "grpc" => tcp_streams = open_all(|| tcp(&server.grpc), &classification).await,
            "admin" => tcp_streams = open_all(|| tcp(&server.admin), &administration).await,
            "http" => {
                for text in [
                    "",
                    "GET /readyz HTTP/1.1\r\nhost: x\r\n",
                    "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n",
                ] {
                    let mut io = tcp(&server.http).await;
                    io.write_all(text.as_bytes()).await.unwrap();
                    tcp_streams.push(io);
                }
            }
            _ => {
                let path = unix.strip_prefix("unix:").unwrap();
                unix_streams = open_all(|| unix_stream(path), &classification).await;
            }
        }
        server.signal(libc::SIGTERM);
        let started = Instant::now();
        let status = server.wait();
        let took = started.elapsed();
        assert!(
            status.success() && took < AT_ONCE,
            "{listener}: {status} after {took:?}"
        );
        let text = std::fs::read_to_string(&log).unwrap();
        if listener != "http" {
            assert!(
                text.contains("refused") && text.contains("without a complete preface"),
                "{listener}: {text}"
            );
        }
        drop((tcp_streams, unix_streams));
    }
}

/// A client that reads receives the reason.
#[tokio::test]
async fn a_shutdown_refuses_requests_whose_message_has_not_arrived() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut calls = Vec::new();
    for (address, path) in [
        (&server.grpc, CLASSIFY),
        (&server.admin, LIST_HEADS),
        (&server.admin, UPLOAD_HEAD),
    ] {
        let client = Client::connect(address).await;
        let (response, body) = client.begin(path, &[], HALF_A_MESSAGE).await;
        calls.push((response, body, client));
    }
    let mut stream = server.classifier().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<ClassifyStreamRequest>(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = stream.classify_stream(requests).await.unwrap().into_inner();
    server.signal(libc::SIGTERM);
    for (response, body, client) in calls {
        let status = answer(response).await.grpc.unwrap();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("shutting down"), "{status:?}");
        assert!(status.get_details_retry_info().is_some());
        drop((body, client));
    }
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(server.wait().success());
    drop(sender);
}

/// The rest of the request's message arrives after the GOAWAY.
#[tokio::test]
async fn a_request_in_transit_at_the_shutdown_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let client = Client::connect(&server.grpc).await;
    let body = message(&classify(&[]).encode_to_vec());
    let (first, rest) = body.split_at(100);
    let (response, mut stream) = client.begin(CLASSIFY, &[], first).await;
    let mut health = HealthClient::new(server.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();
    server.signal(libc::SIGTERM);
    // The end of the watch shows that the server has sent the GOAWAYs.
    while watch.message().await.unwrap().is_some() {}
    stream.send_data(Bytes::copy_from_slice(rest), true).unwrap();
    let status = answer(response).await.grpc.unwrap();
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    assert!(server.wait().success());
}

#[tokio::test]
async fn a_shutdown_reports_how_many_accepted_requests_are_unanswered() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let flags = ["--drain-ms-max", "0", "--threads", "1"];
    let server = Server::start_logging(&log, &dir.path().join("heads"), &flags);
    let mut requests = JoinSet::new();
    for _ in 0..4 {
        let mut client = server.classifier().await;
        for _ in 0..60 {
            let mut client = client.clone();
            requests.spawn(async move { client.classify(classify(&[])).await });
        }
        client.embed(headswap_proto::EmbedRequest::default()).await.unwrap_err();
    }
    // The first response shows that requests are in flight.
    requests.join_next().await.unwrap().unwrap().unwrap();
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(1));
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("accepted requests were still unanswered after 0ns of draining (--drain-ms-max)"),
        "{text}"
    );
}

#[tokio::test]
async fn probes_and_metrics_are_served_during_the_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    // A connection that delays the shutdown for the whole grace period.
    let mut idle = tcp(&server.grpc).await;
    send_and_ping(&mut idle, &opening()).await;
    let mut kept = tcp(&server.http).await;
    server.signal(libc::SIGTERM);
    while server.get("/readyz").0 == 200 {}
    assert_eq!(server.get("/healthz").0, 200);
    kept.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut text = [0; 15];
    kept.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"HTTP/1.1 200 OK");
    assert!(server.wait().success());
}

/// If the HTTP probe succeeds, the gRPC health is SERVING.
#[tokio::test]
async fn readiness_is_never_ahead_of_health() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::spawn(dir.path(), &[]);
    let mut health = HealthClient::new(server.channel().await);
    while server.get("/readyz").0 != 200 {}
    let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status, tonic_health::ServingStatus::Serving as i32);
}

#[tokio::test]
async fn streams_and_headers_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    for address in [&server.grpc, &server.admin] {
        let client = Client::connect(address).await;
        assert_eq!(
            client.ask(HEALTH_CHECK, &[], &message(b"")).await.grpc.unwrap().code(),
            Code::Ok
        );
        assert_eq!(client.0.current_max_send_streams(), 100);
        let large = "x".repeat(17 << 10);
        let refused = client.ask(HEALTH_CHECK, &[("x", &large)], &message(b"")).await;
        assert_eq!(refused.http, 431);
        // The connection stays open.
        let allowed = client
            .ask(HEALTH_CHECK, &[("x", &large[..15 << 10])], &message(b""))
            .await;
        assert_eq!(allowed.grpc.unwrap().code(), Code::Ok);
    }
    let server = Server::start(dir.path(), &["--streams-per-connection-max", "7"]);
    let client = Client::connect(&server.grpc).await;
    client.ask(HEALTH_CHECK, &[], &message(b"")).await;
    assert_eq!(client.0.current_max_send_streams(), 7);
}

#[tokio::test]
async fn a_stalled_message_fails_only_its_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--stream-idle-ms-max", "200"]);
    let (grpc, admin) = (
        Client::connect(&server.grpc).await,
        Client::connect(&server.admin).await,
    );
    let classify_stream = message(
        &ClassifyStreamRequest {
            request: Some(classify(&[])),
        }
        .encode_to_vec(),
    );
    // A stream may pause between messages.
    let (_paused, _body) = grpc.begin(CLASSIFY_STREAM, &[], &classify_stream).await;
    let half_of_second = [&classify_stream, HALF_A_MESSAGE].concat();
    for (client, path, part) in [
        (&grpc, CLASSIFY, &[][..]),
        (&grpc, CLASSIFY, HALF_A_MESSAGE),
        (&grpc, CLASSIFY_STREAM, HALF_A_MESSAGE),
        (&grpc, CLASSIFY_STREAM, &half_of_second),
        (&grpc, HEALTH_WATCH, HALF_A_MESSAGE),
        (&admin, LIST_HEADS, HALF_A_MESSAGE),
        (&admin, UPLOAD_HEAD, HALF_A_MESSAGE),
    ] {
        let (response, body) = client.begin(path, &[], part).await;
        let status = answer(response).await.grpc.unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{path}: {status:?}");
        assert!(status.message().contains("--stream-idle-ms-max"), "{path}: {status:?}");
        drop(body);
    }
    assert_eq!(
        grpc.ask(HEALTH_CHECK, &[], &message(b"")).await.grpc.unwrap().code(),
        Code::Ok
    );
}

/// `grpc-timeout` counts from the arrival of the headers, and also applies to services that ignore it.
#[tokio::test]
async fn a_deadline_that_passes_is_deadline_exceeded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (grpc, admin) = (
        Client::connect(&server.grpc).await,
        Client::connect(&server.admin).await,
    );
    let timeout = [("grpc-timeout", "100m")];
    for (client, path) in [
        (&grpc, CLASSIFY),
        (&grpc, HEALTH_CHECK),
        (&grpc, HEALTH_WATCH),
        (&admin, LIST_HEADS),
        (&admin, UPLOAD_HEAD),
        (&admin, "/headswap.v1.HeadAdminService/ReplaceHead"),
    ] {
        for part in [&[][..], HALF_A_MESSAGE] {
            let (response, body) = client.begin(path, &timeout, part).await;
            let answer = answer(response).await;
            // A response of headers only ("Trailers-Only"), as gRPC requires for errors.
            let status = Status::from_header_map(&answer.headers).unwrap();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{path}: {status:?}");
            // UploadHead checks the deadline itself.
            let expected = match path {
                UPLOAD_HEAD => "the deadline passed while the file was being sent; nothing was changed",
                _ => "the deadline passed while the request's message was arriving",
            };
            assert_eq!(status.message(), expected, "{path}");
            drop(body);
        }
    }
    // The server must end the watch, which has no end of its own.
    let watched = grpc.ask(HEALTH_WATCH, &timeout, &message(b"")).await.grpc.unwrap();
    assert_eq!(watched.code(), Code::DeadlineExceeded, "{watched:?}");
    // Classify checks the deadline itself.
    let body = message(&classify(&[]).encode_to_vec());
    let status = grpc.ask(CLASSIFY, &[("grpc-timeout", "1n")], &body).await.grpc.unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    for malformed in ["abc", "-1S", "1", "", "999999999S"] {
        let status = grpc
            .ask(CLASSIFY, &[("grpc-timeout", malformed)], &body)
            .await
            .grpc
            .unwrap();
        assert_eq!(status.code(), Code::Ok, "{malformed:?}: {status:?}");
    }
}

/// Load balancers may probe the gRPC port by HTTP.
#[tokio::test]
async fn requests_that_are_not_grpc_get_http_responses() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    for address in [&server.grpc, &server.admin] {
        let client = Client::connect(address).await;
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT] {
            let request = http::Request::builder().method(method.clone()).uri("http://localhost/");
            let (response, _) = client.send(request.body(()).unwrap(), true).await;
            let answer = answer(response).await;
            assert_eq!((answer.http.as_u16(), answer.grpc.is_none()), (405, true), "{method}");
            assert_eq!(answer.headers["allow"], "POST");
        }
        for (content_type, http) in [
            ("", 415),
            ("application/json", 415),
            ("application/grpc-web+proto", 415),
            ("application/grpc+json", 415),
            ("application/grpc", 200),
            ("application/grpc+proto", 200),
            ("application/grpc;charset=utf-8", 200),
        ] {
            let mut request = wire::call(HEALTH_CHECK, &[]);
            request
                .headers_mut()
                .insert("content-type", content_type.parse().unwrap());
            let (response, mut body) = client.send(request, false).await;
            let _ = body.send_data(message(b"").into(), true);
            let answer = answer(response).await;
            let expected = (http == 200).then_some(Code::Ok);
            assert_eq!(
                (answer.http.as_u16(), answer.grpc.map(|status| status.code())),
                (http, expected),
                "{content_type}"
            );
        }
        let status = client
            .ask("/AWS.ALB/healthcheck", &[], &message(b""))
            .await
            .grpc
            .unwrap();
        assert_eq!(status.code() as i32, 12);
        assert!(status.message().contains("this port serves"), "{status:?}");
    }
    let client = Client::connect(&server.grpc).await;
    let status = client.ask(LIST_HEADS, &[], &message(b"")).await.grpc.unwrap();
    let expected = "headswap.v1.HeadAdminService is served on the administration port (--admin-listen)";
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, expected));
    let client = Client::connect(&server.admin).await;
    let status = client.ask(CLASSIFY, &[], &message(b"")).await.grpc.unwrap();
    let expected = "headswap.v1.ClassifierService is served on the classification port (--listen)";
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, expected));
}

#[tokio::test]
async fn each_port_reports_the_health_of_its_own_services() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let admin = tonic::transport::Endpoint::from_shared(format!("http://{}", server.admin)).unwrap();
    let admin = admin.connect().await.unwrap();
    let (classifier_name, admin_name) = ("headswap.v1.ClassifierService", "headswap.v1.HeadAdminService");
    for (channel, own, other) in [
        (server.channel().await, classifier_name, admin_name),
        (admin, admin_name, classifier_name),
    ] {
        let mut health = HealthClient::new(channel);
        for service in ["", own] {
            let service = service.to_owned();
            let answer = health.check(HealthCheckRequest { service }).await.unwrap().into_inner();
            assert_eq!(answer.status, tonic_health::ServingStatus::Serving as i32);
        }
        let service = other.to_owned();
        assert_eq!(
            health.check(HealthCheckRequest { service }).await.unwrap_err().code(),
            Code::NotFound
        );
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_resource_exhausted() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--message-bytes-max", "150000", "--admin-message-bytes-max", "200000"];
    let server = Server::start(dir.path(), &flags);
    // Zeros, which compress to less than the limit.
    let image = Some(headswap_proto::classify_request::Input::Image(vec![0; 300_000].into()));
    let request = ClassifyRequest {
        input: image,
        ..Default::default()
    };
    let stream = ClassifyStreamRequest {
        request: Some(request.clone()),
    };
    let file = Some(headswap_proto::replace_head_request::Source::Safetensors(
        vec![0; 300_000].into(),
    ));
    let replace = ReplaceHeadRequest {
        source: file,
        head: "cats".into(),
        ..Default::default()
    };
    let header = UploadHeadHeader {
        head: "cats".into(),
        ..Default::default()
    };
    let parts = [Part::Header(header), Part::Chunk(vec![0; 300_000].into())];
    let parts = parts.map(|part| UploadHeadRequest { part: Some(part) });
    for encoding in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let (mut classifier, mut admin) = (server.classifier().await, server.admin().await);
        if let Some(encoding) = encoding {
            classifier = classifier.send_compressed(encoding);
            admin = admin.send_compressed(encoding);
        }
        let status = classifier.classify(request.clone()).await.unwrap_err();
        check_too_large(&status, "--message-bytes-max", "150000");
        let requests = tokio_stream::iter([stream.clone()]);
        let mut answers = classifier.classify_stream(requests).await.unwrap().into_inner();
        let status = answers.message().await.unwrap_err();
        check_too_large(&status, "--message-bytes-max", "150000");
        let status = admin.replace_head(replace.clone()).await.unwrap_err();
        check_too_large(&status, "--admin-message-bytes-max", "200000");
        let uploaded = admin.upload_head(tokio_stream::iter(parts.clone())).await;
        check_too_large(&uploaded.unwrap_err(), "--admin-message-bytes-max", "200000");
        // The connections stay open.
        classifier.classify(classify(&[])).await.unwrap();
        admin.list_heads(ListHeadsRequest::default()).await.unwrap();
    }
}

fn check_too_large(status: &Status, setting: &str, limit: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(
        status.message().contains(setting) && status.message().contains(limit),
        "{status:?}"
    );
    let violations = status.get_details_quota_failure().unwrap().violations;
    assert_eq!(violations[0].subject, setting);
}

/// A client cancels the calls whose deadlines pass, so a thousand on one connection are not an attack.
#[tokio::test]
async fn a_thousand_cancelled_requests_do_not_close_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    // In one burst, before the server has accepted any.
    let mut burst = opening();
    for stream in (1..2_000).step_by(2) {
        burst.extend([headers(stream, CLASSIFY), reset(stream)].concat());
    }
    // Then in flight, each with its complete message, in groups of 100, the limit on open calls.
    let image = Some(headswap_proto::classify_request::Input::Image(GIF.into()));
    let request = ClassifyRequest {
        input: image,
        ..Default::default()
    };
    let body = message(&request.encode_to_vec());
    let mut io = tcp(&server.grpc).await;
    send_and_ping(&mut io, &burst).await;
    let mut streams = (2_001_u32..).step_by(2);
    for _ in 0..10 {
        let (mut calls, mut resets) = (Vec::new(), Vec::new());
        for stream in streams.by_ref().take(100) {
            calls.extend([headers(stream, CLASSIFY), frame(DATA, END_STREAM, stream, &body)].concat());
            resets.extend(reset(stream));
        }
        send_and_ping(&mut io, &calls).await;
        send_and_ping(&mut io, &resets).await;
    }
    let stream = streams.next().unwrap();
    let check = [
        headers(stream, HEALTH_CHECK),
        frame(DATA, END_STREAM, stream, &message(b"")),
    ]
    .concat();
    io.write_all(&check).await.unwrap();
    loop {
        let (kind, of_stream, _, _) = read_frame(&mut io).await.unwrap();
        assert!(kind != GOAWAY && (kind, of_stream) != (RST_STREAM, stream));
        if (kind, of_stream) == (HEADERS, stream) {
            break;
        }
    }
}

/// Rapid reset (CVE-2023-44487): as fast as the client can send, and with a ping after each burst, so that no queue
/// overflows.
#[tokio::test]
async fn a_flood_of_resets_closes_only_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let other = Client::connect(&server.grpc).await;
    for wait_for_pings in [false, true] {
        let mut io = tcp(&server.grpc).await;
        io.write_all(&opening()).await.unwrap();
        let (mut reader, mut writer) = io.split();
        let (acked, mut acks) = tokio::sync::watch::channel(0_u64);
        let read = async {
            while let Some((kind, _, flags, payload)) = read_frame(&mut reader).await {
                match (kind, flags) {
                    (GOAWAY, _) => return true,
                    (PING, ACK) => acked.send_modify(|acked| *acked = u64::from_be_bytes(payload.try_into().unwrap())),
                    _ => {}
                }
            }
            false
        };
        let write = async {
            for burst in 1..=1_000 {
                let mut bytes = Vec::new();
                for request in 0..100 {
                    let stream = 2 * ((burst - 1) * 100 + request) + 1;
                    bytes.extend([headers(stream, CLASSIFY), reset(stream)].concat());
                }
                bytes.extend(ping(u64::from(burst)));
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
                if wait_for_pings {
                    acks.wait_for(|acked| *acked >= u64::from(burst)).await.unwrap();
                }
            }
        };
        let goaway = async {
            tokio::select! {
                goaway = read => goaway,
                never = async { write.await; std::future::pending().await } => never,
            }
        };
        let goaway = tokio::time::timeout(Duration::from_secs(60), goaway).await;
        let goaway = goaway.expect("the server accepted 100,000 resets without a GOAWAY");
        assert!(goaway, "the connection ended without a GOAWAY");
        let body = message(&classify(&[]).encode_to_vec());
        assert_eq!(other.ask(CLASSIFY, &[], &body).await.grpc.unwrap().code(), Code::Ok);
    }
}

#[tokio::test]
async fn pings_are_answered_without_calls() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut io = tcp(&server.grpc).await;
    let pings: Vec<u8> = (1..=1_000).flat_map(ping).collect();
    io.write_all(&[opening(), pings].concat()).await.unwrap();
    let mut acks = 0;
    while acks < 1_000 {
        let (kind, _, flags, _) = read_frame(&mut io).await.unwrap();
        assert_ne!(kind, GOAWAY);
        acks += u32::from((kind, flags) == (PING, ACK));
    }
}
