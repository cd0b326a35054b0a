//! A head in normal form reads back as it was written.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;

use bytes::Bytes;
use head_fixture::{CHANNELS, FEATURES, File, MAP, refused, spec};
use headswap_checkpoint::{Checkpoint, HeadOptions, NormalHead, SPEC, Throttle, inspect_head, read_head, write_head};
use headswap_spec::{Architecture, HeadInput, HeadSpec, Output};

/// Writes the normal form of a file and checks what is read back without a spec.
fn check(file: &File, keys: &str) {
    let spec = spec(keys);
    let head = file.read(Some(&spec)).unwrap();
    let (bytes, read) = written(&head, &spec);
    let same = NormalHead {
        report: read.report.clone(),
        ..head.clone()
    };
    assert_eq!(read, same, "{keys}");
    assert_eq!(read.report.assumed, head.report.assumed);
    assert_eq!(written(&read, &head.full_spec(&spec)).0, bytes);
}

fn written(head: &NormalHead, spec: &HeadSpec) -> (Vec<u8>, NormalHead) {
    let mut bytes = Vec::new();
    write_head(head, spec, &mut bytes).unwrap();
    let checkpoint = Checkpoint::from_bytes(Bytes::from(bytes.clone())).unwrap();
    let stored = HeadSpec::from_json(&checkpoint.metadata()[SPEC]).unwrap();
    assert_eq!(stored, head.full_spec(spec));
    assert!(inspect_head(&checkpoint, None).unwrap().missing.is_empty());
    let throttle = Throttle::off();
    let options = HeadOptions {
        architecture: Architecture::Vgg16Narrow,
        spec: None,
        labels: &[],
        throttle: &throttle,
    };
    let read = read_head(&checkpoint, &options).unwrap();
    (bytes, read)
}

#[test]
fn every_kind_of_head_reads_back() {
    check(&File::new().linear("fc", 3, FEATURES), "");
    check(&File::vgg16(3), r#""labels": ["a", "b", "c"]"#);
    check(&File::vgg16(1000), r#""labels": ["a", "b", "c"], "classes": 3"#);
    check(&File::vgg16(3), r#""input": "adaptive_7x7""#);
    check(
        &File::vgg16(8).linear("classifier.7", 3, 8),
        r#""layers": ["linear", "relu", "linear"], "output": "linear""#,
    );
    check(
        &File::vgg16(FEATURES).linear("classifier.7", 3, FEATURES),
        r#""layers": ["linear", "relu", "linear"]"#,
    );
    check(
        &File::new()
            .linear("a", FEATURES, FEATURES)
            .linear("b", FEATURES, FEATURES)
            .linear("c", 3, FEATURES),
        r#""layers": ["linear", "relu", "linear", "relu", "linear"]"#,
    );
    let normed = File::convolutions()
        .batch_norm("c.0", 2 * CHANNELS)
        .linear("c.2", 8, 2 * CHANNELS)
        .batch_norm("c.4", 8)
        .linear("c.6", 4, 8);
    check(
        &normed,
        r#""input": "global_max_average", "output": {"groups": 2}, "labels": ["a", "b"],
           "layers": ["batch_norm", "tanh", "linear", "gelu", "batch_norm", "l2_normalise", "linear", "sigmoid"]"#,
    );
    let mut long = File::new();
    let mut layers = Vec::new();
    for index in 0..12 {
        long = long.linear(&format!("fc{index}"), FEATURES, FEATURES);
        layers.push("\"linear\"");
    }
    check(
        &long.linear("fc12", 3, FEATURES),
        &format!("\"layers\": [{}, \"linear\"]", layers.join(", ")),
    );
    check(&File::new().linear("fc", 3, MAP), r#""input": "flatten_hwc""#);
}

#[test]
fn a_spec_beside_the_metadata_may_leave_out_what_it_says() {
    let full = spec(r#""input": "global_average", "layers": ["linear", "relu", "linear"], "labels": ["a", "b"]"#);
    let file = File::new().linear("head.0", 8, CHANNELS).linear("head.2", 2, 8);
    let file = file.metadata(SPEC, &full.to_json());
    let head = file.read(Some(&spec(r#""output": "linear""#))).unwrap();
    assert_eq!(
        (head.input, head.output),
        (HeadInput::GlobalAverage, Some(Output::Linear))
    );
    assert_eq!(head.labels, ["a", "b"]);
    let fewer = file.read(Some(&spec(r#""classes": 1"#))).unwrap();
    assert!(fewer.labels.is_empty());
}

#[test]
fn a_spec_in_the_metadata_that_is_none_is_refused() {
    let file = File::new().linear("fc", 3, FEATURES).metadata(SPEC, "{}");
    refused(&file, None, &["`headswap.spec`", "preprocessing"]);
}
