//! UploadHead's messages, one after the other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headswap_proto::upload_head_request::Part;
use headswap_proto::{UploadHeadHeader, UploadHeadRequest};
use headswap_service::heads::{Swap, Swapped, UploadHeader};
use headswap_service::{HeadAdmin, Lifecycle};
use headswap_store::Announced;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::status::{self, ADMIN_MESSAGE_BYTES_MAX, invalid};

const CHUNK_BYTES_MAX: usize = 4 << 20;
/// A client that sends nothing for so long gives its place to another.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// From the first part to the live version. Dropping this drops the upload and its file, unless the commit has begun.
pub(super) async fn upload(
    lifecycle: &Lifecycle,
    heads: &Arc<HeadAdmin>,
    parts: Streaming<UploadHeadRequest>,
    deadline: Option<Instant>,
) -> Result<Swapped, Status> {
    let mut parts = Parts { parts, deadline };
    let Some(Part::Header(header)) = parts.next().await? else {
        return Err(invalid("header", "the first message must hold the header".into()));
    };
    let upload = heads.begin_upload(upload_header(header), deadline);
    let mut upload = upload.map_err(status::of_service)?;
    while let Some(part) = parts.next().await? {
        if !upload.write(chunk(part)?).await {
            break;
        }
    }
    // Accepted: the whole file has arrived.
    let _accepted = lifecycle.accept().map_err(status::of_service)?;
    upload.finish().await.map_err(status::of_service)
}

fn upload_header(header: UploadHeadHeader) -> UploadHeader {
    let swap = Swap {
        head: header.head,
        labels: header.labels,
        expected_version: header.expected_version,
        dry_run: header.dry_run,
        annotations: header.annotations.into_iter().collect(),
    };
    let announced = Announced {
        bytes: Some(header.size_bytes).filter(|bytes| *bytes > 0),
        sha256: header.sha256,
    };
    UploadHeader { swap, announced }
}

fn chunk(part: Part) -> Result<Bytes, Status> {
    match part {
        Part::Chunk(chunk) if chunk.len() <= CHUNK_BYTES_MAX => Ok(chunk),
        Part::Chunk(chunk) => {
            let got = chunk.len();
            Err(invalid(
                "chunk",
                format!("it has {got} bytes, the limit is {CHUNK_BYTES_MAX}; send more of them"),
            ))
        }
        Part::Header(_) => Err(invalid(
            "header",
            "there is a second one; only the first message may hold it".into(),
        )),
    }
}

/// What the client sends, while it does.
struct Parts {
    parts: Streaming<UploadHeadRequest>,
    deadline: Option<Instant>,
}

impl Parts {
    /// The next part; none at the end of the stream.
    async fn next(&mut self) -> Result<Option<Part>, Status> {
        let silent = Instant::now() + SILENCE_MAX;
        let end = self.deadline.map_or(silent, |deadline| deadline.min(silent));
        let Ok(message) = tokio::time::timeout_at(end, self.parts.message()).await else {
            return Err(Status::deadline_exceeded(if end == silent {
                format!("nothing came for {SILENCE_MAX:?}; send the file again")
            } else {
                "the deadline passed while the file was being sent; nothing was changed".into()
            }));
        };
        let empty = || invalid("part", "a message holds neither a header nor a chunk".into());
        let message = message.map_err(|error| status::of_message(error, ADMIN_MESSAGE_BYTES_MAX))?;
        message.map(|message| message.part.ok_or_else(empty)).transpose()
    }
}
