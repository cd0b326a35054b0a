//! A VGG16 of any form is a backbone.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;

use bytes::Bytes;
use head_fixture::{CHANNELS, FEATURES, File, MAP};
use headswap_checkpoint::{Checkpoint, HeadFileError, Parameters, Throttle, inspect_head, read_backbone};
use headswap_spec::Architecture;

fn backbone(file: &File) -> Result<Parameters, HeadFileError> {
    read_backbone(&file.checkpoint(), Architecture::Vgg16Narrow, &Throttle::off())
}

#[test]
fn a_backbone_is_read_under_any_names() {
    let plain = File::vgg16(5);
    let renamed = plain.clone().renamed(|name| format!("encoder.vgg.{name}"));
    let parameters = backbone(&renamed).unwrap();
    assert_eq!(parameters, backbone(&plain).unwrap());
    for (name, shape, values) in &plain.tensors {
        assert_eq!((&parameters[name].shape, &parameters[name].values), (shape, values));
    }
    assert_eq!(parameters.len(), plain.tensors.len());
}

#[test]
fn a_part_of_a_backbone_is_refused() {
    let head = File::new().linear("classifier.6", 3, FEATURES);
    let error = backbone(&head).unwrap_err().to_string();
    assert_eq!(error, "the file lacks features.0.weight; a whole VGG16 is expected");
}

/// The names of a backbone's Linears.
fn linears(parameters: &Parameters) -> Vec<&str> {
    let mut names: Vec<&str> = parameters.keys().map(String::as_str).collect();
    names.retain(|name| !name.starts_with("features."));
    names
}

#[test]
fn a_file_without_vgg16s_classifier_is_a_backbone_without_linears() {
    let plain = backbone(&File::vgg16(5)).unwrap();
    let alone = File::convolutions();
    let renamed = alone.clone().renamed(|name| name.replace("features", "conv.base"));
    let head = File::convolutions().linear("fc", 4, 16);
    let stack = File::convolutions().linear("fc1", 32, MAP).linear("fc2", 4, 32);
    for file in [alone, renamed, head, stack] {
        let parameters = backbone(&file).unwrap();
        assert!(linears(&parameters).is_empty());
        assert!(parameters.iter().all(|(name, tensor)| plain[name] == *tensor));
        assert_eq!(parameters.len(), 26);
    }
}

#[test]
fn a_fine_tuned_classifier_leaves_the_linears_before_it() {
    let mut file = File::vgg16(5);
    file.tensors.retain(|(name, ..)| !name.starts_with("classifier.6"));
    let file = file
        .linear("classifier.6.0", 8, FEATURES)
        .linear("classifier.6.2", 3, 8)
        .metadata(
            "headswap.spec",
            r#"{"preprocessing": {"preset": "torchvision"}, "output": "softmax", "layers": ["linear", "relu", "linear"]}"#,
        );
    let parameters = backbone(&file).unwrap();
    let names = [
        "classifier.0.bias",
        "classifier.0.weight",
        "classifier.3.bias",
        "classifier.3.weight",
    ];
    assert_eq!(linears(&parameters), names);
}

/// Keras flattens rows, columns and channels.
#[test]
fn linears_on_a_map_flattened_by_place_are_turned_round() {
    let spec = r#"{"preprocessing": {"preset": "keras-caffe"}, "output": "softmax", "input": "flatten_hwc",
        "layers": ["linear", "relu", "linear", "relu", "linear"]}"#;
    let file = File::convolutions()
        .linear("fc1", FEATURES, MAP)
        .linear("fc2", FEATURES, FEATURES)
        .linear("predictions", 10, FEATURES)
        .metadata("headswap.spec", spec);
    let parameters = backbone(&file).unwrap();
    assert_eq!(linears(&parameters).len(), 6);
    let (turned, own) = (&parameters["classifier.0.weight"], file.values("fc1.weight"));
    for (channel, place) in [(0, 0), (3, 0), (0, 7), (15, 48)] {
        assert_eq!(
            turned.values[MAP + channel * 49 + place],
            own[MAP + place * CHANNELS + channel]
        );
    }
    assert_eq!(
        parameters["classifier.6.weight"].values,
        file.values("predictions.weight")
    );
}

