//! UploadHead: files in pieces, whole or not at all.

use std::path::{Path, PathBuf};

use headswap_model::demo_head;
use headswap_proto::upload_head_request::Part;
use headswap_proto::{GetHeadRequest, UploadHeadHeader, UploadHeadRequest, UploadHeadResponse};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Admin, NARROW, Server, classify, replace, safetensors};

fn header(head: &str) -> UploadHeadHeader {
    UploadHeadHeader {
        head: head.into(),
        ..Default::default()
    }
}

fn part(part: Part) -> UploadHeadRequest {
    UploadHeadRequest { part: Some(part) }
}

fn parts(header: UploadHeadHeader, file: &[u8], chunk: usize) -> Vec<UploadHeadRequest> {
    let chunks = file.chunks(chunk).map(|chunk| part(Part::Chunk(chunk.to_vec().into())));
    std::iter::once(part(Part::Header(header))).chain(chunks).collect()
}

async fn send(admin: &mut Admin, parts: Vec<UploadHeadRequest>) -> Result<UploadHeadResponse, Status> {
    let answer = admin.upload_head(tokio_stream::iter(parts)).await;
    answer.map(tonic::Response::into_inner)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of uploads that are under way.
fn uploads(dir: &Path) -> Vec<PathBuf> {
    let backbone = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let files = std::fs::read_dir(backbone.join(".uploads")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

#[tokio::test]
async fn an_upload_is_a_replacement_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    // More than a message of default size: 7 MiB.
    const CLASSES: usize = 14_000;
    let file = safetensors(&demo_head(NARROW, CLASSES, 1), &[]);
    assert!(file.len() > 4 << 20);
    let whole = UploadHeadHeader {
        labels: (0..CLASSES).map(|class| format!("class {class}")).collect(),
        annotations: [("run".to_owned(), "42".to_owned())].into(),
        size_bytes: file.len() as u64,
        sha256: hex(&Sha256::digest(&file)),
        ..header("wide")
    };
    let dry = UploadHeadHeader {
        dry_run: true,
        ..whole.clone()
    };
    let answer = send(&mut admin, parts(dry, &file, 1 << 20)).await.unwrap();
    assert_eq!((answer.previous_version, answer.head.unwrap().version), (0, 1));
    let get = GetHeadRequest {
        head: "wide".into(),
        version: 0,
    };
    assert_eq!(admin.get_head(get.clone()).await.unwrap_err().code(), Code::NotFound);

    let uploaded = send(&mut admin, parts(whole.clone(), &file, 100_000)).await.unwrap();
    let uploaded = uploaded.head.unwrap();
    assert!(uploaded.live && uploaded.version == 1 && uploaded.classes == CLASSES as u32);
    assert_eq!(
        (uploaded.labels.len(), &uploaded.annotations["run"]),
        (CLASSES, &"42".to_owned())
    );
    let known = admin.get_head(get).await.unwrap().into_inner().head.unwrap();
    assert_eq!(known, uploaded);
    let stale = UploadHeadHeader {
        expected_version: Some(0),
        ..whole
    };
    let status = send(&mut admin, parts(stale, &file, 1 << 20)).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");

    // The same numbers come to the same head, however they came.
    let replaced = admin
        .replace_head(replace("one", 3, 7))
        .await
        .unwrap()
        .into_inner()
        .head
        .unwrap();
    let small = safetensors(&demo_head(NARROW, 3, 7), &[]);
    let uploaded = send(&mut admin, parts(header("other"), &small, 7))
        .await
        .unwrap()
        .head
        .unwrap();
    assert_eq!(uploaded.digest, replaced.digest);
    let results = server
        .classifier()
        .await
        .classify(classify(&["one", "other", "wide"]))
        .await
        .unwrap();
    let results = results.into_inner().results;
    assert_eq!(results[0].logits, results[1].logits);
    assert_eq!(
        results[2].predictions[0].label,
        format!("class {}", results[2].predictions[0].index)
    );
    assert!(uploads(dir.path()).is_empty());
}

#[tokio::test]
async fn wrong_uploads_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--upload-bytes-max", "100000"]);
    let mut admin = server.admin().await;
    admin.replace_head(replace("cats", 2, 1)).await.unwrap();
    let file = safetensors(&demo_head(NARROW, 2, 2), &[]);
    let length = file.len() as u64;
    let size = |size_bytes| UploadHeadHeader {
        size_bytes,
        ..header("cats")
    };
    let chunk = |bytes: usize| part(Part::Chunk(vec![0; bytes].into()));
    let invalid = Code::InvalidArgument;
    let whole = || parts(header("cats"), &file, 1000);
    let cases: Vec<(Vec<UploadHeadRequest>, Code, &str)> = vec![
        (Vec::new(), invalid, "first message must hold the header"),
        (whole().split_off(1), invalid, "first message must hold the header"),
        (
            vec![UploadHeadRequest::default()],
            invalid,
            "neither a header nor a chunk",
        ),
        ([whole(), whole()].concat(), invalid, "there is a second one"),
        (vec![part(Part::Header(header("cats")))], invalid, "it is empty"),
        (parts(header("No Name"), &file, 1000), invalid, "not a valid head name"),
        (parts(size(length + 1), &file, 1000), invalid, "of the announced"),
        (parts(size(length - 1), &file, 1000), invalid, "more than the announced"),
        (
            parts(size(100_001), &file, 1000),
            Code::ResourceExhausted,
            "raise --upload-bytes-max",
        ),
        (
            vec![part(Part::Header(header("cats"))), chunk(60_000), chunk(60_000)],
            Code::ResourceExhausted,
            "raise --upload-bytes-max",
        ),
        (
            vec![part(Part::Header(header("cats"))), chunk((4 << 20) + 1)],
            invalid,
            "send more of them",
        ),
        (
            parts(
                UploadHeadHeader {
                    sha256: hex(&Sha256::digest(b"another")),
                    ..header("cats")
                },
                &file,
                1000,
            ),
            invalid,
            "another was announced; send it again",
        ),
        (
            parts(header("cats"), &file[..file.len() - 1], 1000),
            invalid,
            "safetensors file is damaged",
        ),
        (
            parts(
                UploadHeadHeader {
                    labels: vec!["one".into()],
                    ..header("cats")
                },
                &file,
                1000,
            ),
            invalid,
            "1 for 2 classes",
        ),
    ];
    for (parts, code, text) in cases {
        let status = send(&mut admin, parts).await.expect_err(text);
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?} lacks {text:?}");
    }
    let get = GetHeadRequest {
        head: "cats".into(),
        version: 0,
    };
    assert_eq!(admin.get_head(get).await.unwrap().into_inner().available_versions, [1]);
    let whole = UploadHeadHeader {
        size_bytes: length,
        ..header("cats")
    };
    assert_eq!(
        send(&mut admin, parts(whole, &file, 1000))
            .await
            .unwrap()
            .previous_version,
        1
    );
    while server.metric("headswap_uploads_in_flight") > 0.0 {}
    assert!(uploads(dir.path()).is_empty());
}

