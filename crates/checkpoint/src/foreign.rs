//! Files that people take for weights, by what they are, each with its remedy.

use std::path::Path;

use super::error::CheckpointError;

/// Bytes of a file's start that [`start`] wants.
pub(super) const START_BYTES: u64 = 512;

const FROM_SAVED_MODEL: &str = "convert it with `pip install tf2onnx tensorflow` and `python -m tf2onnx.convert \
                                --saved-model DIRECTORY --output model.onnx`, and give model.onnx";
const DECOMPRESS: &str = "decompress it and give the file inside";

/// Returns the error for a file that starts so, unless it is unknown.
pub(super) fn start(start: &[u8]) -> Option<CheckpointError> {
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let lower = text.to_ascii_lowercase();
    let (what, remedy) = if text.starts_with("version https://git-lfs") {
        ("a git-lfs pointer", "get the file itself with `git lfs pull`")
    } else if lower.starts_with("<!doctype html") || lower.starts_with("<html") || lower.starts_with("<head") {
        (
            "an HTML page",
            "the link leads to a page; download in a browser, or with gdown from Google Drive",
        )
    } else if lower.starts_with("<?xml") || lower.starts_with("<error") {
        (
            "an XML answer of a server, as S3 sends for errors",
            "open it to see the error, then download again",
        )
    } else if start.get(4..8) == Some(b"TFL3") {
        (
            "a TensorFlow Lite model",
            "convert it with `pip install tf2onnx tensorflow` and `python -m tf2onnx.convert --tflite model.tflite --output \
             model.onnx`, and give model.onnx",
        )
    } else if matches!(start, [0x08, 0x01, 0x12, ..]) {
        ("a part of a TensorFlow SavedModel", FROM_SAVED_MODEL)
    } else if start.starts_with(&[0x1f, 0x8b]) {
        ("a gzip file", "unpack it with `gunzip` and give the file inside")
    } else if start.starts_with(b"BZh") || start.starts_with(b"\xfd7zXZ") || start.starts_with(b"\x28\xb5\x2f\xfd") {
        ("a compressed file", DECOMPRESS)
    } else if start.starts_with(b"7z\xbc\xaf") || start.starts_with(b"Rar!") {
        ("an archive", DECOMPRESS)
    } else if start.get(257..262) == Some(b"ustar") {
        ("a tar archive", "unpack it with `tar -xf` and give the .pth inside")
    } else if start.starts_with(b"\x93NUMPY") {
        (
            "a NumPy array without a name",
            "save a whole state_dict() with torch.save",
        )
    } else if start.starts_with(b"GGUF") {
        ("a GGUF file", "save the PyTorch model's state_dict()")
    } else if text.starts_with('{') && text.contains("\"weight_map\"") {
        (
            "the index of a safetensors file in shards",
            "load the model and save it in one file, with max_shard_size",
        )
    } else if text.starts_with('{') {
        ("JSON", "give the file of the weights beside it")
    } else if is_base64(start) {
        ("base64 text", "decode it with `base64 -d`")
    } else {
        return None;
    };
    Some(CheckpointError::Other { what, remedy })
}

/// Returns the error for a directory.
pub(super) fn directory(path: &Path) -> CheckpointError {
    let has = |name: &str| path.join(name).is_file();
    let (what, remedy) = if has("saved_model.pb") {
        ("a TensorFlow SavedModel", FROM_SAVED_MODEL)
    } else if has("model.weights.h5") && has("config.json") {
        (
            "an unpacked .keras file",
            "pack it with `zip -0 ../model.keras *` in the directory, and give that file",
        )
    } else {
        ("a directory", "give a file of weights")
    };
    CheckpointError::Other { what, remedy }
}

/// Returns the error for a zip archive with these entries, none of which is the pickle of torch.save.
pub(super) fn archive<'a>(names: impl Iterator<Item = &'a str>) -> CheckpointError {
    let mut has_array = false;
    let mut has_weights = false;
    for name in names {
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        has_array |= extension == "npy";
        has_weights |= ["pth", "pt", "ckpt", "safetensors", "bin", "pkl", "tar"].contains(&extension);
    }
    let (what, remedy) = if has_array {
        (
            "a NumPy archive (.npz)",
            "save the arrays as tensors with torch.save(dict, \"model.pth\")",
        )
    } else if has_weights {
        (
            "a zip archive of other files",
            "unpack it with `unzip` and give the file inside",
        )
    } else {
        return CheckpointError::Format {
            reason: "it is a zip archive without data.pkl".into(),
        };
    };
    CheckpointError::Other { what, remedy }
}

/// Returns true if the bytes are those of ONNX's `ModelProto`: its version, and the next field that writers set.
pub(super) fn is_onnx(start: &[u8]) -> bool {
    matches!(start, [0x08, 3..=30, 0x12 | 0x1a | 0x22 | 0x3a | 0x42, ..])
}

fn is_base64(start: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=\r\n".contains(byte);
    start.len() >= 64 && start.iter().all(is_digit)
}
