//! HDF5 files of h5py: scripts/fixtures/hdf5.py says what is in them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::HashMap;
use std::fs;

use headswap_checkpoint::{Hdf5Listing, HostTensor};

fn fixture(name: &str) -> Vec<u8> {
    fs::read(format!("../../tests/fixtures/hdf5/{name}")).unwrap()
}

fn open(name: &str) -> Hdf5Listing {
    Hdf5Listing::open(fixture(name).into()).unwrap()
}

/// Reads all datasets: the tensor, or the error message.
fn read(file: &Hdf5Listing) -> HashMap<String, Result<HostTensor, String>> {
    let paths = file.paths().into_iter().map(str::to_owned).enumerate();
    let read = paths.map(|(index, path)| {
        let entry = file.tensor(index);
        let tensor = entry.and_then(|entry| file.read(&entry));
        (path, tensor.map_err(|error| error.to_string()))
    });
    read.collect()
}

/// The numbers of every dataset of the fixtures.
fn numbers(shape: &[usize]) -> HostTensor {
    let count: usize = shape.iter().product();
    let values = (0..count).map(|index| ((index * 7 % 255) as f32 - 127.0) / 64.0);
    HostTensor::new(shape.to_vec(), values.collect())
}

fn check(tensors: &HashMap<String, Result<HostTensor, String>>, path: &str, shape: &[usize]) {
    let tensor = tensors[path].as_ref().unwrap();
    let expected = numbers(shape);
    assert_eq!(
        (&tensor.shape, &tensor.values),
        (&expected.shape, &expected.values),
        "{path}"
    );
}

