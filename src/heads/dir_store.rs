//! The store in a folder: `<heads-dir>/<backbone>/<head>/<version>.safetensors`.
//!
//! A head is of use with the backbone it was trained on alone, so each backbone has its own folder. A version is
//! written beside its final name, synced, renamed, and its folder synced: it is wholly there or wholly absent.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::name::HeadName;
use super::safetensors_file::{decode, encode};
use super::store::{HeadStore, StoreError, StoredHead};
use super::version::HeadInfo;
use super::weights::{HeadLimits, HeadWeights};
use crate::model::Digest;

const PARTIAL: &str = ".partial";
const SUFFIX: &str = ".safetensors";

/// See the module's text.
#[derive(Debug)]
pub struct DirStore {
    dir: PathBuf,
    limits: HeadLimits,
}

impl DirStore {
    /// Opens, and creates if need be, the folder of one backbone's heads; what an interrupted write left is removed.
    ///
    /// # Errors
    /// [`StoreError`] if the folder cannot be made or read.
    pub fn open(heads_dir: &Path, backbone: Digest, limits: HeadLimits) -> Result<Self, StoreError> {
        let store = Self {
            dir: heads_dir.join(backbone.short()),
            limits,
        };
        create_durably(&store.dir).map_err(at("create", &store.dir))?;
        for head in entries(&store.dir)? {
            for file in entries(&head)?
                .into_iter()
                .filter(|file| file.to_string_lossy().ends_with(PARTIAL))
            {
                fs::remove_file(&file).map_err(at("remove", &file))?;
            }
        }
        Ok(store)
    }

    fn head_dir(&self, name: &HeadName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    fn path(&self, name: &HeadName, version: u64) -> PathBuf {
        self.head_dir(name).join(format!("{version}{SUFFIX}"))
    }
}

impl HeadStore for DirStore {
    fn save(&self, info: &HeadInfo, weights: &HeadWeights) -> Result<(), StoreError> {
        let (dir, path) = (self.head_dir(&info.name), self.path(&info.name, info.version));
        let bytes = encode(info, weights)
            .map_err(io::Error::other)
            .map_err(at("encode", &path))?;
        create_durably(&dir).map_err(at("create", &dir))?;
        let partial = dir.join(format!("{}{PARTIAL}", info.version));
        let written = write_durably(&partial, &bytes).and_then(|()| fs::rename(&partial, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&partial);
            return Err(at("write", &path)(error));
        }
        if let Err(error) = sync(&dir) {
            // Not known to be durable, so not acknowledged: it must not come back after a restart.
            let _ = fs::remove_file(&path);
            return Err(at("sync", &dir)(error));
        }
        Ok(())
    }

    fn remove(&self, name: &HeadName, version: u64) -> Result<(), StoreError> {
        let path = self.path(name, version);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn load_all(&self) -> Result<Vec<StoredHead>, StoreError> {
        let mut heads = Vec::new();
        for dir in entries(&self.dir)? {
            for path in entries(&dir)?.into_iter().filter(|path| version_of(path).is_some()) {
                match fs::read(&path)
                    .map_err(|e| e.to_string())
                    .and_then(|bytes| decode(&bytes, &path, &self.limits))
                {
                    Ok(head) => heads.push(head),
                    Err(reason) => tracing::error!(path = %path.display(), reason, "a stored head is damaged; skipped"),
                }
            }
        }
        heads.sort_by(|a, b| (&a.info.name, a.info.version).cmp(&(&b.info.name, b.info.version)));
        Ok(heads)
    }

    fn highest_version(&self, name: &HeadName) -> u64 {
        let files = entries(&self.head_dir(name)).unwrap_or_default();
        files.iter().filter_map(|path| version_of(path)).max().unwrap_or(0)
    }
}

fn version_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok()
}

/// The paths in a folder; a file has none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let read = || {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()
    };
    read().map_err(at("read", dir))
}

fn at(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError {
        action,
        path: path.to_owned(),
        source,
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a folder and those above it, each entry synced into its parent.
fn create_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_durably(parent)?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync(parent)?,
        }
        return Ok(());
    }
    fs::create_dir_all(dir)
}
