//! Acknowledged heads survive, and accepted requests are answered.

use headswap_checkpoint::Digest;
use headswap_model::demo_head;
use headswap_proto::{ClassifyRequest, ClassifyStreamRequest, GetHeadRequest, ListHeadsRequest};
use tokio::task::JoinSet;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::support::{NARROW, Server, classify, replace};

#[tokio::test]
async fn acknowledged_heads_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    for (head, classes, seed) in [("cats", 2, 1), ("cats", 3, 2), ("cats", 4, 3), ("default", 5, 4)] {
        admin.replace_head(replace(head, classes, seed)).await.unwrap();
    }
    let answers = server
        .classifier()
        .await
        .classify(classify(&["cats", "default"]))
        .await
        .unwrap()
        .into_inner();
    server.signal(libc::SIGKILL);
    assert!(!server.wait().success());

    // A file of an interrupted write, and a damaged file.
    let backbone = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(backbone.join("cats/9.partial"), b"half").unwrap();
    std::fs::write(backbone.join("cats/4.safetensors"), b"damaged").unwrap();

    let server = Server::start(dir.path(), &[]);
    let again = server
        .classifier()
        .await
        .classify(classify(&["cats", "default"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.results, answers.results);
    assert_eq!((again.results[0].version, again.results[1].version), (3, 2));
    let digest = Digest::of_parameters(&demo_head(NARROW, 4, 3), &[]).to_string();
    assert_eq!(again.results[0].digest, digest);
    let mut admin = server.admin().await;
    let cats = admin
        .get_head(GetHeadRequest {
            head: "cats".into(),
            version: 0,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(cats.available_versions, [2, 3]);
    // The number of a version that was ever on the disk is not reused.
    let next = admin.replace_head(replace("cats", 2, 5)).await.unwrap().into_inner();
    assert_eq!((next.head.unwrap().version, next.previous_version), (5, 3));
    let heads = admin
        .list_heads(ListHeadsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .heads;
    assert_eq!(
        heads.iter().map(|head| head.head.as_str()).collect::<Vec<_>>(),
        ["cats", "default"]
    );
    assert!(!backbone.join("cats/9.partial").exists());
}

#[tokio::test]
async fn sigterm_answers_everything_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut health = HealthClient::new(server.channel().await);
    let service = "headswap.v1.ClassifierService".to_owned();
    let mut watch = health.watch(HealthCheckRequest { service }).await.unwrap().into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status,
        ServingStatus::Serving as i32
    );

    let mut requests = JoinSet::new();
    for _ in 0..64 {
        let mut client = server.classifier().await;
        requests.spawn(async move { client.classify(classify(&[])).await });
    }
    // The first response shows that requests are in flight.
    let mut answered = 0;
    requests.join_next().await.unwrap().unwrap().unwrap();
    server.signal(libc::SIGTERM);
    assert_eq!(
        watch.message().await.unwrap().unwrap().status,
        ServingStatus::NotServing as i32
    );
    while let Some(answer) = requests.join_next().await {
        match answer.unwrap() {
            Ok(_) => answered += 1,
            // Not accepted: the request was sent after the GOAWAY on its connection.
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
    assert!(answered > 0);
    // The server must end the watch, which has no end of its own.
    while let Some(change) = watch.message().await.unwrap() {
        assert_eq!(change.status, ServingStatus::NotServing as i32);
    }
    assert!(server.wait().success());
}

#[tokio::test]
async fn sigterm_ends_a_stream_after_its_answers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (requests, receiver) = tokio::sync::mpsc::channel(32);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = server
        .classifier()
        .await
        .classify_stream(stream)
        .await
        .unwrap()
        .into_inner();
    for id in 0..32 {
        let request = ClassifyRequest {
            request_id: id.to_string(),
            ..classify(&[])
        };
        let request = Some(request);
        requests.send(ClassifyStreamRequest { request }).await.unwrap();
    }
    // The first response shows that requests are in flight.
    answers.message().await.unwrap().unwrap();
    server.signal(libc::SIGTERM);
    let mut answered = 1;
    let end = loop {
        match answers.message().await {
            Ok(answer) => {
                let results = answer.expect("an error ends the stream").response.unwrap().results;
                assert!(results.iter().all(|result| result.error.is_none()));
                answered += 1;
            }
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert!(end.get_details_retry_info().is_some());
    assert!((1..=32).contains(&answered));
    assert!(server.wait().success());
}

/// Clients that have not noticed the shutdown are served during `--drain-delay-ms`.
#[tokio::test]
async fn during_the_drain_delay_new_requests_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--drain-delay-ms", "86400000"]);
    let mut health = HealthClient::new(server.channel().await);
    let service = "headswap.v1.ClassifierService".to_owned();
    let mut watch = health.watch(HealthCheckRequest { service }).await.unwrap().into_inner();
    watch.message().await.unwrap();
    server.signal(libc::SIGTERM);
    assert_eq!(
        watch.message().await.unwrap().unwrap().status,
        ServingStatus::NotServing as i32
    );
    assert_eq!(server.get("/readyz").0, 503);
    assert_eq!(server.get("/healthz").0, 200);
    server.classifier().await.classify(classify(&[])).await.unwrap();
}

/// The demo checks every response against the version that it names, and that no version is older than the acknowledged one.
#[test]
fn swaps_under_load_lose_and_mix_nothing() {
    let mut demo = std::process::Command::new(env!("CARGO_BIN_EXE_headswap"));
    demo.args([
        "demo",
        "--arch",
        "vgg16-narrow",
        "--clients",
        "24",
        "--swaps",
        "60",
        "--json",
    ]);
    let output = demo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&figures["failed"], &figures["wrong"], &figures["swaps"]),
        (&0.into(), &0.into(), &60.into())
    );
    assert!(figures["versions_seen"].as_u64().unwrap() > 30, "{figures}");
}

#[test]
fn the_error_for_missing_weights_names_the_alternatives() {
    let stderr = failed_start(&["--in-flight-max", "0"]);
    assert!(
        stderr.contains("--weights demo") && stderr.contains("--in-flight-max"),
        "{stderr}"
    );
    let ports = [
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
    ];
    let stderr = failed_start(&[&["--weights", "/no/such.safetensors"], &ports[..]].concat());
    assert!(stderr.contains("/no/such.safetensors"), "{stderr}");
}

/// Returns the errors of a server that does not start.
fn failed_start(args: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_headswap"));
    command.arg("serve").args(args).env_remove("HEADSWAP_WEIGHTS");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}
