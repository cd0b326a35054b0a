//! Files that are being uploaded: on the disk, bounded, and removed when the upload ends.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use headswap_checkpoint::Throttle;
use headswap_heads::{HeadError, StoreError};
use sha2::{Digest as _, Sha256};

use super::synced_file::SyncedFile;

/// Bytes that are hashed and written at a time.
const WRITE_BLOCK: usize = 256 << 10;

/// The setting that limits the bytes of an upload.
pub const UPLOAD_BYTES_MAX: &str = "--upload-bytes-max";

/// The setting that limits the number of concurrent uploads.
pub const UPLOADS_MAX: &str = "--uploads-max";

/// The directory that holds uploads until they are read.
#[derive(Debug)]
pub struct UploadDir {
    dir: PathBuf,
    bytes_max: u64,
    next: AtomicU64,
}

/// The length and digest of a file that a client announced.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    /// The file's length in bytes, if it was announced.
    pub bytes: Option<u64>,
    /// Its SHA-256 in hexadecimal; empty if it was not announced.
    pub sha256: String,
}

/// A file that is being uploaded. Dropping this removes it.
#[derive(Debug)]
pub struct Upload {
    path: PathBuf,
    file: SyncedFile,
    announced: Announced,
    bytes: u64,
    bytes_max: u64,
    hash: Sha256,
}

impl UploadDir {
    /// Opens a directory that is only for uploads, creates it if necessary, and removes every file in it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn open(dir: PathBuf, bytes_max: u64) -> Result<Self, StoreError> {
        fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
        for entry in fs::read_dir(&dir).map_err(failed("read", &dir))? {
            let path = entry.map_err(failed("read", &dir))?.path();
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(Self {
            dir,
            bytes_max,
            next: AtomicU64::new(1),
        })
    }

    /// Checks the announced length.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`] if it exceeds the limit.
    pub fn check(&self, announced: &Announced) -> Result<(), HeadError> {
        match announced.bytes {
            Some(bytes) if bytes > self.bytes_max => Err(too_large(self.bytes_max)),
            _ => Ok(()),
        }
    }

    /// Creates an empty file for an upload.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`] if the announced length exceeds the limit, [`HeadError::Store`] if the file cannot be
    /// created.
    pub fn begin(&self, announced: Announced) -> Result<Upload, HeadError> {
        self.check(&announced)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number}.part"));
        let file = File::create_new(&path).map_err(failed("create", &path))?;
        Ok(Upload {
            path,
            file: SyncedFile::new(file),
            announced,
            bytes: 0,
            bytes_max: self.bytes_max,
            hash: Sha256::new(),
        })
    }
}

impl Upload {
    /// Appends received bytes.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`] or [`HeadError::Upload`] if they exceed the limit or the announced length,
    /// [`HeadError::Store`] if the write fails.
    pub fn write(&mut self, chunk: &[u8], throttle: &Throttle) -> Result<(), HeadError> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        if let Some(announced) = self.announced.bytes.filter(|announced| self.bytes > *announced) {
            return Err(refused(
                "size_bytes",
                format!("more than the announced {announced} bytes were received"),
            ));
        }
        for block in chunk.chunks(WRITE_BLOCK) {
            self.hash.update(block);
            self.file.write(block, throttle).map_err(failed("write", &self.path))?;
        }
        Ok(())
    }

    /// The number of bytes received.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks that the file is complete and as announced, and returns its path.
    ///
    /// # Errors
    /// [`HeadError::Upload`] if it is not.
    pub fn whole(&mut self) -> Result<&Path, HeadError> {
        if let Some(announced) = self.announced.bytes.filter(|announced| self.bytes != *announced) {
            let reason = format!("{} of the announced {announced} bytes were received", self.bytes);
            return Err(refused("size_bytes", reason));
        }
        let digest = self.hash.finalize_reset();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if !self.announced.sha256.is_empty() && !self.announced.sha256.eq_ignore_ascii_case(&digest) {
            return Err(refused(
                "sha256",
                format!("the file has SHA-256 {digest}, another was announced"),
            ));
        }
        Ok(&self.path)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an upload's file was not removed; the next start removes it");
        }
    }
}

