//! UploadHead: a file in pieces, to the disk and never whole in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::background::gently;
use super::metrics::RpcMetrics;
use super::pb::upload_head_request::Part;
use super::pb::{UploadHeadHeader, UploadHeadRequest};
use super::status::{self, ADMIN_MESSAGE_BYTES_MAX, invalid};
use super::swap::{self, Source, Swap, Swapped};
use crate::engine::Counted;
use crate::heads::{Announced, HeadError, HeadName, UPLOADS_MAX, Upload};
use crate::service::{Accepted, Gate, Serving};

const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Chunks that wait for the disk.
const CHUNKS_WAITING_MAX: usize = 2;
/// A client that sends nothing for so long gives its place to another.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// From the first part to the live version. Dropping this drops the upload and its file; a swap that has begun ends.
pub(super) async fn upload(
    gate: &Gate,
    serving: Arc<Serving>,
    metrics: RpcMetrics,
    mut parts: Streaming<UploadHeadRequest>,
) -> Result<Swapped, Status> {
    let full = |_| {
        status::exhausted(
            UPLOADS_MAX,
            "as many uploads as allowed are under way; retry later".into(),
        )
    };
    let permit = Arc::clone(&serving.upload_permits).try_acquire_owned().map_err(full)?;
    let counted = Counted::new(metrics.uploads_in_flight());
    let header = header(&serving, &mut parts).await?;
    let (upload, accepted) = receive(gate, &serving, &header, &mut parts).await?;
    let swap = Swap {
        head: header.head,
        labels: header.labels,
        expected_version: header.expected_version,
        dry_run: header.dry_run,
        annotations: header.annotations,
    };
    let swapped = gently("upload-swap", serving.busy(), move || {
        let _until_the_end = (permit, counted, accepted);
        swap.run(Source::Upload(upload), &serving, &metrics)
    });
    swapped.await.map_err(swap::panicked)?
}

/// The first part, refused before the bytes come, which may be many.
async fn header(serving: &Serving, parts: &mut Streaming<UploadHeadRequest>) -> Result<UploadHeadHeader, Status> {
    let Some(Part::Header(header)) = next(parts).await? else {
        return Err(invalid("header", "the first message must hold the header".into()));
    };
    let name = HeadName::parse(&header.head).map_err(status::of_head)?;
    let expected = serving.registry.check_expected(&name, header.expected_version);
    expected.map_err(status::of_head)?;
    Ok(header)
}

/// The file on the disk. A thread writes what comes; it ends when this does.
async fn receive(
    gate: &Gate,
    serving: &Arc<Serving>,
    header: &UploadHeadHeader,
    parts: &mut Streaming<UploadHeadRequest>,
) -> Result<(Upload, Accepted), Status> {
    let announced = Announced {
        bytes: Some(header.size_bytes).filter(|bytes| *bytes > 0),
        sha256: header.sha256.clone(),
    };
    let uploads = Arc::clone(serving);
    let mut upload = on_disk(gently("upload-begin", serving.busy(), move || {
        uploads.uploads.begin(announced)
    }))
    .await?;
    let (chunks, mut waiting) = mpsc::channel::<Bytes>(CHUNKS_WAITING_MAX);
    let written = tokio::spawn(gently("upload-write", serving.busy(), move || {
        while let Some(chunk) = waiting.blocking_recv() {
            upload.write(&chunk)?;
        }
        Ok(upload)
    }));
    while let Some(part) = next(parts).await? {
        // If the writer has failed, it says why below.
        if chunks.send(chunk(part)?).await.is_err() {
            break;
        }
    }
    drop(chunks);
    let accepted = gate.accept().map_err(status::of_service)?;
    let upload = on_disk(async { written.await.map_err(std::io::Error::other)? }).await?;
    Ok((upload, accepted))
}

async fn on_disk(work: impl Future<Output = std::io::Result<Result<Upload, HeadError>>>) -> Result<Upload, Status> {
    let failed = |error| Status::internal(format!("writing the upload failed ({error}); nothing was changed"));
    work.await.map_err(failed)?.map_err(status::of_head)
}

fn chunk(part: Part) -> Result<Bytes, Status> {
    match part {
        Part::Chunk(chunk) if chunk.len() <= CHUNK_BYTES_MAX => Ok(chunk),
        Part::Chunk(chunk) => {
            let got = chunk.len();
            Err(invalid(
                "chunk",
                format!("it has {got} bytes, {CHUNK_BYTES_MAX} are the most; send more of them"),
            ))
        }
        Part::Header(_) => Err(invalid(
            "header",
            "there is a second one; only the first message may hold it".into(),
        )),
    }
}

/// The next part; none at the end of the stream.
async fn next(parts: &mut Streaming<UploadHeadRequest>) -> Result<Option<Part>, Status> {
    let silent = |_| Status::deadline_exceeded(format!("nothing came for {SILENCE_MAX:?}; send the file again"));
    let message = tokio::time::timeout(SILENCE_MAX, parts.message())
        .await
        .map_err(silent)?
        .map_err(|error| status::of_message(error, ADMIN_MESSAGE_BYTES_MAX))?;
    let empty = || invalid("part", "a message holds neither a header nor a chunk".into());
    message.map(|message| message.part.ok_or_else(empty)).transpose()
}
