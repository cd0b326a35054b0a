//! A store in a directory: `<heads-dir>/<backbone>/<head>/<version>.safetensors`.
//!
//! A head works only with the backbone that it was trained on, so each backbone has its own directory. A server of several
//! backbones keeps one list of heads in the directories of all (`histories.rs`). A version is
//! written under a temporary name, synced and renamed, and its directory is synced: it is stored completely or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headswap_checkpoint::Throttle;
use headswap_heads::{Backbones, HeadError, HeadInfo, HeadName, HeadStore, HeadWeights, StagedHead, StoreError};
use headswap_spec::CompleteSpec;

use super::histories::merged;
use super::record;
use super::safetensors_file::write_durably;
use super::upload::UploadDir;

const PARTIAL: &str = ".partial";
/// Names of heads never begin with a dot, so this cannot be one.
const UPLOADS: &str = ".uploads";
const SUFFIX: &str = ".safetensors";

/// The stored heads of a server's backbones.
#[derive(Debug)]
pub struct DirStore {
    /// The directory of all backbones.
    root: PathBuf,
    backbones: Backbones,
    /// The directory of each backbone.
    dirs: Vec<PathBuf>,
}

impl DirStore {
    /// Opens the directory of each backbone's heads, creates it if necessary, and removes what interrupted writes left. Heads
    /// that an older release stored under its name for the same backbone are moved there.
    ///
    /// # Errors
    /// [`StoreError`] if the directory cannot be created or read.
    pub fn open(heads_dir: &Path, backbones: Backbones) -> Result<Self, StoreError> {
        let mut dirs = Vec::with_capacity(backbones.all().len());
        for backbone in backbones.all() {
            let dir = heads_dir.join(backbone.digest.short());
            create_durably(&dir).map_err(at("create", &dir))?;
            migrate(&heads_dir.join(backbone.legacy_digest.short()), &dir)?;
            for head in head_dirs(&dir)? {
                for file in entries(&head)? {
                    if file.to_string_lossy().ends_with(PARTIAL) {
                        fs::remove_file(&file).map_err(at("remove", &file))?;
                    }
                }
            }
            dirs.push(dir);
        }
        Ok(Self {
            root: heads_dir.to_owned(),
            backbones,
            dirs,
        })
    }

    /// Counts the heads of backbones in the same directory that this server does not have.
    pub fn heads_of_other_backbones(&self) -> usize {
        let mut heads = 0;
        for dir in entries(&self.root).unwrap_or_default() {
            if !self.dirs.contains(&dir) && is_backbone(&dir) {
                heads += head_dirs(&dir).map_or(0, |dirs| dirs.len());
            }
        }
        heads
    }

    /// Opens a directory for uploads on the same disk and removes what interrupted uploads left.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn uploads(&self, bytes_max: u64) -> Result<UploadDir, StoreError> {
        UploadDir::open(self.dirs[0].join(UPLOADS), bytes_max)
    }

    fn head_dir(&self, info: &HeadInfo) -> PathBuf {
        self.dirs[info.backbone].join(info.name.as_str())
    }

    fn path(&self, info: &HeadInfo) -> PathBuf {
        self.head_dir(info).join(format!("{}{SUFFIX}", info.version))
    }
}

impl HeadStore for DirStore {
    fn stage(
        &self,
        info: &HeadInfo,
        weights: &HeadWeights,
        throttle: &Throttle,
    ) -> Result<Box<dyn StagedHead>, StoreError> {
        let (dir, path) = (self.head_dir(info), self.path(info));
        let metadata = record::metadata(info, weights, self.backbones.get(info.backbone))
            .map_err(io::Error::from)
            .map_err(at("describe", &path))?;
        let is_new = !dir.is_dir();
        let started = Instant::now();
        create_durably(&dir).map_err(at("create", &dir))?;
        let mut staged = Box::new(StagedFile {
            partial: dir.join(format!("{}{PARTIAL}", info.version)),
            path,
            store_dir: self.dirs[info.backbone].clone(),
            dir,
            is_new,
            sync_time: started.elapsed(),
            committed: false,
        });
        let written = write_durably(&staged.partial, &metadata, &weights.parameters, throttle);
        staged.sync_time += written.map_err(at("write", &staged.path))?;
        Ok(staged)
    }

