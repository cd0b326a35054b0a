//! ReplaceHead and UploadHead calls that their clients cancel at arbitrary moments.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headswap_model::demo_head;
use headswap_proto::upload_head_request::Part;
use headswap_proto::{GetHeadRequest, HeadInfo, ReplaceHeadRequest, UploadHeadHeader, UploadHeadRequest};
use tonic::{Code, Request};

use crate::support::{Admin, NARROW, Server, replace, safetensors};

fn upload(seed: u64) -> Vec<UploadHeadRequest> {
    let header = UploadHeadHeader {
        head: "cats".into(),
        ..Default::default()
    };
    let file = safetensors(&demo_head(NARROW, 2, seed), &[]);
    let parts = [Part::Header(header), Part::Chunk(file.into())];
    parts.map(|part| UploadHeadRequest { part: Some(part) }).into()
}

async fn live(admin: &mut Admin) -> HeadInfo {
    let get = GetHeadRequest {
        head: "cats".into(),
        version: 0,
    };
    admin.get_head(get).await.unwrap().into_inner().head.unwrap()
}

/// Returns the files that do not belong to a version.
fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files.retain(|file| file.extension().is_none_or(|extension| extension != "safetensors"));
    files
}

/// 200 calls are cancelled after random delays, half on the connection of the acknowledged calls, half on another. Each time,
/// the next acknowledged version must stay live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_calls_change_nothing_later() {
    const CALLS: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (mut admin, other) = (server.admin().await, server.admin().await);
    admin.replace_head(replace("cats", 2, 0)).await.unwrap();
    let (mut random, mut cancelled) = (1u64, 0);
    for call in 1..=CALLS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut client = if call % 2 == 0 { admin.clone() } else { other.clone() };
        let call_task = if call % 3 == 0 {
            tokio::spawn(async move { drop(client.upload_head(tokio_stream::iter(upload(call))).await) })
        } else {
            tokio::spawn(async move { drop(client.replace_head(replace("cats", 2, call)).await) })
        };
        // A random delay, up to about the duration of a swap.
        for _ in 0..random >> 52 {
            tokio::task::yield_now().await;
        }
        call_task.abort();
        cancelled += u64::from(call_task.await.is_err());

        let acknowledged = admin.replace_head(replace("cats", 2, CALLS + call)).await.unwrap();
        let acknowledged = acknowledged.into_inner().head.unwrap();
        assert_eq!(live(&mut admin).await, acknowledged);
        // This call is queued behind any remains of the cancelled one.
        let last = ReplaceHeadRequest {
            dry_run: true,
            ..replace("cats", 2, 0)
        };
        let last = admin.replace_head(last).await.unwrap().into_inner();
        assert_eq!(last.previous_version, acknowledged.version);
        assert_eq!(live(&mut admin).await.digest, acknowledged.digest);
    }
    assert!(cancelled > CALLS / 4, "{cancelled} of {CALLS} were cancelled");

    while server.metric("headswap_uploads_in_flight") > 0.0 || !leftovers(dir.path()).is_empty() {
        tokio::task::yield_now().await;
    }
    let version = live(&mut admin).await.version as f64;
    assert_eq!(server.metric("headswap_live_head_version{head=\"cats\"}"), version);
    // Every version number belongs to a version that was live.
    assert_eq!(server.metric("headswap_swaps_total"), version);
    // The two versions of the head that are kept, and the default head.
    assert_eq!(server.metric("headswap_head_versions{tier=\"hot\"}"), 3.0);
    assert_eq!(server.metric("headswap_head_versions{tier=\"cold\"}"), 0.0);
}

/// The call fails at its deadline of 1 ns and changes nothing.
#[tokio::test]
async fn a_deadline_that_passes_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let mut admin = server.admin().await;
    admin.replace_head(replace("cats", 2, 1)).await.unwrap();
    let mut request = Request::new(replace("cats", 2, 2));
    request.set_timeout(Duration::from_nanos(1));
    let status = admin.replace_head(request).await.unwrap_err();
    // Either the server's deadline or the client's own may fire first.
    assert!(
        matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded),
        "{status:?}"
    );
    let last = ReplaceHeadRequest {
        dry_run: true,
        ..replace("cats", 2, 0)
    };
    assert_eq!(admin.replace_head(last).await.unwrap().into_inner().previous_version, 1);
}
