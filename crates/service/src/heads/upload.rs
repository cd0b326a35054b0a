//! A head's file in pieces, to the disk and never whole in memory.

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

/// Chunks that wait for the disk.
const CHUNKS_WAITING_MAX: usize = 2;

/// What a file is to become, and how to tell that it arrived whole.
#[derive(Clone, Debug, Default)]
pub struct UploadHeader {
    /// What it is to become.
    pub swap: Swap,
    /// The file.
    pub announced: Announced,
}

/// An upload that has begun. Dropping this removes its file and changes nothing.
pub struct HeadUpload {
    admin: Arc<HeadAdmin>,
    name: HeadName,
    swap: Swap,
    caller: Caller,
    chunks: mpsc::Sender<Bytes>,
    /// A thread writes what comes.
    written: Running<Result<(Upload, Counted), HeadError>>,
}

impl HeadAdmin {
    /// Begins an upload, unless it is known already that it would be refused.
    ///
    /// # Errors
    /// [`ServiceError::Exhausted`] if there are as many as allowed; as [`HeadAdmin::replace`].
    pub fn begin_upload(
        self: &Arc<Self>,
        header: UploadHeader,
        deadline: Option<Instant>,
    ) -> Result<HeadUpload, ServiceError> {
        let UploadHeader { swap, announced } = header;
        let place = self.writers.try_place().ok_or_else(|| ServiceError::Exhausted {
            setting: UPLOADS_MAX,
            message: "as many uploads as allowed are under way; retry later".into(),
        })?;
        let counted = Counted::new(self.metrics.uploads_in_flight());
        let name = HeadName::parse(&swap.head)?;
        self.registry.check_expected(&name, swap.expected_version)?;
        self.uploads.check(&announced)?;
        let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING_MAX);
        let uploads = Arc::clone(&self.uploads);
        let writing = move |throttle: &Throttle| Ok((write(&uploads, announced, waiting, throttle)?, counted));
        Ok(HeadUpload {
            written: self.writers.start(place, self.background(), writing)?,
            admin: Arc::clone(self),
            name,
            swap,
            caller: Caller::new(deadline),
            chunks,
        })
    }
}

/// Writes what comes until it ends; blocking.
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
    /// Takes the next piece of the file. Returns false if the file is refused already; [`HeadUpload::finish`] says why.
    pub async fn write(&mut self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    /// Makes the file, which has come to its end, a live version: as [`HeadAdmin::replace`].
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
            written,
        } = self;
        drop(chunks);
        let whole = async {
            let (place, upload) = written.await?;
            let (upload, counted) = upload?;
            let job = Job {
                name,
                swap,
                commit: caller.commit.clone(),
                priority: admin.background(),
                keep: (place, counted),
            };
            admin
                .swap(job, std::future::ready(Ok(WeightsFile::Upload(upload))))
                .await
        };
        caller.wait_for(whole).await
    }
}
