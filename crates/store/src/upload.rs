//! Files on their way in: on the disk, bounded, and gone if they do not come to their end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use headswap_checkpoint::Throttle;
use headswap_heads::{HeadError, StoreError};
use sha2::{Digest as _, Sha256};

use super::synced_file::SyncedFile;

/// Bytes that are hashed before they are written.
const WRITE_BLOCK: usize = 256 << 10;

/// The setting that bounds an upload.
pub const UPLOAD_BYTES_MAX: &str = "--upload-bytes-max";

/// The setting that bounds how many there are at once.
pub const UPLOADS_MAX: &str = "--uploads-max";

/// Where uploads lie until they are read.
#[derive(Debug)]
pub struct UploadDir {
    dir: PathBuf,
    bytes_max: u64,
    next: AtomicU64,
}

/// What the client announced.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    /// The file's length; none if not told.
    pub bytes: Option<u64>,
    /// Its SHA-256 in hexadecimal; empty if not told.
    pub sha256: String,
}

/// A file that grows. It is removed when this is dropped.
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
    /// Opens, and creates if need be, a folder that is for uploads alone: whatever lies there is removed.
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

    /// Whether a file of the announced length may come.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`].
    pub fn check(&self, announced: &Announced) -> Result<(), HeadError> {
        match announced.bytes {
            Some(bytes) if bytes > self.bytes_max => Err(too_large(self.bytes_max)),
            _ => Ok(()),
        }
    }

    /// An empty file for what a client announced.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`] if too much was announced, [`HeadError::Store`] if the disk refuses.
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
    /// Adds what came.
    ///
    /// # Errors
    /// [`HeadError::LimitReached`] or [`HeadError::Upload`] if it is too much, [`HeadError::Store`] if the disk refuses.
    pub fn write(&mut self, chunk: &[u8], throttle: &Throttle) -> Result<(), HeadError> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        if let Some(announced) = self.announced.bytes.filter(|announced| self.bytes > *announced) {
            return Err(refused(
                "size_bytes",
                format!("more than the announced {announced} bytes came"),
            ));
        }
        for block in chunk.chunks(WRITE_BLOCK) {
            self.hash.update(block);
            self.file.write(block, throttle).map_err(failed("write", &self.path))?;
        }
        Ok(())
    }

    /// Bytes that have come.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the file lies, once it is as announced.
    ///
    /// # Errors
    /// [`HeadError::Upload`] if it is not.
    pub fn whole(&mut self) -> Result<&Path, HeadError> {
        if let Some(announced) = self.announced.bytes.filter(|announced| self.bytes != *announced) {
            let reason = format!("{} of the announced {announced} bytes came", self.bytes);
            return Err(refused("size_bytes", reason));
        }
        let digest = self.hash.finalize_reset();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if !self.announced.sha256.is_empty() && !self.announced.sha256.eq_ignore_ascii_case(&digest) {
            return Err(refused(
                "sha256",
                format!("what came has SHA-256 {digest}, another was announced"),
            ));
        }
        Ok(&self.path)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an upload's file stays until the next start");
        }
    }
}

fn too_large(bytes_max: u64) -> HeadError {
    HeadError::LimitReached {
        setting: UPLOAD_BYTES_MAX,
        reason: format!("the file has more than {bytes_max} bytes, which are the most"),
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

    #[test]
    fn what_comes_is_held_against_what_was_announced() {
        let parent = tempfile::tempdir().unwrap();
        let uploads = UploadDir::open(parent.path().join("uploads"), 6).unwrap();
        // SHA-256 of "abc", from FIPS 180-2.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let check = |bytes: Option<u64>, sha256: &str, chunks: &[&str], expected: Result<(), &str>| {
            let sha256 = sha256.to_owned();
            let result = uploads.begin(Announced { bytes, sha256 }).and_then(|mut upload| {
                chunks
                    .iter()
                    .try_for_each(|chunk| upload.write(chunk.as_bytes(), &Throttle::off()))?;
                assert_eq!(fs::read(upload.whole()?).unwrap(), chunks.concat().as_bytes());
                Ok(())
            });
            match (result.map_err(|error| error.to_string()), expected) {
                (Ok(()), Ok(())) => {}
                (Err(message), Err(part)) => assert!(message.contains(part), "{message:?} lacks {part:?}"),
                (result, _) => panic!("{chunks:?}: {result:?}"),
            }
            assert_eq!(files(&uploads.dir), 0);
        };
        check(None, "", &["a", "bc"], Ok(()));
        check(Some(3), abc, &["ab", "", "c"], Ok(()));
        check(Some(3), &abc.to_uppercase(), &["abc"], Ok(()));
        check(Some(4), "", &["abc"], Err("3 of the announced 4 bytes came"));
        check(Some(2), "", &["abc"], Err("more than the announced 2 bytes"));
        check(None, abc, &["abd"], Err("another was announced"));
        check(
            None,
            "",
            &["abcd", "efg"],
            Err("more than 6 bytes, which are the most; raise --upload-bytes-max"),
        );
        check(Some(7), "", &[], Err("raise --upload-bytes-max"));
    }

    /// Linux's `/dev/full` answers every write with ENOSPC.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_and_leaves_nothing() {
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