/// An upload that has sent a header and a piece, and does not end.
async fn unfinished(server: &Server) -> (mpsc::Sender<UploadHeadRequest>, tokio::task::JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(part(Part::Header(header("slow")))).await.unwrap();
    sender.send(part(Part::Chunk(vec![7; 1000].into()))).await.unwrap();
    let mut admin = server.admin().await;
    let upload = tokio::spawn(async move {
        let answer = admin.upload_head(ReceiverStream::new(receiver)).await;
        panic!("it never ends: {answer:?}");
    });
    (sender, upload)
}

/// Waits until the piece has come to the disk.
async fn arrived(dir: &Path) {
    let whole = |file: &PathBuf| file.metadata().is_ok_and(|file| file.len() == 1000);
    while !uploads(dir).iter().any(whole) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn uploads_are_bounded_and_a_client_that_goes_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--uploads-max", "1"]);
    let (_sender, upload) = unfinished(&server).await;
    arrived(dir.path()).await;
    assert_eq!(server.metric("headswap_uploads_in_flight"), 1.0);

    let mut admin = server.admin().await;
    let file = safetensors(&demo_head(NARROW, 2, 2), &[]);
    let status = send(&mut admin, parts(header("cats"), &file, 1000)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(
        status.get_details_quota_failure().unwrap().violations[0].subject,
        "--uploads-max"
    );
    // The others go on meanwhile.
    admin.replace_head(replace("cats", 2, 1)).await.unwrap();

    upload.abort();
    while !uploads(dir.path()).is_empty() || server.metric("headswap_uploads_in_flight") > 0.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        send(&mut admin, parts(header("cats"), &file, 1000))
            .await
            .unwrap()
            .previous_version,
        1
    );
}

#[tokio::test]
async fn an_upload_that_kill_9_ends_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (_sender, upload) = unfinished(&server).await;
    arrived(dir.path()).await;
    server.signal(libc::SIGKILL);
    server.wait();
    upload.abort();
    assert_eq!(uploads(dir.path()).len(), 1);
    let server = Server::start(dir.path(), &[]);
    assert!(uploads(dir.path()).is_empty());
    let get = GetHeadRequest {
        head: "slow".into(),
        version: 0,
    };
    assert_eq!(
        server.admin().await.get_head(get).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn the_command_line_uploads_what_is_large() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let files = tempfile::tempdir().unwrap();
    let replace = |classes: usize, args: &[&str]| {
        let path = files.path().join(format!("{classes}.safetensors"));
        std::fs::write(&path, safetensors(&demo_head(NARROW, classes, 1), &[])).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_headswap"));
        command.args([
            "head",
            "replace",
            "cats",
            path.to_str().unwrap(),
            "--admin-address",
            &server.admin,
        ]);
        command.args(args).output().unwrap()
    };
    let requests = |method: &str| server.metric(&format!("headswap_requests_total{{method=\"{method}\",code=\"Ok\"}}"));
    let output = replace(2, &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = replace(10_000, &["--json", "--annotate", "run=7", "--expected-version", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&said["head"]["version"], &said["previous_version"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&said["head"]["annotations"]["run"], &said["head"]["classes"]),
        (&"7".into(), &10_000.into())
    );
    assert_eq!((requests("ReplaceHead"), requests("UploadHead")), (1.0, 1.0));
    let output = replace(10_000, &["--expected-version", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Aborted: the live version is 2, not 1"), "{said}");
}
