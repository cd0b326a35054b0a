//! The store in a folder: `<heads-dir>/<backbone>/<head>/<version>.safetensors`.
//!
//! A head is of use with the backbone it was trained on alone, so each backbone has its own folder. A version is
//! written beside its final name, synced, renamed, and its folder synced: it is wholly there or wholly absent.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headswap_checkpoint::{Digest, Throttle};
use headswap_heads::{HeadError, HeadInfo, HeadLimits, HeadName, HeadStore, HeadWeights, StagedHead, StoreError};

use super::record;
use super::safetensors_file::write_durably;
use super::upload::UploadDir;

const PARTIAL: &str = ".partial";
/// No head's name begins with a dot.
const UPLOADS: &str = ".uploads";
const SUFFIX: &str = ".safetensors";

/// See the module's text.
#[derive(Debug)]
pub struct DirStore {
    dir: PathBuf,
    limits: HeadLimits,
}

impl DirStore {
    /// Opens, and creates if need be, the directory of one backbone's heads; what an interrupted write left is removed. Heads
    /// that an older release stored under `legacy`, its name for the same backbone, are moved there.
    ///
    /// # Errors
    /// [`StoreError`] if the directory cannot be made or read.
    pub fn open(heads_dir: &Path, backbone: Digest, legacy: Digest, limits: HeadLimits) -> Result<Self, StoreError> {
        let store = Self {
            dir: heads_dir.join(backbone.short()),
            limits,
        };
        create_durably(&store.dir).map_err(at("create", &store.dir))?;
        migrate(&heads_dir.join(legacy.short()), &store.dir)?;
        for head in store.head_dirs()? {
            for file in entries(&head)? {
                if file.to_string_lossy().ends_with(PARTIAL) {
                    fs::remove_file(&file).map_err(at("remove", &file))?;
                }
            }
        }
        Ok(store)
    }

    /// How many heads lie beside this store's, for other backbones.
    pub fn heads_of_other_backbones(&self) -> usize {
        let beside = self.dir.parent().map(entries).transpose().ok().flatten();
        let mut heads = 0;
        for dir in beside.unwrap_or_default() {
            if dir != self.dir && is_backbone(&dir) {
                heads += head_dirs(&dir).map_or(0, |dirs| dirs.len());
            }
        }
        heads
    }

    /// A place for uploads on the same disk; what an interrupted one left is removed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn uploads(&self, bytes_max: u64) -> Result<UploadDir, StoreError> {
        UploadDir::open(self.dir.join(UPLOADS), bytes_max)
    }

    fn head_dir(&self, name: &HeadName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    fn head_dirs(&self) -> Result<Vec<PathBuf>, StoreError> {
        head_dirs(&self.dir)
    }

    fn path(&self, name: &HeadName, version: u64) -> PathBuf {
        self.head_dir(name).join(format!("{version}{SUFFIX}"))
    }
}

impl HeadStore for DirStore {
    fn stage(
        &self,
        info: &HeadInfo,
        weights: &HeadWeights,
        throttle: &Throttle,
    ) -> Result<Box<dyn StagedHead>, StoreError> {
        let (dir, path) = (self.head_dir(&info.name), self.path(&info.name, info.version));
        let metadata = record::metadata(info, weights)
            .map_err(io::Error::from)
            .map_err(at("describe", &path))?;
        let is_new = !dir.is_dir();
        let started = Instant::now();
        create_durably(&dir).map_err(at("create", &dir))?;
        let mut staged = Box::new(StagedFile {
            partial: dir.join(format!("{}{PARTIAL}", info.version)),
            path,
            store_dir: self.dir.clone(),
            dir,
            is_new,
            syncing: started.elapsed(),
            committed: false,
        });
        let written = write_durably(&staged.partial, &metadata, &weights.parameters, throttle);
        staged.syncing += written.map_err(at("write", &staged.path))?;
        Ok(staged)
    }

