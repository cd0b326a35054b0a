//! Checkpoints that real PyTorch wrote are read to the same numbers, whatever their format; others are refused.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use headswap_checkpoint::{Checkpoint, CheckpointError, CheckpointFormat, Digest, fit_backbone, fit_head};
use headswap_model::{Backbone, WeightsSource};
use headswap_spec::Architecture;
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/checkpoints")
        .join(name)
}

fn fixtures() -> Vec<String> {
    let entries = fs::read_dir(fixture("")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// Canonical names and the digests of shapes and numbers.
fn digests(checkpoint: &Checkpoint) -> BTreeMap<String, Digest> {
    let read = |entry| checkpoint.read(entry).unwrap().digest();
    checkpoint
        .tensors()
        .map(|entry| (entry.name.clone(), read(entry)))
        .collect()
}

/// Reads a file in both ways, which must agree.
fn read(name: &str) -> Result<(CheckpointFormat, BTreeMap<String, Digest>), CheckpointError> {
    let bytes = fs::read(fixture(name)).unwrap();
    let (on_disk, in_memory) = (Checkpoint::open(&fixture(name)), Checkpoint::from_bytes(bytes.into()));
    match (on_disk, in_memory) {
        (Ok(on_disk), Ok(in_memory)) => {
            assert!(on_disk.tensors().eq(in_memory.tensors()), "{name}");
            let digests = digests(&on_disk);
            assert_eq!(digests, self::digests(&in_memory), "{name}");
            Ok((on_disk.format(), digests))
        }
        (Err(on_disk), Err(in_memory)) => {
            assert_eq!(on_disk.to_string(), in_memory.to_string(), "{name}");
            Err(on_disk)
        }
        different => panic!("{name}: {different:?}"),
    }
}

#[test]
fn every_format_dtype_and_naming_gives_the_same_tensors() {
    let (_, reference) = read("reference.safetensors").unwrap();
    assert_eq!(reference.len(), 10);
    let mut compared = 0;
    for name in fixtures() {
        if ["whole_model", "narrow", "linear"]
            .iter()
            .any(|other| name.contains(other))
        {
            continue;
        }
        let (format, tensors) = read(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensors, reference, "{name}");
        let expected = match &name {
            name if name.starts_with("zip") => CheckpointFormat::TorchZip,
            name if name.starts_with("legacy") => CheckpointFormat::TorchLegacy,
            _ => CheckpointFormat::Safetensors,
        };
        assert_eq!(format, expected, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 36);
}

#[test]
fn a_saved_linear_keeps_its_short_names() {
    let (_, reference) = read("reference.safetensors").unwrap();
    for name in ["zip_linear.pth", "legacy_linear.pth"] {
        let (_, tensors) = read(name).unwrap();
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["bias", "weight"]);
        assert_eq!(tensors["weight"], reference["classifier.6.weight"]);
        assert_eq!(tensors["bias"], reference["classifier.6.bias"]);
    }
}

#[test]
fn naming_and_metadata_are_told() {
    let open = |name: &str| Checkpoint::open(&fixture(name)).unwrap();
    let reference = open("reference.safetensors");
    assert_eq!(reference.metadata()["labels"], r#"["a", "b", "c"]"#);
    assert_eq!(reference.naming().prefixes, Vec::<String>::new());
    let nested = open("zip_nested_state_dict.pth");
    assert_eq!(nested.naming().container, "state_dict");
    assert_eq!(nested.naming().prefixes, ["module."]);
    assert!(!nested.naming().timm && nested.metadata().is_empty());
    let combined = open("legacy_prefix_combined.pth");
    assert_eq!(combined.naming().prefixes, ["model.backbone.module."]);
    let entry = combined
        .tensors()
        .find(|entry| entry.name == "classifier.0.bias")
        .unwrap();
    assert_eq!(entry.file_name, "model.backbone.module.classifier.0.bias");
    let timm = open("legacy_nested_model.pth");
    assert_eq!(timm.naming().container, "model");
    assert!(timm.naming().timm);
}

#[test]
fn files_that_name_code_beside_their_tensors_are_read_and_run_nothing() {
    let (_, reference) = read("reference.safetensors").unwrap();
    for name in ["zip_os_system.pth", "legacy_os_system.pth"] {
        let (_, tensors) = read(name).unwrap();
        assert_eq!(tensors, reference, "{name}");
    }
    for name in ["zip_whole_model.pth", "legacy_whole_model.pth"] {
        let (_, tensors) = read(name).unwrap();
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["0.bias", "0.weight"], "{name}");
    }
    assert!(!Path::new("headswap-was-here").exists());
}

#[test]
fn files_that_name_code_are_refused_by_its_name_and_run_nothing() {
    // posix.system("touch headswap-was-here")
    let call = b"\x80\x02cposix\nsystem\nX\x17\0\0\0touch headswap-was-here\x85R.";
    refused(legacy(call), "asks Python to run posix.system;");
    // {"state_dict": posix.system(..)}
    let inner = b"\x80\x02}X\x0a\0\0\0state_dictcposix\nsystem\nX\x17\0\0\0touch headswap-was-here\x85Rs.";
    refused(legacy(inner), "asks Python to run posix.system;");
    // {"weight": posix.system(..)}
    let weight = b"\x80\x02}X\x06\0\0\0weightcposix\nsystem\nX\x17\0\0\0touch headswap-was-here\x85Rs.";
    refused(legacy(weight), "asks Python to run posix.system;");
    assert!(!Path::new("headswap-was-here").exists());
}

#[test]
fn a_whole_backbone_is_loaded_from_timms_names() {
    let path = fixture("narrow_timm_bf16.pth");
    let backbone = Backbone::load(&WeightsSource::File(path.clone()), Architecture::Vgg16Narrow).unwrap();
    assert_eq!(backbone.classes, Some(2));
    assert_eq!(backbone.parameters["classifier.0.weight"].shape, [128, 784]);
    for (name, digest) in digests(&Checkpoint::open(&path).unwrap()) {
        assert_eq!(backbone.parameters[&name].digest(), digest, "{name}");
    }

    let other = Backbone::load(&WeightsSource::File(path.clone()), Architecture::Vgg16).unwrap_err();
    let said = other.to_string();
    assert!(
        said.contains("narrow_timm_bf16.pth: features.0.weight has shape [2, 3, 3, 3]; [64, 3, 3, 3]"),
        "{said}"
    );
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(fit_backbone(Architecture::Vgg16Narrow, &checkpoint), Ok(2));
    assert_eq!(fit_head(Architecture::Vgg16Narrow, &checkpoint), Ok(2));
    assert!(fit_head(Architecture::Vgg16, &checkpoint).is_err());
    let linear = Checkpoint::open(&fixture("zip_linear.pth")).unwrap();
    let said = fit_head(Architecture::Vgg16, &linear).unwrap_err().to_string();
    assert!(
        said.contains("classifier.6.weight has shape [3, 8]; [3, 4096] is expected"),
        "{said}"
    );
}

/// A legacy file whose content is this pickle, with one storage `0` of 4 floats.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    file.extend(pickle);
    file.extend(b"\x80\x02](X\x01\0\0\0\x30e.\x04\0\0\0\0\0\0\0");
    [0.5f32, 1.0, 1.5, 2.0]
        .iter()
        .for_each(|value| file.extend(value.to_le_bytes()));
    file
}

/// The pickle of `{name: tensor}` of these integers on the storage `0` of `length` floats.
fn pickled(tensors: &[(&str, i32, &[i32], &[i32])], length: i32) -> Vec<u8> {
    let int = |value: i32| [b"J".as_slice(), &value.to_le_bytes()].concat();
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let tuple = |values: &[i32]| -> Vec<u8> {
        let values: Vec<u8> = values.iter().flat_map(|value| int(*value)).collect();
        [b"(", &values[..], b"t"].concat()
    };
    let mut pickle = b"\x80\x02}(".to_vec();
    for (name, offset, sizes, strides) in tensors {
        pickle.extend(text(name));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend(
            [
                text("storage"),
                b"ctorch\nFloatStorage\n".to_vec(),
                text("0"),
                text("cpu"),
                int(length),
            ]
            .concat(),
        );
        pickle.extend(
            [
                b"tQ".to_vec(),
                int(*offset),
                tuple(sizes),
                tuple(strides),
                b"\x89NtR".to_vec(),
            ]
            .concat(),
        );
    }
    pickle.extend(b"u.");
    pickle
}

fn refused(bytes: Vec<u8>, part: &str) {
    let said = Checkpoint::from_bytes(bytes.into()).unwrap_err().to_string();
    assert!(said.contains(part), "{said:?} lacks {part:?}");
    assert!(said.len() < 600 && !said.contains(char::is_control), "{said:?}");
}

#[test]
fn strides_and_offsets_pick_the_right_elements() {
    type Case<'a> = (i32, &'a [i32], &'a [i32], &'a [f32]);
    let cases: [Case<'_>; 8] = [
        (0, &[4], &[1], &[0.5, 1.0, 1.5, 2.0]),
        (1, &[2], &[2], &[1.0, 2.0]),
        (0, &[2, 2], &[1, 2], &[0.5, 1.5, 1.0, 2.0]),
        (3, &[1, 1], &[7, 9], &[2.0]),
        (4, &[0, 5], &[5, 1], &[]),
        (2, &[], &[], &[1.5]),
        (1, &[5], &[0], &[1.0, 1.0, 1.0, 1.0, 1.0]),
        (0, &[3, 2], &[0, 3], &[0.5, 2.0, 0.5, 2.0, 0.5, 2.0]),
    ];
    for (offset, sizes, strides, expected) in cases {
        let file = legacy(&pickled(&[("x", offset, sizes, strides)], 4));
        let checkpoint = Checkpoint::from_bytes(file.into()).unwrap();
        let entry = checkpoint.tensors().next().unwrap();
        let tensor = checkpoint.read(entry).unwrap();
        assert_eq!(tensor.values, expected);
        assert!(tensor.shape.iter().map(|size| *size as i32).eq(sizes.iter().copied()));
    }
}

