//! Uploads: a head's file arrives in chunks and is written to the disk, never held in memory as a whole.

use std::sync::Arc;

use bytes::Bytes;
use headswap_checkpoint::Throttle;
use headswap_engine::Counted;
use headswap_heads::{HeadError, HeadName};
use headswap_store::{Announced, UPLOADS_MAX, Upload, UploadDir};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::HeadAdmin;
use super::caller::Caller;
use super::source::WeightsFile;
use super::swap::{Job, Swap, Swapped};
use super::threads::Running;
use crate::ServiceError;

/// Maximum number of chunks that wait for the disk.
const CHUNKS_WAITING_MAX: usize = 2;

/// The header of an upload.
#[derive(Clone, Debug, Default)]
pub struct UploadHeader {
    /// The requested swap.
    pub swap: Swap,
    /// The length and digest of the file.
    pub announced: Announced,
}

/// An upload in progress. Dropping this removes its file and changes nothing.
pub struct HeadUpload {
    admin: Arc<HeadAdmin>,
    name: HeadName,
    swap: Swap,
    caller: Caller,
    chunks: mpsc::Sender<Bytes>,
    /// The thread that writes the chunks.
    writing: Running<Result<(Upload, Counted), HeadError>>,
}

impl HeadAdmin {
    /// Begins an upload, unless its header is refused.
    ///
    /// # Errors
    /// [`ServiceError::Exhausted`] if the limit of concurrent uploads is reached; otherwise as [`HeadAdmin::replace`].
    pub fn begin_upload(
        self: &Arc<Self>,
        header: UploadHeader,
        deadline: Option<Instant>,
    ) -> Result<HeadUpload, ServiceError> {
        let UploadHeader { swap, announced } = header;
        let permit = self.writers.try_permit().ok_or_else(|| ServiceError::Exhausted {
            setting: UPLOADS_MAX,
            message: "the limit of concurrent uploads is reached; retry later".into(),
        })?;
        let counted = Counted::new(self.metrics.uploads_in_flight());
        let name = HeadName::parse(&swap.head)?;
        self.registry.check_expected(&name, swap.expected_version)?;
        self.uploads.check(&announced)?;
        let (chunks, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let uploads = Arc::clone(&self.uploads);
        Ok(HeadUpload {
            writing: self.writers.start(permit, self.background(), move |throttle| {
                Ok((write(&uploads, announced, receiver, throttle)?, counted))
            })?,
            admin: Arc::clone(self),
            name,
            swap,
            caller: Caller::new(deadline),
            chunks,
        })
    }
}

/// Writes chunks to a file until the channel is closed; blocking.
fn write(
    uploads: &UploadDir,
    announced: Announced,
    mut chunks: mpsc::Receiver<Bytes>,
    throttle: &Throttle,
) -> Result<Upload, HeadError> {
    let mut upload = uploads.begin(announced)?;
    while let Some(chunk) = chunks.blocking_recv() {
        upload.write(&chunk, throttle)?;
    }
    Ok(upload)
}

impl HeadUpload {
    /// Takes the next chunk of the file. Returns false once the file is refused; [`HeadUpload::finish`] returns the error.
    pub async fn write(&mut self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    /// Makes the uploaded file a live version, as [`HeadAdmin::replace`] does.
    ///
    /// # Errors
    /// As there.
    pub async fn finish(self) -> Result<Swapped, ServiceError> {
        let Self {
            admin,
            name,
            swap,
            caller,
            chunks,
            writing,
        } = self;
        drop(chunks);
        let swapped = async {
            let (permit, upload) = writing.await?;
            let (upload, counted) = upload?;
            let job = Job {
                name,
                swap,
                commit: caller.commit.clone(),
                priority: admin.background(),
                guards: (permit, counted),
            };
            admin
                .swap(job, std::future::ready(Ok(WeightsFile::Upload(upload))))
                .await
        };
        caller.wait_for(swapped).await
    }
}
