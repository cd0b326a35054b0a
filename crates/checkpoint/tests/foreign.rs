//! Files that are not weights are refused by what they are, with the remedy.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{open, path};
use headswap_checkpoint::Checkpoint;

fn check(bytes: &[u8], part: &str) {
    let said = Checkpoint::from_bytes(bytes.to_vec().into()).unwrap_err().to_string();
    assert!(said.contains(part), "{said:?} lacks {part:?}");
    assert!(!said.contains(char::is_control) && said.len() < 300, "{said:?}");
}

/// A zip archive of empty members with these names.
fn archive(names: &[&str]) -> Vec<u8> {
    let mut file = b"PK\x03\x04".to_vec();
    file.extend([0; 26]);
    let start = file.len() as u32;
    for name in names {
        file.extend(b"PK\x01\x02");
        file.extend([0; 24]);
        file.extend((name.len() as u16).to_le_bytes());
        file.extend([0; 16]);
        file.extend(name.as_bytes());
    }
    let bytes = file.len() as u32 - start;
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend((names.len() as u16).to_le_bytes().repeat(2));
    file.extend([bytes.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0; 2]);
    file
}

#[test]
fn files_that_are_no_weights_are_named_with_their_remedy() {
    check(b"", "it is empty");
    check(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "a git-lfs pointer: get the file itself with `git lfs pull`",
    );
    check(b"\n<!DOCTYPE html><html>", "an HTML page: ");
    check(
        b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>",
        "an XML answer",
    );
    check(
        b"\x89HDF\r\n\x1a\n\0\0",
        "the HDF5 file is damaged: its superblock is cut off",
    );
    check(b"\x1c\0\0\0TFL3\x14\0\x20\0", "python -m tf2onnx.convert --tflite");
    check(b"\x08\x01\x12\xd9\x85", "python -m tf2onnx.convert --saved-model");
    check(
        b"\x08\x08\x12\x07pytorch\x1a\x062.11.0",
        "the ONNX file is damaged: it has no graph",
    );
    check(
        &b"UEsDBAAACAgAAAAAAAAA".repeat(20),
        "base64 text: decode it with `base64 -d`",
    );
    check(b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "gunzip");
    let mut tar = vec![0; 1024];
    tar[..9].copy_from_slice(b"vgg16.pth");
    tar[257..262].copy_from_slice(b"ustar");
    check(&tar, "tar -xf");
    check(
        b"{\"metadata\": {}, \"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\"}}",
        "the index of a safetensors file in shards",
    );
    check(b"{\"a\": 1}", "JSON");
    check(b"\x93NUMPY\x01\0v\0{'descr'", "a NumPy array without a name");
    check(&archive(&["a.npy", "b.npy"]), "a NumPy archive (.npz)");
    check(
        &archive(&["metadata.json", "config.json", "model.weights.h5"]),
        "the HDF5 file is damaged: it does not start as HDF5 does",
    );
    check(
        &archive(&["vgg16.pth"]),
        "a zip archive of other files: unpack it with `unzip`",
    );
    check(&archive(&["word/document.xml"]), "a zip archive without data.pkl");
}

#[test]
fn a_file_that_is_cut_off_is_said_to_be_cut_off() {
    let archive = std::fs::read(path("dense.pth")).unwrap();
    check(&archive[..archive.len() / 2], "as if the end were cut off");
    check(&archive[..archive.len() - 100], "as if the end were cut off");
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn safetensors_are_read_as_the_library_reads_them() {
    let open = |header: &str, data: &[u8]| Checkpoint::from_bytes(with_header(header, data).into());
    let unaligned =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#;
    let checkpoint = open(unaligned, &[9, 0, 0, 128, 63]).unwrap();
    let entry = checkpoint.tensors().find(|entry| entry.name == "b").unwrap();
    assert_eq!(checkpoint.read(entry).unwrap().values, [1.0]);
    let small = open(r#"{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#, &[0; 2]).unwrap();
    assert!(small.read(small.tensors().next().unwrap()).is_err());
    let twice = r#"{"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let twice = open(twice, &[0; 4]).unwrap();
    assert_eq!(twice.tensors().count(), 1);
    assert!(twice.read(twice.tensors().next().unwrap()).is_ok());
    let more = r#"{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"note":1}}"#;
    assert!(open(more, &[0; 4]).is_ok());
}

#[test]
fn labels_in_metadata_are_lists_or_mappings() {
    let labels = |key: &str, json: &str| {
        let header = serde_json::json!({"__metadata__": {key: json}}).to_string();
        Checkpoint::from_bytes(with_header(&header, b"").into())
            .unwrap()
            .labels()
    };
    for (key, json) in [
        ("labels", r#"["x", "y"]"#),
        ("labels", r#"{"1": "y", "0": "x"}"#),
        ("labels", r#"{"y": 1, "x": 0}"#),
        ("class_to_idx", r#"{"y": 1, "x": 0}"#),
        ("id2label", r#"{"0": "x", "1": "y"}"#),
    ] {
        assert_eq!(labels(key, json).unwrap(), ["x", "y"], "{json}");
    }
    assert!(labels("class_to_idx", r#"{"y": 2, "x": 0}"#).unwrap().is_empty());
    for wrong in ["x", r#"{"y": 2, "x": 0}"#, r#"{"y": 0, "x": 0}"#, "[1]"] {
        assert!(labels("labels", wrong).is_err(), "{wrong}");
    }
    assert!(open("state_dict.safetensors").modules().is_empty());
}

#[test]
fn directories_are_named_with_their_remedy() {
    let folder = std::env::temp_dir().join(format!("headswap-directory-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let said = |files: &[&str]| {
        for file in files {
            std::fs::write(folder.join(file), "").unwrap();
        }
        Checkpoint::open(&folder).unwrap_err().to_string()
    };
    assert!(said(&[]).contains("a directory: give a file of weights"));
    assert!(said(&["config.json", "model.weights.h5"]).contains("an unpacked .keras file: pack it"));
    assert!(said(&["saved_model.pb"]).contains("python -m tf2onnx.convert --saved-model DIRECTORY"));
    std::fs::remove_dir_all(folder).unwrap();
}