#[test]
fn tensors_outside_their_storage_are_refused() {
    let check = |offset: i32, sizes: &[i32], strides: &[i32], length: i32, part: &str| {
        refused(legacy(&pickled(&[("x", offset, sizes, strides)], length)), part);
    };
    check(1, &[4], &[1], 4, "x reaches beyond its storage");
    check(0, &[2, 2], &[3, 1], 4, "x reaches beyond its storage");
    check(5, &[0], &[1], 4, "x reaches beyond its storage");
    check(0, &[5], &[1], 4, "x has more elements than its storage");
    check(0, &[1 << 23], &[0], 4, "x has more elements than its storage");
    check(0, &[i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0], 4, "more elements");
    check(0, &[4], &[1], 5, "x is in a storage that the file cuts short");
    check(0, &[4], &[1], i32::MAX, "x is in a storage that the file cuts short");
    check(-1, &[4], &[1], 4, "a tensor that torch.save does not write");
    check(0, &[-4], &[1], 4, "a tensor that torch.save does not write");
    check(0, &[4], &[-1], 4, "a tensor that torch.save does not write");
    check(0, &[4], &[1, 1], 4, "a tensor that torch.save does not write");
    check(0, &[1; 9], &[1; 9], 4, "a tensor that torch.save does not write");
}

