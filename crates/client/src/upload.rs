//! A file on its way to UploadHead.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt as _};
use headswap_proto::upload_head_request::Part;
use headswap_proto::{ReplaceHeadResponse, UploadHeadHeader, UploadHeadRequest};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::connect::Admin;
use super::error::ClientError;
use super::progress::Progress;

const CHUNK_BYTES: usize = 1 << 20;

/// Sends a file, whose length and SHA-256 the server checks. `header` need not name them.
///
/// # Errors
/// [`ClientError::Read`] if the file cannot be read to its end, [`ClientError::Refused`] if the server refuses it.
pub async fn upload(
    client: &mut Admin,
    header: UploadHeadHeader,
    path: &Path,
    progress: Arc<dyn Progress>,
) -> Result<ReplaceHeadResponse, ClientError> {
    let header = measured(header, path).await?;
    let file = File::open(path)
        .await
        .map_err(|error| ClientError::unreadable(path, error))?;
    progress.start(header.size_bytes);
    let sending = Sending {
        path: path.to_owned(),
        progress: Arc::clone(&progress),
        failure: Arc::default(),
    };
    let failure = Arc::clone(&sending.failure);
    let answer = client.upload_head(sending.parts(header, file)).await;
    progress.finish();
    // The server refuses a file that was not sent to its end; this is why.
    if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    Ok(answer?.into_inner().into())
}

/// Returns the header with the file's length and SHA-256.
async fn measured(mut header: UploadHeadHeader, path: &Path) -> Result<UploadHeadHeader, ClientError> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)
        .await
        .map_err(|error| ClientError::unreadable(path, error))?;
    header.size_bytes = 0;
    while let Some(chunk) = next_chunk(&mut file)
        .await
        .map_err(|error| ClientError::unreadable(path, error))?
    {
        header.size_bytes += chunk.len() as u64;
        hash.update(&chunk);
    }
    header.sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(header)
}

/// An upload under way.
struct Sending {
    path: PathBuf,
    progress: Arc<dyn Progress>,
    /// Why the file was not read to its end.
    failure: Arc<Mutex<Option<ClientError>>>,
}

impl Sending {
    /// The header, then the file's pieces up to its end or a failure.
    fn parts(self, header: UploadHeadHeader, file: File) -> impl Stream<Item = UploadHeadRequest> + Send + 'static {
        let chunks = stream::unfold((self, file), async |(sending, mut file)| {
            let part = match next_chunk(&mut file).await {
                Ok(chunk) => Part::Chunk(chunk?),
                Err(error) => {
                    let error = ClientError::unreadable(&sending.path, error);
                    *sending.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return None;
                }
            };
            if let Part::Chunk(chunk) = &part {
                sending.progress.advance(chunk.len() as u64);
            }
            Some((part, (sending, file)))
        });
        stream::iter([Part::Header(header)])
            .chain(chunks)
            .map(|part| UploadHeadRequest { part: Some(part) })
    }
}

/// The file's next bytes; None at its end.
async fn next_chunk(file: &mut File) -> io::Result<Option<Bytes>> {
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
    while chunk.len() < CHUNK_BYTES && file.read_buf(&mut chunk).await? > 0 {}
    Ok(if chunk.is_empty() { None } else { Some(chunk.freeze()) })
}
