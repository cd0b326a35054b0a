//! What torch.load reads is read to the same numbers, however the tensors and the archive were written.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{floats, open, path, refused};
use headswap_checkpoint::{Checkpoint, CheckpointFormat};

#[test]
fn archives_are_read_however_they_were_packed() {
    let reference = floats(&open("dense.pth"));
    assert_eq!(reference["fc.weight"].0, [4, 8]);
    for name in [
        "deflated.pth",
        "data_descriptors.pth",
        "zip64.pth",
        "macos.pth",
        "no_folder.pth",
        "zeros_behind.pth",
        "bytes_keys.pth",
        "bytes_keys_protocol4.pth",
    ] {
        assert_eq!(floats(&open(name)), reference, "{name}");
    }
}

#[test]
fn tensors_are_read_whatever_their_layout() {
    let reference = floats(&open("dense.pth"));
    for name in ["deflated_view.pth", "sparse.pth", "column_bias.pth"] {
        assert_eq!(floats(&open(name)), reference, "{name}");
    }
    let expanded = floats(&open("expanded.pth"));
    assert_eq!(expanded["fc.bias"], (vec![4], vec![0.5; 4]));
}

#[test]
fn numpy_arrays_are_read_by_name() {
    let reference = floats(&open("dense.pth"));
    for name in [
        "arrays.pth",
        "deflated_arrays.pth",
        "arrays_protocol2.pkl",
        "arrays_protocol4.pkl",
        "arrays_protocol5.pkl",
        "arrays_fortran.pkl",
    ] {
        let checkpoint = open(name);
        assert_eq!(floats(&checkpoint), reference, "{name}");
        let is_plain = checkpoint.format() == CheckpointFormat::Pickle;
        assert_eq!(is_plain, name.ends_with(".pkl"), "{name}");
    }
    refused("arrays_big_endian.pkl", "fc.weight is a big-endian NumPy array");
    let line = r#"save the weights with torch.save(model.state_dict(), "model.pth")"#;
    refused("tensors.pkl", line);
    refused("settings.pkl", line);
}

#[test]
fn tensors_without_numbers_are_refused_by_what_they_are() {
    refused(
        "negated.pth",
        "fc.weight is a view whose negation or conjugation is pending",
    );
    refused("meta.pth", "fc.weight is a meta tensor");
    refused("quantised.pth", "fc.weight is quantised");
    refused(
        "sparse_csr.pth",
        "fc.weight is a sparse tensor that is not in the COO layout",
    );
    refused(
        "deflated_sparse.pth",
        "fc.weight is a sparse tensor in a compressed archive",
    );
}

#[test]
fn zeros_behind_an_archive_have_a_limit() {
    let archive = std::fs::read(path("dense.pth")).unwrap();
    let padded = |zeros: usize| Checkpoint::from_bytes([&archive[..], &vec![0; zeros]].concat().into());
    assert!(padded(64 * 1024).is_ok());
    assert!(padded(64 * 1024 + 1).is_err());
    assert!(Checkpoint::from_bytes([&archive[..], b"\0x"].concat().into()).is_err());
}

#[test]
fn a_compressed_member_that_lies_about_its_size_is_refused() {
    let archive = std::fs::read(path("deflated.pth")).unwrap();
    let checkpoint = Checkpoint::from_bytes(archive.clone().into()).unwrap();
    let entry = checkpoint.tensors().next().unwrap().clone();
    // The central directory's entry of the storage of 128 bytes, whose uncompressed size is at 24.
    let mut starts = (0..archive.len() - 4).filter(|at| archive[*at..].starts_with(b"PK\x01\x02"));
    let at = starts
        .rfind(|at| archive[at + 24..at + 28] == 128u32.to_le_bytes())
        .unwrap();
    let claim = |bytes: u32| {
        let mut lying = archive.clone();
        lying[at + 24..at + 28].copy_from_slice(&bytes.to_le_bytes());
        Checkpoint::from_bytes(lying.into())
    };
    assert!(claim(127).unwrap_err().to_string().contains("cuts short"));
    assert!(claim(u32::MAX - 1).unwrap_err().to_string().contains("is not where"));
    let mut broken = archive.clone();
    let content = broken.windows(2).position(|window| window == b"/0").unwrap();
    broken[content + 2..content + 40].fill(0xff);
    let broken = Checkpoint::from_bytes(broken.into()).unwrap();
    let said = broken.read(&entry).unwrap_err().to_string();
    assert!(said.contains("cannot be decompressed"), "{said}");
}
