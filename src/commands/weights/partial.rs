//! A download under way: `FILE.partial`, which a later run goes on with.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::commands::new_file::sync_folder_of;

/// The bytes so far, locked against other processes, and the version of the file that they are of.
pub(super) struct Partial {
    path: PathBuf,
    etag_path: PathBuf,
    file: File,
    length: u64,
    etag: Option<String>,
}

impl Partial {
    /// Opens or creates the partial file of `output`.
    pub fn open(output: &Path) -> io::Result<Self> {
        let (path, etag_path) = (with_suffix(output, ".partial"), with_suffix(output, ".partial.etag"));
        let options = OpenOptions::new().read(true).append(true).create(true).to_owned();
        let file = options.open(&path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another process is downloading it"),
            TryLockError::Error(error) => error,
        })?;
        let length = file.metadata()?.len();
        let etag = fs::read_to_string(&etag_path).ok().filter(|etag| is_whole(etag));
        Ok(Self {
            path,
            etag_path,
            file,
            length,
            etag,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// What the server calls the version that the bytes are of.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Begins anew, with another version.
    pub fn restart(&mut self, etag: Option<&str>) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        self.etag = etag.map(str::to_owned);
        match etag {
            Some(etag) => fs::write(&self.etag_path, etag),
            None => remove_if_there(&self.etag_path),
        }
    }

    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// SHA-256 of all bytes, in hexadecimal.
    pub fn sha256(&mut self) -> io::Result<String> {
        self.file.seek(SeekFrom::Start(0))?;
        sha256(&mut self.file)
    }

    /// Makes it durable and gives it its name.
    pub fn finish(self, output: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, output)?;
        remove_if_there(&self.etag_path)?;
        sync_folder_of(output)
    }

    /// Throws it away.
    pub fn remove(self) -> io::Result<()> {
        remove_if_there(&self.etag_path)?;
        fs::remove_file(&self.path)
    }
}

/// SHA-256 of what is left of a file, in hexadecimal.
pub(super) fn sha256(file: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => hash.update(&block[..length]),
        }
    }
}

/// A strong entity tag that was written to its end.
fn is_whole(etag: &str) -> bool {
    etag.starts_with('"') && etag.ends_with('"') && !etag.contains(char::is_control)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
