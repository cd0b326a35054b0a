//! The files that scripts/fixtures/pickles.py wrote, and what they must give.

#![allow(dead_code, reason = "no test file uses all of them")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headswap_checkpoint::{Checkpoint, CheckpointError, ModuleKind};

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/pickles")
        .join(name)
}

/// Opens a file from disk and from memory, which must agree.
pub fn open_selecting(name: &str, key: Option<&str>) -> Result<Checkpoint, CheckpointError> {
    let bytes = std::fs::read(path(name)).unwrap();
    let on_disk = Checkpoint::open_selecting(&path(name), key);
    let in_memory = Checkpoint::from_bytes_selecting(bytes.into(), key);
    match (&on_disk, &in_memory) {
        (Ok(on_disk), Ok(in_memory)) => {
            assert!(on_disk.tensors().eq(in_memory.tensors()), "{name}");
            assert_eq!(on_disk.modules(), in_memory.modules(), "{name}");
        }
        (Err(on_disk), Err(in_memory)) => assert_eq!(on_disk.to_string(), in_memory.to_string(), "{name}"),
        different => panic!("{name}: {different:?}"),
    }
    on_disk
}

pub fn open(name: &str) -> Checkpoint {
    open_selecting(name, None).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The tensors of floats, by their names in the file.
pub fn floats(checkpoint: &Checkpoint) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut floats = BTreeMap::new();
    for entry in checkpoint.tensors() {
        if !entry.name.ends_with("num_batches_tracked") {
            let tensor = checkpoint.read(entry).unwrap();
            floats.insert(entry.file_name.clone(), (tensor.shape, tensor.values));
        }
    }
    floats
}

/// Checks that a file is refused with an error of one line that contains `part`.
pub fn refused(name: &str, part: &str) {
    let said = open_selecting(name, None).unwrap_err().to_string();
    assert!(said.contains(part), "{name}: {said:?} lacks {part:?}");
    assert!(!said.contains(char::is_control), "{name}: {said:?}");
}

/// The kinds of a checkpoint's modules, by path.
pub fn kinds(checkpoint: &Checkpoint) -> Vec<(&str, &ModuleKind)> {
    let modules = checkpoint.modules().iter();
    modules.map(|module| (module.path.as_str(), &module.kind)).collect()
}
