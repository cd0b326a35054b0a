//! UploadHead: files in chunks, stored completely or not at all.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

/// Returns the files of unfinished uploads.
fn uploads(dir: &Path) -> Vec<PathBuf> {
    let backbone = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let files = std::fs::read_dir(backbone.join(".uploads")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

#[tokio::test]
async fn an_upload_replaces_a_head_in_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    // 7 MiB, more than tonic's default message limit of 4 MiB.
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

    let request = classify(&["wide"]);
    let response = server.classifier().await.classify(request).await.unwrap();
    let best = &response.into_inner().results[0].predictions[0];
    assert_eq!(best.label, format!("class {}", best.index));
    assert!(uploads(dir.path()).is_empty());
}

#[tokio::test]
async fn an_uploaded_head_equals_a_replaced_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    let replaced = admin.replace_head(replace("one", 3, 7)).await.unwrap().into_inner();
    let file = safetensors(&demo_head(NARROW, 3, 7), &[]);
    let uploaded = send(&mut admin, parts(header("other"), &file, 7)).await.unwrap();
    assert_eq!(uploaded.head.unwrap().digest, replaced.head.unwrap().digest);
    let request = classify(&["one", "other"]);
    let response = server.classifier().await.classify(request).await.unwrap();
    let results = response.into_inner().results;
    assert_eq!(results[0].logits, results[1].logits);
}

#[tokio::test]
async fn invalid_uploads_are_refused_and_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--upload-bytes-max", "100000"]);
    let mut admin = server.admin().await;
    admin.replace_head(replace("cats", 2, 1)).await.unwrap();
    let file = safetensors(&demo_head(NARROW, 2, 2), &[]);
    let length = file.len() as u64;
    for (parts, code, text) in invalid_uploads(&file) {
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

/// Returns invalid uploads of a valid `file`, each with the error's code and a part of its message.
fn invalid_uploads(file: &[u8]) -> Vec<(Vec<UploadHeadRequest>, Code, &'static str)> {
    let (length, invalid) = (file.len() as u64, Code::InvalidArgument);
    let whole = parts(header("cats"), file, 1000);
    vec![
        (Vec::new(), invalid, "first message must hold the header"),
        (whole[1..].to_vec(), invalid, "first message must hold the header"),
        (
            vec![UploadHeadRequest::default()],
            invalid,
            "neither a header nor a chunk",
        ),
        ([whole.clone(), whole].concat(), invalid, "a second header"),
        (vec![part(Part::Header(header("cats")))], invalid, "it is empty"),
        (parts(header("No Name"), file, 1000), invalid, "not a valid head name"),
        (parts(sized(length + 1), file, 1000), invalid, "of the announced"),
        (parts(sized(length - 1), file, 1000), invalid, "more than the announced"),
        (
            parts(sized(100_001), file, 1000),
            Code::ResourceExhausted,
            "raise --upload-bytes-max",
        ),
        (
            vec![part(Part::Header(header("cats"))), zeros(60_000), zeros(60_000)],
            Code::ResourceExhausted,
            "raise --upload-bytes-max",
        ),
        (
            vec![part(Part::Header(header("cats"))), zeros((4 << 20) + 1)],
            invalid,
            "send the file in smaller chunks",
        ),
        (
            parts(
                UploadHeadHeader {
                    sha256: hex(&Sha256::digest(b"another")),
                    ..header("cats")
                },
                file,
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
                file,
                1000,
            ),
            invalid,
            "1 labels and 2 classes",
        ),
    ]
}

fn sized(size_bytes: u64) -> UploadHeadHeader {
    UploadHeadHeader {
        size_bytes,
        ..header("cats")
    }
}

fn zeros(bytes: usize) -> UploadHeadRequest {
    part(Part::Chunk(vec![0; bytes].into()))
}

/// Starts an upload that sends a header and a chunk, and then neither ends nor fails.
async fn unfinished(server: &Server) -> (mpsc::Sender<UploadHeadRequest>, tokio::task::JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(part(Part::Header(header("slow")))).await.unwrap();
    sender.send(part(Part::Chunk(vec![7; 1000].into()))).await.unwrap();
    let mut admin = server.admin().await;
    let upload = tokio::spawn(async move {
        let answer = admin.upload_head(ReceiverStream::new(receiver)).await;
        panic!("the upload ended: {answer:?}");
    });
    (sender, upload)
}

/// Waits until the chunk has been written to the disk.
async fn arrived(dir: &Path) {
    while !uploads(dir).iter().any(|file| has_chunk(file)) {
        tokio::task::yield_now().await;
    }
}

fn has_chunk(file: &Path) -> bool {
    file.metadata().is_ok_and(|file| file.len() == 1000)
}

#[tokio::test]
async fn uploads_are_limited_and_a_cancelled_one_leaves_no_file() {
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
    // Other replacements are not affected.
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
async fn an_upload_ended_by_kill_9_leaves_no_file_after_a_restart() {
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
async fn the_command_line_uploads_large_files() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let files = tempfile::tempdir().unwrap();
    let (small, large) = (files.path().join("small"), files.path().join("large"));
    std::fs::write(&small, safetensors(&demo_head(NARROW, 2, 1), &[])).unwrap();
    std::fs::write(&large, safetensors(&demo_head(NARROW, 10_000, 1), &[])).unwrap();
    let output = replace_cats(&server, &small, &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let flags = ["--json", "--annotate", "run=7", "--expected-version", "1"];
    let output = replace_cats(&server, &large, &flags);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["head"]["version"], &answer["previous_version"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        (&answer["head"]["annotations"]["run"], &answer["head"]["classes"]),
        (&"7".into(), &10_000.into())
    );
    for method in ["ReplaceHead", "UploadHead"] {
        let name = format!("headswap_requests_total{{method=\"{method}\",code=\"Ok\"}}");
        assert_eq!(server.metric(&name), 1.0, "{method}");
    }
    let output = replace_cats(&server, &large, &["--expected-version", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("Aborted: the live version is 2, not 1"), "{stderr}");
}

fn replace_cats(server: &Server, file: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headswap"));
    command.args(["head", "replace", "cats"]).arg(file);
    command.args(["--admin-address", &server.admin]).args(flags);
    command.args(["--preprocessing", "torchvision", "--output", "softmax"]);
    command.output().unwrap()
}