    fn remove(&self, name: &HeadName, version: u64) -> Result<(), StoreError> {
        let path = self.path(name, version);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn list(&self) -> Result<Vec<HeadInfo>, StoreError> {
        let mut heads = Vec::new();
        for dir in self.head_dirs()? {
            for path in entries(&dir)?.into_iter().filter(|path| version_of(path).is_some()) {
                match record::read(&path) {
                    Ok(info) => heads.push(info),
                    Err(reason) => tracing::warn!(path = %path.display(), reason, "a stored head is damaged; skipped"),
                }
            }
        }
        heads.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        Ok(heads)
    }

    fn load(&self, info: &HeadInfo) -> Result<HeadWeights, HeadError> {
        let weights = HeadWeights::from_file(
            &self.path(&info.name, info.version),
            Vec::new(),
            &self.limits,
            &Throttle::off(),
        );
        let weights = weights.map_err(|error| damaged(info, error))?;
        if weights.digest != info.digest {
            let reason = format!("its digest is {}, {} was acknowledged", weights.digest, info.digest);
            return Err(damaged_because(info, reason));
        }
        if weights.classes != info.classes {
            let reason = format!("it has {} classes, {} were acknowledged", weights.classes, info.classes);
            return Err(damaged_because(info, reason));
        }
        Ok(weights)
    }

    fn labels(&self, info: &HeadInfo) -> Result<Vec<String>, HeadError> {
        record::labels(&self.path(&info.name, info.version)).map_err(|error| damaged(info, error))
    }

    fn highest_version(&self, name: &HeadName) -> Result<u64, StoreError> {
        let files = entries(&self.head_dir(name))?;
        Ok(files.iter().filter_map(|path| version_of(path)).max().unwrap_or(0))
    }
}

/// A version's file beside its final name.
#[derive(Debug)]
struct StagedFile {
    partial: PathBuf,
    path: PathBuf,
    /// The head's own, which is there for the first time if it `is_new`.
    dir: PathBuf,
    is_new: bool,
    store_dir: PathBuf,
    syncing: Duration,
    committed: bool,
}

impl StagedHead for StagedFile {
    fn commit(mut self: Box<Self>) -> Result<Duration, StoreError> {
        fs::rename(&self.partial, &self.path).map_err(at("write", &self.path))?;
        let started = Instant::now();
        // The head's own folder may be new, too, from this write or from one whose sync failed.
        if let Err(error) = sync(&self.dir).and_then(|()| sync(&self.store_dir)) {
            // Not known to be durable, so not acknowledged: it must not come back after a restart.
            let _ = fs::remove_file(&self.path);
            return Err(at("sync", &self.dir)(error));
        }
        self.committed = true;
        Ok(self.syncing + started.elapsed())
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if let Err(error) = fs::remove_file(&self.partial)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.partial.display(), %error, "a staged file stays until the next start");
        }
        if self.is_new {
            // Refused if there is anything in it.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// What reading a listed version's file failed with, as its users are told.
fn damaged(info: &HeadInfo, error: HeadError) -> HeadError {
    match error {
        HeadError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            damaged_because(info, "its file is gone".into())
        }
        error @ HeadError::Unreadable { .. } => error,
        error => damaged_because(info, error.to_string()),
    }
}

fn damaged_because(info: &HeadInfo, reason: String) -> HeadError {
    HeadError::Damaged {
        name: info.name.clone(),
        version: info.version,
        reason,
    }
}

/// The directories that are named as heads are; anything else is not ours.
fn head_dirs(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut heads = entries(dir)?;
    heads.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| HeadName::parse(name).is_ok()) && path.is_dir()
    });
    Ok(heads)
}

/// Returns true for a directory that is named as a backbone is.
fn is_backbone(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && dir.is_dir()
}

/// Moves the heads of one backbone's directory to another name of the same backbone, head by head, each wholly here or wholly
/// there. A head that is there already stays where it was.
fn migrate(from: &Path, to: &Path) -> Result<(), StoreError> {
    if from == to || !from.is_dir() {
        return Ok(());
    }
    let mut moved = 0;
    for head in head_dirs(from)? {
        let place = to.join(head.file_name().unwrap_or_default());
        if place.exists() {
            tracing::warn!(path = %head.display(), "a head of this name is in the store already; left where it was");
            continue;
        }
        fs::rename(&head, &place).map_err(at("move", &head))?;
        moved += 1;
    }
    sync(to).and_then(|()| sync(from)).map_err(at("sync", to))?;
    if moved > 0 {
        tracing::info!(heads = moved, from = %from.display(), to = %to.display(), "stored heads moved");
    }
    let _ = fs::remove_dir_all(from.join(UPLOADS));
    // Refused if a head is still there.
    let _ = fs::remove_dir(from);
    Ok(())
}