#[test]
fn names_that_mean_the_same_are_refused() {
    let both: [(&str, i32, &[i32], &[i32]); 2] = [
        ("module.classifier.6.bias", 0, &[2], &[1]),
        ("head.fc.bias", 2, &[2], &[1]),
    ];
    refused(
        legacy(&pickled(&both, 4)),
        "the file holds classifier.6.bias twice, as `module.classifier.6.bias` and as `head.fc.bias`",
    );
}

#[test]
fn pickles_that_are_no_state_dicts_are_refused() {
    let check = |pickle: &[u8], part: &str| refused(legacy(pickle), part);
    check(b"\x80\x02}.", "no dictionary of tensors");
    check(b"\x80\x02]q\0h\0a.", "no dictionary of tensors");
    check(b"\x80\x02X\xff\xff\xff\x7f", "ends in the middle");
    check(b"\x80\x02.", "empty stack");
    check(b"\x80\x02(t0t.", "empty stack");
    check(b"\x80\x02h\x07.", "recalls a value that it has not stored");
    check(b"\x80\x02N)R.", "calls a value that is not a function");
    check(b"\x80\x02I1\n.", "has opcode 0x49");
    check(b"\x80\x02cbuiltins\neval\n.", "asks Python to run builtins.eval;");
    check(b"\x80\x02(S'id'\nios\nsystem\n.", "has opcode 0x53");
    check(b"\x80\x02(ios\nsystem\n.", "asks Python to run os.system;");
    check(
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
        "asks Python to run posix.system;",
    );
    check(b"\x80\x02c\x1b[2J\nx\n.", r"asks Python to run \u{1b}[2J.x;");
    // Nesting, lists and repetition beyond all measure.
    check(
        &[b"\x80\x02", &b"]".repeat(300_000)[..], b"."].concat(),
        "more than a state dict needs",
    );
    let deep = [b"\x80\x02", &b"]".repeat(20_000)[..], &b"a".repeat(19_999)[..], b"."].concat();
    check(&deep, "no dictionary of tensors");
    let doubling = [b"\x80\x02]q\0".as_slice(), &b"(h\0h\0h\0h\0tq\0".repeat(100_000), b"."].concat();
    check(&doubling, "more than a state dict needs");
}