    fn remove(&self, info: &HeadInfo) -> Result<(), StoreError> {
        let path = self.path(info);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn list(&self) -> Result<Vec<HeadInfo>, StoreError> {
        let mut heads = Vec::new();
        for (backbone, dir) in self.dirs.iter().enumerate() {
            for head in head_dirs(dir)? {
                for path in entries(&head)?.into_iter().filter(|path| version_of(path).is_some()) {
                    match record::read(&path, backbone, self.backbones.get(backbone)) {
                        Ok(info) => heads.push(info),
                        Err(reason) => {
                            tracing::warn!(path = %path.display(), reason, "a stored head is damaged; skipped");
                        }
                    }
                }
            }
        }
        Ok(merged(heads))
    }

    fn load(&self, info: &HeadInfo) -> Result<HeadWeights, HeadError> {
        let path = self.path(info);
        let backbone = (info.backbone, self.backbones.get(info.backbone));
        let spec = info.has_spec.then(|| CompleteSpec::clone(&info.spec));
        let weights = HeadWeights::from_store(&path, spec, backbone, &Throttle::off());
        let weights = weights.map_err(|error| damaged(info, error))?;
        if weights.digest != info.digest {
            let reason = format!("its digest is {}, not {} as acknowledged", weights.digest, info.digest);
            return Err(damaged_because(info, reason));
        }
        let classes = weights.classes();
        if classes != info.classes {
            let reason = format!("it has {classes} classes, not {} as acknowledged", info.classes);
            return Err(damaged_because(info, reason));
        }
        for shared in &info.shared[..] {
            let tensor = weights.parameters.get(&*shared.name);
            if tensor.is_none_or(|tensor| tensor.digest() != shared.digest) {
                let reason = format!("{} is not the tensor that its record names", shared.name);
                return Err(damaged_because(info, reason));
            }
        }
        Ok(HeadWeights {
            assumed: Arc::clone(&info.assumed),
            ..weights
        })
    }

    fn labels(&self, info: &HeadInfo) -> Result<Vec<String>, HeadError> {
        record::labels(&self.path(info)).map_err(|error| damaged(info, error))
    }

    fn highest_version(&self, name: &HeadName) -> Result<u64, StoreError> {
        let mut highest = 0;
        for dir in &self.dirs {
            for path in entries(&dir.join(name.as_str()))? {
                highest = highest.max(version_of(&path).unwrap_or(0));
            }
        }
        Ok(highest)
    }
}

/// A version's file under its temporary name, `partial`.
#[derive(Debug)]
struct StagedFile {
    partial: PathBuf,
    path: PathBuf,
    /// The head's directory.
    dir: PathBuf,
    /// True if this write created `dir`.
    is_new: bool,
    store_dir: PathBuf,
    sync_time: Duration,
    committed: bool,
}

impl StagedHead for StagedFile {
    fn commit(mut self: Box<Self>) -> Result<Duration, StoreError> {
        fs::rename(&self.partial, &self.path).map_err(at("write", &self.path))?;
        let started = Instant::now();
        // The head's directory may be new, too, from this write or from one whose sync failed.
        if let Err(error) = sync(&self.dir).and_then(|()| sync(&self.store_dir)) {
            // It may not be durable, so it is not acknowledged and must not reappear after a restart.
            let _ = fs::remove_file(&self.path);
            return Err(at("sync", &self.dir)(error));
        }
        self.committed = true;
        Ok(self.sync_time + started.elapsed())
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
            tracing::warn!(path = %self.partial.display(), %error, "a staged file was not removed; the next start removes it");
        }
        if self.is_new {
            // Fails if the directory is not empty.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// Maps an error of reading a listed version's file: a missing file, like wrong contents, is damage.
fn damaged(info: &HeadInfo, error: HeadError) -> HeadError {
    match error {
        HeadError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            damaged_because(info, "its file is missing".into())
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

/// Returns the directories whose name is a valid head name; the store never touches other entries.
fn head_dirs(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut heads = entries(dir)?;
    heads.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| HeadName::parse(name).is_ok()) && path.is_dir()
    });
    Ok(heads)
}

/// Returns true for a directory whose name is a short digest.
fn is_backbone(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && dir.is_dir()
}

/// Moves the heads from one directory of a backbone to another, head by head, each by one rename. A head that exists in
/// both stays where it is.
fn migrate(from: &Path, to: &Path) -> Result<(), StoreError> {
    if from == to || !from.is_dir() {
        return Ok(());
    }
    let mut moved = 0;
    for head in head_dirs(from)? {
        let target = to.join(head.file_name().unwrap_or_default());
        if target.exists() {
            tracing::warn!(path = %head.display(), "a stored head was not moved: the new directory has one of this name");
            continue;
        }
        fs::rename(&head, &target).map_err(at("move", &head))?;
        moved += 1;
    }
    sync(to).and_then(|()| sync(from)).map_err(at("sync", to))?;
    if moved > 0 {
        tracing::info!(heads = moved, from = %from.display(), to = %to.display(), "stored heads moved");
    }
    let _ = fs::remove_dir_all(from.join(UPLOADS));
    // Fails if a head is still there.
    let _ = fs::remove_dir(from);
    Ok(())
}

/// Returns the version in a file's name, if [`DirStore`] could have given it that name.
fn version_of(path: &Path) -> Option<u64> {
    let number = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    let version: u64 = number.parse().ok().filter(|version| *version > 0)?;
    (version.to_string() == number).then_some(version)
}

/// Lists the paths in a directory; a missing directory has none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        paths => paths.map_err(at("read", dir)),
    }
}

