//! A large file on its way to UploadHead.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::client::Admin;
use super::error::CliError;
use super::head_replace::unreadable;
use super::output::byte_progress;
use crate::rpc::pb::upload_head_request::Part;
use crate::rpc::pb::{ReplaceHeadResponse, UploadHeadHeader, UploadHeadRequest};

const CHUNK_BYTES: usize = 1 << 20;

/// Sends the file, whose length and SHA-256 the server checks.
pub(super) async fn upload(
    mut client: Admin,
    mut header: UploadHeadHeader,
    path: String,
) -> Result<ReplaceHeadResponse, CliError> {
    let failed = |error| unreadable(&path, error);
    let mut hash = Sha256::new();
    let mut chunks = Box::pin(chunks(File::open(&path).await.map_err(failed)?));
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(failed)?;
        header.size_bytes += chunk.len() as u64;
        hash.update(&chunk);
    }
    header.sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();

    let bar = byte_progress(header.size_bytes, "uploading");
    let unread = Arc::new(Mutex::new(None));
    let file = File::open(&path).await.map_err(failed)?;
    let answer = client
        .upload_head(parts(header, file, bar.clone(), Arc::clone(&unread)))
        .await;
    bar.finish_and_clear();
    // A file that could not be read to its end is why the server refused.
    let unread = unread.lock().unwrap_or_else(PoisonError::into_inner).take();
    unread.map_or(Ok(()), |error| Err(failed(error)))?;
    Ok(answer?.into_inner().into())
}

/// The header, then the file; it ends early where the file cannot be read, which `unread` then tells.
fn parts(
    header: UploadHeadHeader,
    file: File,
    bar: ProgressBar,
    unread: Arc<Mutex<Option<io::Error>>>,
) -> impl Stream<Item = UploadHeadRequest> + Send + 'static {
    let end = move |error| *unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    let chunks = chunks(file)
        .map(move |chunk| chunk.inspect(|chunk| bar.inc(chunk.len() as u64)).map_err(&end).ok())
        .take_while(|chunk| std::future::ready(chunk.is_some()))
        .filter_map(std::future::ready);
    stream::iter([Part::Header(header)])
        .chain(chunks.map(Part::Chunk))
        .map(|part| UploadHeadRequest { part: Some(part) })
}

/// A file's bytes, in pieces.
fn chunks(file: File) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(file, async |mut file| {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
        while chunk.len() < CHUNK_BYTES && file.read_buf(&mut chunk).await? > 0 {}
        Ok((!chunk.is_empty()).then(|| (chunk.freeze(), file)))
    })
}