#[test]
fn other_files_are_refused() {
    refused(Vec::new(), "it is empty");
    refused(b"hello, world".to_vec(), "it starts with `hello, world`");
    refused(
        b"\x80\x02cos\nsystem\n(X\x02\0\0\0idtR.".to_vec(),
        "asks Python to run os.system;",
    );
    refused(b"\x80\x02}.".to_vec(), "a pickle, but not torch.save's");
    refused(b"PK\x03\x04 and nothing more".to_vec(), "as if the end were cut off");
    let zip = fs::read(fixture("zip_f32.pth")).unwrap();
    refused(zip[..zip.len() - 1].to_vec(), "as if the end were cut off");
    let mut bytes = zip.clone();
    let at = bytes.windows(6).rposition(|window| window == b"little").unwrap();
    bytes[at..at + 6].copy_from_slice(b"big!!!");
    refused(bytes, "not little-endian");
    let legacy = fs::read(fixture("legacy_f32.pth")).unwrap();
    refused(legacy[..legacy.len() - 1].to_vec(), "is cut off");
    let safetensors = fs::read(fixture("reference.safetensors")).unwrap();
    refused(safetensors[..safetensors.len() - 1].to_vec(), "damaged");
    refused([&safetensors[..], b"\0"].concat(), "the file has");
    assert!(
        Checkpoint::open(Path::new("no-such-file"))
            .unwrap_err()
            .to_string()
            .contains("cannot read the file")
    );
    assert!(
        Checkpoint::open(Path::new("src"))
            .unwrap_err()
            .to_string()
            .contains("the file is a directory: give a file of weights")
    );
}

/// A safetensors file with this header.
fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let check = |header: &str, part: &str| refused(with_header(header, &[0; 8]), part);
    check("{}", "describes 0 bytes of numbers, the file has 8");
    check(
        r#"{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
        "x has shape [3] and dtype F32",
    );
    check(
        r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}"#,
        "bytes 1 to 9 of 8",
    );
    check(
        r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        "bytes 4 to 8 of 8",
    );
    check(
        r#"{"x":{"dtype":"F4","shape":[15],"data_offsets":[0,8]}}"#,
        "x has shape",
    );
    check(
        r#"{"x":{"dtype":"F99","shape":[16],"data_offsets":[0,8]}}"#,
        "header is invalid",
    );
    check(
        r#"{"x":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#,
        "too many dimensions",
    );
    let twice =
        r#""x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#;
    check(&format!("{{{twice}}}"), "the file holds x twice");
    let overflow = r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}}"#;
    check(overflow, "x has shape");
    refused([&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "its header claims");
    // A header of 128 bytes begins as a pickle does.
    let padded = format!("{:128}", r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#);
    assert!(Checkpoint::from_bytes(with_header(&padded, &[0; 8]).into()).is_ok());
}

#[test]
fn numbers_that_cannot_be_weights_are_refused() {
    let check = |dtype: &str, data: &[u8], part: &str| {
        let header = format!(
            r#"{{"x":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,{}]}}}}"#,
            data.len()
        );
        let checkpoint = Checkpoint::from_bytes(with_header(&header, data).into()).unwrap();
        let said = checkpoint
            .read(checkpoint.tensors().next().unwrap())
            .unwrap_err()
            .to_string();
        assert!(said.contains(part), "{said:?} lacks {part:?}");
    };
    check("I32", &[0; 8], "x has dtype I32; F32, F16, BF16 and F64 are accepted");
    check("BOOL", &[0; 2], "x has dtype BOOL");
    check("F32", &[0, 0, 0, 0, 0, 0, 0xc0, 0x7f], "x holds NaN at element 1");
    check("BF16", &[0x80, 0xff, 0, 0], "x holds -inf at element 0");
    let too_large = [1.0f64.to_le_bytes(), 1e300f64.to_le_bytes()].concat();
    check("F64", &too_large, "x holds inf at element 1");
}

/// Opens and reads whatever it is; only a panic fails.
fn survives(bytes: Vec<u8>) {
    if let Ok(checkpoint) = Checkpoint::from_bytes(bytes.into()) {
        for entry in checkpoint.tensors() {
            if let Ok(tensor) = checkpoint.read(entry) {
                assert_eq!(tensor.values.len(), entry.elements());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        which in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let names: Vec<String> = fixtures().into_iter().filter(|name| !name.contains("narrow")).collect();
        let mut bytes = fs::read(fixture(which.get::<String>(&names))).unwrap();
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        for (at, value) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        survives(bytes);
    }

    /// Most of a file is numbers; these changes are all in the pickles and headers.
    #[test]
    fn damaged_pickles_and_headers_never_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((0usize..1200, any::<u8>(), 0u8..3), 1..4),
    ) {
        let names: Vec<String> = fixtures().into_iter().filter(|name| !name.contains("narrow")).collect();
        let mut bytes = fs::read(fixture(which.get::<String>(&names))).unwrap();
        for (at, value, kind) in changes {
            let at = at.min(bytes.len() - 1);
            match kind {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                _ => drop(bytes.remove(at)),
            }
        }
        survives(bytes);
    }
}