/// The number in a file's name, if it is one that [`DirStore`] gives.
fn version_of(path: &Path) -> Option<u64> {
    let number = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    let version: u64 = number.parse().ok().filter(|version| *version > 0)?;
    (version.to_string() == number).then_some(version)
}

/// The paths in a folder; one that is not there has none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read = || -> io::Result<Vec<PathBuf>> { fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect() };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        paths => paths.map_err(at("read", dir)),
    }
}

fn at(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError {
        action,
        path: path.to_owned(),
        source,
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use headswap_checkpoint::{HostTensor, Parameters};
    use headswap_spec::{LAST_BIAS, LAST_WEIGHT};

    const LIMITS: HeadLimits = HeadLimits {
        classes_max: 8,
        features: 3,
        deeper: BTreeMap::new(),
    };

    fn weights(seed: f32) -> HeadWeights {
        let tensor = |shape: &[usize]| {
            let values = (0..shape.iter().product()).map(|i: usize| seed + i as f32 / 7.0);
            Arc::new(HostTensor::new(shape.to_vec(), values.collect()))
        };
        let parameters = [
            (LAST_WEIGHT.to_owned(), tensor(&[2, 3])),
            (LAST_BIAS.to_owned(), tensor(&[2])),
        ];
        HeadWeights::new(Parameters::from(parameters), vec!["\"cat\"\n".into(), "dög".into()])
    }

    fn info(version: u64, weights: &HeadWeights) -> HeadInfo {
        HeadInfo {
            name: HeadName::parse("cats").unwrap(),
            version,
            digest: weights.digest,
            classes: weights.classes,
            annotations: BTreeMap::from([("run".to_owned(), "é\n\"7\"".to_owned())]),
            created_unix_us: 1_700_000_000_000_001,
            parameters: weights.parameters.keys().cloned().collect(),
            resident_bytes: weights.bytes(),
        }
    }

    fn backbone() -> Digest {
        Digest::of_parameters(&Parameters::new(), &[])
    }

    fn open(dir: &Path) -> DirStore {
        DirStore::open(dir, backbone(), backbone(), LIMITS).unwrap()
    }

    /// A store in which `cats` has versions 1 to `count`, and the folder of `cats`.
    fn with_versions(count: u64) -> (TempDir, DirStore, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for version in 1..=count {
            let weights = weights(version as f32);
            store.save(&info(version, &weights), &weights).unwrap();
        }
        let cats = dir.path().join(backbone().short()).join("cats");
        (dir, store, cats)
    }

    fn versions(store: &DirStore) -> Vec<u64> {
        store.list().unwrap().iter().map(|info| info.version).collect()
    }

    fn cats() -> HeadName {
        HeadName::parse("cats").unwrap()
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let (dir, _, _) = with_versions(2);
        let store = open(&dir.path().join("."));
        let listed = store.list().unwrap();
        assert_eq!(listed.len(), 2);
        for (found, version) in listed.iter().zip(1..) {
            let saved = weights(version as f32);
            assert_eq!(found, &info(version, &saved));
            let loaded = store.load(found).unwrap();
            assert_eq!(loaded.parameters, saved.parameters);
            assert_eq!(loaded.labels, saved.labels);
            assert_eq!(store.labels(found).unwrap()[..], saved.labels[..]);
        }
    }

    #[test]
    fn another_backbone_has_other_heads() {
        let (dir, ..) = with_versions(1);
        let other = Digest::of_parameters(&Parameters::new(), &["other".into()]);
        let store = DirStore::open(dir.path(), other, other, LIMITS).unwrap();
        assert!(versions(&store).is_empty());
        assert_eq!(store.highest_version(&cats()).unwrap(), 0);
    }

    #[test]
    fn a_damaged_version_is_skipped_or_refused_counted_and_kept() {
        let whole = |path: &Path| fs::read(path).unwrap();
        type Damage<'a> = (&'a str, &'a dyn Fn(&Path), bool);
        let damages: [Damage<'_>; 7] = [
            ("empty", &|path| fs::write(path, b"").unwrap(), false),
            (
                "truncated",
                &|path| fs::write(path, &whole(path)[..150]).unwrap(),
                false,
            ),
            (
                "cut",
                &|path| fs::write(path, &whole(path)[..whole(path).len() - 1]).unwrap(),
                false,
            ),
            (
                "a bit of the tensors flipped",
                &|path| {
                    let mut bytes = whole(path);
                    *bytes.last_mut().unwrap() ^= 1;
                    fs::write(path, bytes).unwrap();
                },
                true,
            ),
            (
                "another version's",
                &|path| fs::write(path, whole(&path.with_file_name("1.safetensors"))).unwrap(),
                false,
            ),
            (
                "a folder",
                &|path| {
                    fs::remove_file(path).unwrap();
                    fs::create_dir(path).unwrap();
                },
                false,
            ),
            (
                "too large",
                &|path| {
                    File::options()
                        .write(true)
                        .open(path)
                        .unwrap()
                        .set_len(1 << 30)
                        .unwrap()
                },
                false,
            ),
        ];
        for (damage, apply, listed) in damages {
            let (dir, _, cats_dir) = with_versions(3);
            let newest = cats_dir.join("3.safetensors");
            apply(&newest);
            let store = open(dir.path());
            assert_eq!(versions(&store) == [1, 2, 3], listed, "{damage}");
            assert_eq!(versions(&store)[..2], [1, 2], "{damage}");
            let refused = store.load(&info(3, &weights(3.0))).unwrap_err();
            let text = refused.to_string();
            assert!(matches!(refused, HeadError::Damaged { .. }), "{damage}: {text}");
            assert!(
                text.contains("head `cats` version 3 is damaged") && !text.contains('\n'),
                "{text}"
            );
            assert_eq!(store.highest_version(&cats()).unwrap(), 3, "{damage}");
            assert!(newest.exists(), "{damage}");
        }
    }

    #[test]
    fn a_file_that_is_gone_is_told_apart_from_one_that_cannot_be_read() {
        let (_dir, store, cats_dir) = with_versions(1);
        let listed = store.list().unwrap().remove(0);
        fs::remove_file(cats_dir.join("1.safetensors")).unwrap();
        for error in [store.load(&listed).err(), store.labels(&listed).err()] {
            assert!(error.unwrap().to_string().contains("its file is gone"));
        }
        fs::remove_dir(&cats_dir).unwrap();
        fs::write(&cats_dir, b"in the way").unwrap();
        for error in [store.load(&listed).err(), store.labels(&listed).err()] {
            assert!(matches!(error.unwrap(), HeadError::Unreadable { .. }));
        }
    }

    #[test]
    fn strangers_are_left_alone_and_leftovers_removed() {
        let (dir, _, cats_dir) = with_versions(1);
        let strangers = [
            "0.safetensors",
            "02.safetensors",
            "+3.safetensors",
            "x.safetensors",
            "notes.txt",
        ];
        for stranger in strangers {
            fs::write(cats_dir.join(stranger), b"?").unwrap();
        }
        fs::write(cats_dir.join("2.partial"), b"half").unwrap();
        fs::write(cats_dir.with_file_name("a file"), b"?").unwrap();
        fs::create_dir(cats_dir.with_file_name("No Head")).unwrap();
        let no_heads = cats_dir.with_file_name("No Head").join("1.partial");
        fs::write(&no_heads, b"?").unwrap();

        let store = open(dir.path());
        assert_eq!(versions(&store), [1]);
        assert_eq!(store.highest_version(&cats()).unwrap(), 1);
        assert!(!cats_dir.join("2.partial").exists());
        assert!(no_heads.exists());
        assert!(strangers.iter().all(|stranger| cats_dir.join(stranger).exists()));
    }

    #[test]
    fn what_is_staged_is_seen_once_it_is_committed_and_removed_if_it_is_not() {
        let (_dir, store, cats_dir) = with_versions(0);
        for _ in 0..2 {
            let weights = weights(1.0);
            let staged = store.stage(&info(1, &weights), &weights, &Throttle::off()).unwrap();
            assert_eq!(entries(&cats_dir).unwrap(), [cats_dir.join("1.partial")]);
            assert!(versions(&store).is_empty());
            assert_eq!(store.highest_version(&cats()).unwrap(), 0);
            drop(staged);
            assert!(!cats_dir.exists());
        }
        let weights = weights(1.0);
        let committed = store
            .stage(&info(1, &weights), &weights, &Throttle::off())
            .unwrap()
            .commit();
        assert!(committed.unwrap() > Duration::ZERO);
        drop(store.stage(&info(2, &weights), &weights, &Throttle::off()).unwrap());
        assert_eq!(entries(&cats_dir).unwrap(), [cats_dir.join("1.safetensors")]);
        assert_eq!(versions(&store), [1]);
    }

    #[test]
    fn removing_twice_is_removing() {
        let (_dir, store, _) = with_versions(2);
        store.remove(&cats(), 1).unwrap();
        store.remove(&cats(), 1).unwrap();
        assert_eq!(versions(&store), [2]);
    }

    /// Linux's `/dev/full` answers every write with ENOSPC.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_leaves_nothing_of_the_version() {
        let (_dir, store, cats_dir) = with_versions(1);
        std::os::unix::fs::symlink("/dev/full", cats_dir.join("2.partial")).unwrap();
        let weights = weights(2.0);
        let message = store.save(&info(2, &weights), &weights).unwrap_err().to_string();
        assert!(
            message.contains("cats/2.safetensors") && message.contains("No space left"),
            "{message}"
        );
        assert_eq!(entries(&cats_dir).unwrap(), [cats_dir.join("1.safetensors")]);
        store.save(&info(2, &weights), &weights).unwrap();
        assert_eq!(versions(&store), [1, 2]);
    }

    #[test]
    fn a_failed_rename_leaves_nothing_of_the_version() {
        let (_dir, store, cats_dir) = with_versions(1);
        fs::create_dir(cats_dir.join("2.safetensors")).unwrap();
        let weights = weights(2.0);
        store.save(&info(2, &weights), &weights).unwrap_err();
        assert!(!cats_dir.join("2.partial").exists());
        assert_eq!(versions(&store), [1]);
    }

    #[test]
    fn a_path_that_cannot_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DirStore::open(&file.path().join("heads"), backbone(), backbone(), LIMITS).unwrap_err();
        assert!(error.to_string().contains("heads"), "{error}");

        let (_dir, store, cats_dir) = with_versions(0);
        fs::write(&cats_dir, b"in the way").unwrap();
        let weights = weights(1.0);
        store.save(&info(1, &weights), &weights).unwrap_err();
        store.highest_version(&cats()).unwrap_err();
    }

    #[test]
    fn heads_under_an_older_name_of_the_backbone_are_moved() {
        let dir = tempfile::tempdir().unwrap();
        let legacy = Digest::of_parameters(&Parameters::new(), &["legacy".into()]);
        let weights = weights(1.0);
        let save = |backbone: Digest, name: &str, version: u64| {
            let store = DirStore::open(dir.path(), backbone, backbone, LIMITS).unwrap();
            let named = HeadInfo {
                name: HeadName::parse(name).unwrap(),
                ..info(version, &weights)
            };
            store.save(&named, &weights).unwrap();
        };
        save(legacy, "cats", 1);
        save(legacy, "dogs", 1);
        save(legacy, "dogs", 2);
        // Saved under the new name already, by a server on the same features with another last Linear.
        save(backbone(), "cats", 7);
        let other = Digest::of_parameters(&Parameters::new(), &["other".into()]);
        save(other, "birds", 1);

        for _ in 0..2 {
            let store = DirStore::open(dir.path(), backbone(), legacy, LIMITS).unwrap();
            let listed = store.list().unwrap();
            let found: Vec<(String, u64)> = listed
                .iter()
                .map(|info| (info.name.to_string(), info.version))
                .collect();
            assert_eq!(found, [("cats".into(), 7), ("dogs".into(), 1), ("dogs".into(), 2)]);
            assert_eq!(store.load(&listed[2]).unwrap().digest, weights.digest);
            // One of the other backbone, and the one that was in the way.
            assert_eq!(store.heads_of_other_backbones(), 2);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        /// Whatever happens to a file, its version comes back with the numbers that were acknowledged or not at all.
        #[test]
        fn damage_never_changes_the_numbers(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let (_dir, store, cats_dir) = with_versions(1);
            let path = cats_dir.join("1.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            fs::write(&path, bytes).unwrap();
            for found in store.list().unwrap() {
                if let Ok(loaded) = store.load(&found) {
                    let saved = weights(1.0);
                    prop_assert_eq!((found.digest, found.classes), (saved.digest, saved.classes));
                    prop_assert_eq!(loaded.parameters, saved.parameters);
                    prop_assert_eq!(loaded.labels, saved.labels);
                }
            }
        }
    }
}