fn too_large(bytes_max: u64) -> HeadError {
    HeadError::LimitReached {
        setting: UPLOAD_BYTES_MAX,
        reason: format!("the file has more bytes than the limit of {bytes_max}"),
    }
}

fn refused(field: &'static str, reason: String) -> HeadError {
    HeadError::Upload { field, reason }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn leftovers_are_removed_and_a_dropped_upload_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("uploads");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("1.part"), b"half").unwrap();
        let uploads = UploadDir::open(dir.clone(), 100).unwrap();
        assert_eq!(files(&dir), 0);
        let (mut one, two) = (uploads.begin(Announced::default()), uploads.begin(Announced::default()));
        one.as_mut().unwrap().write(b"some", &Throttle::off()).unwrap();
        assert_eq!(files(&dir), 2);
        drop((one, two));
        assert_eq!(files(&dir), 0);
    }

    /// SHA-256 of "abc", from FIPS 180-2.
    const ABC_SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn upload(uploads: &UploadDir, bytes: Option<u64>, sha256: &str, chunks: &[&str]) -> Result<Vec<u8>, HeadError> {
        let sha256 = sha256.to_owned();
        let mut upload = uploads.begin(Announced { bytes, sha256 })?;
        for chunk in chunks {
            upload.write(chunk.as_bytes(), &Throttle::off())?;
        }
        Ok(fs::read(upload.whole()?).unwrap())
    }

    #[test]
    fn an_upload_as_announced_is_accepted() {
        let parent = tempfile::tempdir().unwrap();
        let uploads = UploadDir::open(parent.path().join("uploads"), 6).unwrap();
        let upper_case = ABC_SHA256.to_uppercase();
        for (bytes, sha256, chunks) in [
            (None, "", &["a", "bc"][..]),
            (Some(3), ABC_SHA256, &["ab", "", "c"]),
            (Some(3), &upper_case, &["abc"]),
        ] {
            assert_eq!(upload(&uploads, bytes, sha256, chunks).unwrap(), b"abc");
            assert_eq!(files(&uploads.dir), 0);
        }
    }

    #[test]
    fn an_upload_other_than_announced_is_refused_and_removed() {
        let parent = tempfile::tempdir().unwrap();
        let uploads = UploadDir::open(parent.path().join("uploads"), 6).unwrap();
        for (bytes, sha256, chunks, part) in [
            (Some(4), "", &["abc"][..], "3 of the announced 4 bytes were received"),
            (Some(2), "", &["abc"], "more than the announced 2 bytes"),
            (None, ABC_SHA256, &["abd"], "another was announced"),
            (
                None,
                "",
                &["abcd", "efg"],
                "more bytes than the limit of 6; raise --upload-bytes-max",
            ),
            (Some(7), "", &[], "raise --upload-bytes-max"),
        ] {
            let message = upload(&uploads, bytes, sha256, chunks).unwrap_err().to_string();
            assert!(message.contains(part), "{message:?} lacks {part:?}");
            assert_eq!(files(&uploads.dir), 0);
        }
    }

    /// Linux's `/dev/full` answers every write with ENOSPC.
    #[test]
    #[cfg(target_os = "linux")]
    fn an_upload_to_a_full_disk_fails_and_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let uploads = UploadDir::open(parent.path().join("uploads"), 100).unwrap();
        let mut upload = uploads.begin(Announced::default()).unwrap();
        upload.file = SyncedFile::new(File::options().write(true).open("/dev/full").unwrap());
        let error = upload.write(b"some", &Throttle::off()).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        drop(upload);
        assert_eq!(files(&uploads.dir), 0);
    }
}
