//! UploadHead: reads the stream of messages into a file and swaps it in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headswap_heads::HeadRequest;
use headswap_proto::upload_head_request::Part;
use headswap_proto::{UploadHeadHeader, UploadHeadRequest, upload_head_header};
use headswap_service::heads::{Swap, Swapped, UploadHeader};
use headswap_service::{HeadAdmin, Lifecycle};
use headswap_store::Announced;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::spec_messages::requested;
use crate::status::{self, ADMIN_MESSAGE_BYTES_MAX, invalid};

const CHUNK_BYTES_MAX: usize = 4 << 20;
/// An upload is cancelled if no message arrives within this time, so that it does not keep others waiting.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Receives a file and makes it the live version. Dropping the future deletes the file, unless the commit has begun.
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
    let upload = heads.begin_upload(upload_header(header)?, deadline);
    let mut upload = upload.map_err(status::from_service)?;
    while let Some(part) = parts.next().await? {
        if !upload.write(chunk(part)?).await {
            break;
        }
    }
    // The whole file has arrived, so a drain must wait for the request.
    let _accepted = lifecycle.accept().map_err(status::from_service)?;
    upload.finish().await.map_err(status::from_service)
}

fn upload_header(header: UploadHeadHeader) -> Result<UploadHeader, Status> {
    let (message, json) = match header.head_spec {
        Some(upload_head_header::HeadSpec::Spec(spec)) => (Some(spec), None),
        Some(upload_head_header::HeadSpec::SpecJson(json)) => (None, Some(json)),
        None => (None, None),
    };
    let swap = Swap {
        head: header.head,
        request: HeadRequest {
            labels: header.labels,
            backbone: header.backbone,
            spec: requested(message, json)?,
        },
        expected_version: header.expected_version,
        dry_run: header.dry_run,
        annotations: header.annotations.into_iter().collect(),
    };
    let announced = Announced {
        bytes: Some(header.size_bytes).filter(|bytes| *bytes > 0),
        sha256: header.sha256,
    };
    Ok(UploadHeader { swap, announced })
}

fn chunk(part: Part) -> Result<Bytes, Status> {
    match part {
        Part::Chunk(chunk) if chunk.len() <= CHUNK_BYTES_MAX => Ok(chunk),
        Part::Chunk(chunk) => {
            let got = chunk.len();
            Err(invalid(
                "chunk",
                format!("the chunk has {got} bytes, the limit is {CHUNK_BYTES_MAX}; send the file in smaller chunks"),
            ))
        }
        Part::Header(_) => Err(invalid(
            "header",
            "a second header; only the first message may hold one".into(),
        )),
    }
}

/// The client's messages, with the timeouts for reading them.
struct Parts {
    parts: Streaming<UploadHeadRequest>,
    deadline: Option<Instant>,
}

impl Parts {
    /// Returns the next part, or None at the end of the stream.
    async fn next(&mut self) -> Result<Option<Part>, Status> {
        let idle_end = Instant::now() + IDLE_MAX;
        let end = self.deadline.map_or(idle_end, |deadline| deadline.min(idle_end));
        let Ok(message) = tokio::time::timeout_at(end, self.parts.message()).await else {
            return Err(Status::deadline_exceeded(if end == idle_end {
                format!("no message arrived for {IDLE_MAX:?}; send the file again")
            } else {
                "the deadline passed while the file was being sent; nothing was changed".into()
            }));
        };
        let message = message.map_err(|error| status::from_message(error, ADMIN_MESSAGE_BYTES_MAX))?;
        match message {
            None => Ok(None),
            Some(UploadHeadRequest { part: Some(part) }) => Ok(Some(part)),
            Some(UploadHeadRequest { part: None }) => {
                Err(invalid("part", "a message holds neither a header nor a chunk".into()))
            }
        }
    }
}