fn read_dir(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
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

/// Creates a directory and its parents, and syncs the parent of each.
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
    use headswap_checkpoint::Digest;
    use headswap_checkpoint::{HostTensor, Parameters};
    use headswap_heads::{KnownBackbone, assumed_without_spec};
    use headswap_spec::{LAST_BIAS, LAST_WEIGHT, Preset};

    /// One backbone that older releases called `legacy`.
    fn backbones(digest: Digest, legacy: Digest) -> Backbones {
        let known = KnownBackbone {
            legacy_digest: legacy,
            ..KnownBackbone::of_any_heads("default", digest, Preset::Torchvision.preprocessing())
        };
        Backbones::new(known, [])
    }

    fn weights(seed: f32) -> HeadWeights {
        let mut parameters = Parameters::new();
        for (name, shape) in [(LAST_WEIGHT, vec![2, 3]), (LAST_BIAS, vec![2])] {
            let values = (0..shape.iter().product()).map(|i: usize| seed + i as f32 / 7.0);
            let tensor = HostTensor::new(shape, values.collect());
            parameters.insert(name.to_owned(), Arc::new(tensor));
        }
        let labels = vec!["\"cat\"\n".into(), "dög".into()];
        HeadWeights::new(parameters, labels, Preset::Torchvision.preprocessing())
    }

    fn info(version: u64, weights: &HeadWeights) -> HeadInfo {
        let annotations = BTreeMap::from([("run".to_owned(), "é\n\"7\"".to_owned())]);
        let mut info = HeadInfo::of(
            weights,
            HeadName::parse("cats").unwrap(),
            version,
            annotations,
            1_700_000_000_000_001,
        );
        if !info.has_spec {
            info.assumed = assumed_without_spec();
        }
        info
    }

    fn backbone() -> Digest {
        Digest::of_parameters(&Parameters::new(), &[])
    }

    fn open(dir: &Path) -> DirStore {
        DirStore::open(dir, backbones(backbone(), backbone())).unwrap()
    }

    /// Returns a store in which `cats` has versions 1 to `count`, and the directory of `cats`.
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
    fn saved_heads_are_loaded_unchanged() {
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
    fn heads_of_different_backbones_are_separate() {
        let (dir, ..) = with_versions(1);
        let other = Digest::of_parameters(&Parameters::new(), &["other".into()]);
        let store = DirStore::open(dir.path(), backbones(other, other)).unwrap();
        assert!(versions(&store).is_empty());
        assert_eq!(store.highest_version(&cats()).unwrap(), 0);
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Damage {
        Empty,
        HeaderCut,
        LastByteCut,
        BitOfTensorsFlipped,
        AnotherVersion,
        Directory,
        TooLarge,
    }

    impl Damage {
        const ALL: [Self; 7] = [
            Self::Empty,
            Self::HeaderCut,
            Self::LastByteCut,
            Self::BitOfTensorsFlipped,
            Self::AnotherVersion,
            Self::Directory,
            Self::TooLarge,
        ];

        fn apply(self, path: &Path) {
            let mut bytes = fs::read(path).unwrap();
            match self {
                Self::Empty => bytes.clear(),
                Self::HeaderCut => bytes.truncate(150),
                Self::LastByteCut => drop(bytes.pop()),
                Self::BitOfTensorsFlipped => *bytes.last_mut().unwrap() ^= 1,
                Self::AnotherVersion => bytes = fs::read(path.with_file_name("1.safetensors")).unwrap(),
                Self::Directory => {
                    fs::remove_file(path).unwrap();
                    fs::create_dir(path).unwrap();
                    return;
                }
                Self::TooLarge => {
                    let file = File::options().write(true).open(path).unwrap();
                    file.set_len(1 << 30).unwrap();
                    return;
                }
            }
            fs::write(path, bytes).unwrap();
        }
    }

    #[test]
    fn a_damaged_version_is_not_loaded_but_kept_and_its_number_not_reused() {
        for damage in Damage::ALL {
            let (dir, _, cats_dir) = with_versions(3);
            let newest = cats_dir.join("3.safetensors");
            damage.apply(&newest);
            let store = open(dir.path());
            // A list reads headers only, so damage to the tensors is found by the load.
            let listed: &[u64] = match damage {
                Damage::BitOfTensorsFlipped => &[1, 2, 3],
                _ => &[1, 2],
            };
            assert_eq!(versions(&store), listed, "{damage:?}");
            let refused = store.load(&info(3, &weights(3.0))).unwrap_err();
            let text = refused.to_string();
            assert!(matches!(refused, HeadError::Damaged { .. }), "{damage:?}: {text}");
            assert!(
                text.contains("head `cats` version 3 is damaged") && !text.contains('\n'),
                "{text}"
            );
            assert_eq!(store.highest_version(&cats()).unwrap(), 3, "{damage:?}");
            assert!(newest.exists(), "{damage:?}");
        }
    }

    #[test]
    fn a_missing_file_is_damage_and_an_unreadable_one_is_not() {
        let (_dir, store, cats_dir) = with_versions(1);
        let listed = store.list().unwrap().remove(0);
        fs::remove_file(cats_dir.join("1.safetensors")).unwrap();
        for error in [store.load(&listed).err(), store.labels(&listed).err()] {
            assert!(error.unwrap().to_string().contains("its file is missing"));
        }
        fs::remove_dir(&cats_dir).unwrap();
        fs::write(&cats_dir, b"in the way").unwrap();
        for error in [store.load(&listed).err(), store.labels(&listed).err()] {
            assert!(matches!(error.unwrap(), HeadError::Unreadable { .. }));
        }
    }

    #[test]
    fn opening_removes_partial_files_and_leaves_foreign_files_alone() {
        let (dir, _, cats_dir) = with_versions(1);
        let foreign = [
            "0.safetensors",
            "02.safetensors",
            "+3.safetensors",
            "x.safetensors",
            "notes.txt",
        ];
        for file in foreign {
            fs::write(cats_dir.join(file), b"?").unwrap();
        }
        fs::write(cats_dir.join("2.partial"), b"half").unwrap();
        fs::write(cats_dir.with_file_name("a file"), b"?").unwrap();
        fs::create_dir(cats_dir.with_file_name("No Head")).unwrap();
        let foreign_partial = cats_dir.with_file_name("No Head").join("1.partial");
        fs::write(&foreign_partial, b"?").unwrap();

        let store = open(dir.path());
        assert_eq!(versions(&store), [1]);
        assert_eq!(store.highest_version(&cats()).unwrap(), 1);
        assert!(!cats_dir.join("2.partial").exists());
        assert!(foreign_partial.exists());
        assert!(foreign.iter().all(|file| cats_dir.join(file).exists()));
    }

    #[test]
    fn a_staged_version_is_listed_after_its_commit_and_removed_without_one() {
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
    fn removing_a_version_twice_succeeds() {
        let (_dir, store, _) = with_versions(2);
        store.remove(&info(1, &weights(1.0))).unwrap();
        store.remove(&info(1, &weights(1.0))).unwrap();
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
    fn errors_name_the_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DirStore::open(&file.path().join("heads"), backbones(backbone(), backbone())).unwrap_err();
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
        let other = Digest::of_parameters(&Parameters::new(), &["other".into()]);
        let weights = weights(1.0);
        for (backbone, name, version) in [
            (legacy, "cats", 1),
            (legacy, "dogs", 1),
            (legacy, "dogs", 2),
            // Already saved under the new name, by a server on the same features with another last Linear.
            (backbone(), "cats", 7),
            (other, "birds", 1),
        ] {
            let store = DirStore::open(dir.path(), backbones(backbone, backbone)).unwrap();
            let info = HeadInfo {
                name: HeadName::parse(name).unwrap(),
                ..info(version, &weights)
            };
            store.save(&info, &weights).unwrap();
        }

        for _ in 0..2 {
            let store = DirStore::open(dir.path(), backbones(backbone(), legacy)).unwrap();
            let listed = store.list().unwrap();
            let found: Vec<(String, u64)> = listed
                .iter()
                .map(|info| (info.name.to_string(), info.version))
                .collect();
            assert_eq!(found, [("cats".into(), 7), ("dogs".into(), 1), ("dogs".into(), 2)]);
            assert_eq!(store.load(&listed[2]).unwrap().digest, weights.digest);
            // The other backbone's head, and the one that could not be moved.
            assert_eq!(store.heads_of_other_backbones(), 2);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        /// However a file is damaged, its version is loaded with the acknowledged numbers or not at all.
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
                    prop_assert_eq!((found.digest, found.classes), (saved.digest, saved.classes()));
                    prop_assert_eq!(loaded.parameters, saved.parameters);
                    prop_assert_eq!(loaded.labels, saved.labels);
                }
            }
        }
    }
}