/// A file as PyTorch before 1.6 writes it, of tensors in one storage of four numbers: names, offsets and sizes.
fn legacy(tensors: &[(&str, i32, &[i32])]) -> Checkpoint {
    fn text(text: &str) -> Vec<u8> {
        [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }
    fn tuple(values: &[i32]) -> Vec<u8> {
        let mut tuple = b"(".to_vec();
        for value in values {
            tuple.extend([b"J", &value.to_le_bytes()[..]].concat());
        }
        tuple.push(b't');
        tuple
    }
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02}(".to_vec();
    for (name, offset, sizes) in tensors {
        file.extend(text(name));
        file.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        file.extend(
            [
                text("storage"),
                b"ctorch\nFloatStorage\n".to_vec(),
                text("0"),
                text("cpu"),
            ]
            .concat(),
        );
        file.extend([b"J", &4i32.to_le_bytes()[..], b"tQJ", &offset.to_le_bytes()].concat());
        let strides: Vec<i32> = (0..sizes.len()).map(|at| sizes[at + 1..].iter().product()).collect();
        file.extend([tuple(sizes), tuple(&strides), b"\x89NtR".to_vec()].concat());
    }
    file.extend(b"u.\x80\x02](X\x01\0\0\0\x30e.\x04\0\0\0\0\0\0\0");
    for value in [0.5f32, 1.0, 1.5, 2.0] {
        file.extend(value.to_le_bytes());
    }
    Checkpoint::from_bytes(Bytes::from(file)).unwrap()
}

#[test]
fn a_module_under_two_names_counts_once() {
    for second in ["model.fc", "vgg.fc"] {
        let (weight, bias) = (format!("{second}.weight"), format!("{second}.bias"));
        let shared = [
            ("fc.weight", 0, &[1, 3][..]),
            ("fc.bias", 3, &[1]),
            (&weight, 0, &[1, 3]),
            (&bias, 3, &[1]),
        ];
        let inspection = inspect_head(&legacy(&shared), None).unwrap();
        assert_eq!(inspection.modules.len(), 1, "{second}");
        assert_eq!(inspection.modules[0].name, "fc");
    }
}

#[test]
fn layers_that_a_head_lacks_are_reported_as_the_backbones() {
    let lacked = |file: &File, keys: &str| file.read(Some(&head_fixture::spec(keys))).unwrap().report.assumed;
    let without = |names: &[&str]| {
        let mut file = File::vgg16(3);
        file.tensors
            .retain(|(name, ..)| !names.iter().any(|layer| name.starts_with(layer)));
        file
    };
    for (file, expected) in [
        (without(&[]), None),
        (File::new().linear("fc", 3, FEATURES), None),
        (without(&["features.0.", "features.2.", "features.5."]), None),
        (without(&["features.12."]), Some("features.12")),
        (
            without(&["features.12.", "features.14."]),
            Some("features.12, features.14"),
        ),
        (
            without(&["features.10.", "features.12.bias"]),
            Some("features.10, features.12.bias"),
        ),
        (without(&["features.12.weight"]), Some("features.12.weight")),
        (
            without(&["features.0.", "features.2.bias", "classifier.3.bias"]),
            Some("features.2.bias, classifier.3.bias"),
        ),
        (
            without(&["classifier.0.", "classifier.3."]),
            Some("classifier.0, classifier.3"),
        ),
    ] {
        let expected: Vec<String> = expected
            .map(|layers| format!("{layers}: the backbone's, as the file lacks them"))
            .into_iter()
            .collect();
        assert_eq!(lacked(&file, ""), expected);
    }
    let zeros = "features.12.bias, classifier.0.bias: zeros, as the file lacks them";
    assert_eq!(
        lacked(&without(&["features.12.bias", "classifier.0.bias"]), ""),
        [zeros]
    );
    let pooled = File::convolutions().linear("fc", 3, CHANNELS);
    assert!(lacked(&pooled, r#""input": "global_average""#).is_empty());
}