#[test]
fn the_structures_that_keras_2_writes_are_read() {
    let file = open("keras2.h5");
    let texts = file.texts();
    let expected = [
        ("", "keras_version", "2.2.4"),
        ("", "model_config", r#"{"class_name": "Sequential"}"#),
        ("model_weights", "layer_names", "flatten"),
        ("model_weights", "layer_names", "dense_1"),
        ("model_weights/dense_1", "weight_names", "dense_1/kernel:0"),
        ("model_weights/dense_1", "weight_names", "dense_1/bias:0"),
    ];
    assert_eq!(texts, expected);
    let tensors = read(&file);
    assert_eq!(tensors.len(), 2);
    check(&tensors, "model_weights/dense_1/dense_1/kernel:0", &[6, 4]);
    check(&tensors, "model_weights/dense_1/dense_1/bias:0", &[4]);
}

#[test]
fn the_newest_structures_are_read() {
    let file = open("keras3_latest.h5");
    let mut texts = file.texts();
    texts.sort_unstable();
    assert_eq!(texts.len(), 24);
    assert_eq!(texts[5], ("", "attribute_02", "ä"));
    // Links that keep their order of creation come in it, others by name.
    let paths = file.paths();
    let layers = ["layers/dense_2/vars/0", "layers/dense/vars/0", "layers/dense_10/vars/0"];
    assert_eq!(paths[..4], [&layers[..], &["optimizer/vars/0"]].concat());
    assert_eq!(paths[4..6], ["optimizer/vars/1", "optimizer/vars/10"]);
    let tensors = read(&file);
    assert_eq!(tensors.len(), 23);
    check(&tensors, "layers/dense_10/vars/0", &[3, 2]);
    check(&tensors, "optimizer/vars/19", &[2]);
}

#[test]
fn chunks_are_put_together() {
    for name in ["chunks.h5", "chunks_latest.h5"] {
        let tensors = read(&open(name));
        for path in ["plain", "gzip", "shuffle", "checksum", "one"] {
            check(&tensors, path, &[5, 7]);
        }
        check(&tensors, "cube", &[4, 3, 5]);
    }
    check(&read(&open("chunks.h5")), "many", &[70, 2]);
}

#[test]
fn dimensions_are_reversed_while_chunks_are_read() {
    let file = open("chunks.h5");
    let index = file.paths().iter().position(|path| *path == "cube").unwrap();
    let reversed = file.read(&file.reversed(index).unwrap()).unwrap();
    let cube = numbers(&[4, 3, 5]);
    assert_eq!(reversed.shape, [5, 3, 4]);
    for (place, value) in reversed.values.iter().enumerate() {
        let (i, j, k) = (place % 4, place / 4 % 3, place / 12);
        assert_eq!(*value, cube.values[(i * 3 + j) * 5 + k]);
    }
}

#[test]
fn what_is_not_plain_numbers_is_named_and_refused() {
    let file = open("odd.h5");
    let tensors = read(&file);
    for path in ["number", "again", "committed"] {
        check(&tensors, path, &[3]);
    }
    check(&tensors, "scalar", &[]);
    check(&tensors, "empty", &[0, 3]);
    check(&tensors, "bf16", &[2, 3]);
    let remedy = "; load it with Keras and save it again";
    for (path, reason) in [
        ("text", "holds text"),
        ("bool", "holds an enumeration"),
        ("record", "holds records"),
        ("big_endian", "holds big-endian numbers"),
        ("never_written", "was never written"),
        ("lzf", "is compressed with LZF"),
        ("external", "is stored in another file"),
        ("opaque", "holds opaque bytes"),
        ("virtual", "is a view of other datasets"),
    ] {
        let message = tensors[path].as_ref().unwrap_err();
        assert_eq!(*message, format!("{path} {reason}{remedy}"));
    }
    let message = tensors["int"].as_ref().unwrap_err();
    assert!(message.starts_with("int has dtype I64"), "{message}");
    // Symbolic links, links to other files, the committed type and the second way to the root are left out.
    assert_eq!(tensors.len(), 16);
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused_or_its_datasets_are() {
    for name in ["keras2.h5", "keras3_latest.h5", "chunks_latest.h5"] {
        let bytes = fixture(name);
        for length in (0..bytes.len()).step_by(37) {
            if let Ok(file) = Hdf5Listing::open(bytes[..length].to_vec().into()) {
                read(&file);
            }
        }
    }
}

/// Replaces the address of the root group's index by that of nodes above it, each of which has the one below 32 times.
#[test]
fn an_index_that_leads_to_one_node_twice_is_refused() {
    let mut bytes = fixture("keras2.h5");
    let index = bytes.windows(4).position(|window| window == b"TREE").unwrap() as u64;
    let mut child = index;
    let end = bytes.len();
    for level in 1..7 {
        let at = bytes.len() as u64;
        bytes.extend(b"TREE\0");
        bytes.extend([level, 32, 0]);
        bytes.extend([0xff; 16]);
        bytes.extend(8_u64.to_le_bytes());
        for _ in 0..32 {
            bytes.extend([child.to_le_bytes(), 8_u64.to_le_bytes()].concat());
        }
        child = at;
    }
    for at in 0..end - 8 {
        if bytes[at..at + 8] == index.to_le_bytes() {
            bytes[at..at + 8].copy_from_slice(&child.to_le_bytes());
        }
    }
    let error = Hdf5Listing::open(bytes.into()).err().unwrap().to_string();
    let expected = "the HDF5 file is damaged: a group's index leads to the same node twice; fetch it or save it again";
    assert_eq!(error, expected);
}

/// Writes every 8 bytes of the file over with numbers that overflow where they are added to others, or multiplied.
#[test]
fn numbers_that_overflow_are_refused() {
    for name in ["keras2.h5", "keras3_latest.h5", "chunks_latest.h5"] {
        let bytes = fixture(name);
        for at in (0..bytes.len() - 8).step_by(4) {
            if bytes[at..at + 8] == [0; 8] {
                continue;
            }
            for number in [u64::MAX - 7, u64::MAX / 2, 1 << 61] {
                let mut changed = bytes.clone();
                changed[at..at + 8].copy_from_slice(&number.to_le_bytes());
                if let Ok(file) = Hdf5Listing::open(changed.into()) {
                    read(&file);
                }
            }
        }
    }
}
