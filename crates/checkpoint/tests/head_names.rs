//! The network is recognised by the order and the shapes of its tensors, whatever their names.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;

use head_fixture::{CHANNELS, FEATURES, File, MAP, convolutions, own, spec};
use headswap_checkpoint::{Digest, inspect_head};
use headswap_spec::{HeadInput, HeadLayer};

/// Checks that a file reads as the same head as VGG16 under torchvision's names, with these prefixes.
fn check(rename: impl Fn(&str) -> String, prefixes: &[&str]) {
    let plain = File::vgg16(5).read(None).unwrap();
    let file = File::vgg16(5).renamed(rename);
    let head = file.read(None).unwrap();
    assert_eq!(head.parameters, plain.parameters);
    assert_eq!(head.input, HeadInput::Features);
    assert_eq!(head.layers, [HeadLayer::Linear]);
    assert_eq!((head.rows, head.output), (5, None));
    assert_eq!(head.report.prefixes, prefixes);
    assert!(head.report.left_out.is_empty());
}

fn prefixed(prefix: &'static str) -> impl Fn(&str) -> String {
    move |name| format!("{prefix}{name}")
}

#[test]
fn prefixes_of_wrappers_are_seen_through() {
    check(prefixed(""), &[]);
    for prefix in [
        "module.",
        "model.",
        "net.",
        "vgg.",
        "vgg16.",
        "cnn.",
        "encoder.",
        "student.",
        "base_model.",
        "feature_extractor.",
        "_forward_module.",
        "model.model.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "a.very.long.one.",
    ] {
        check(prefixed(prefix), &[prefix]);
    }
    check(
        |name| name.replace("features.", "features.module."),
        &["features.module."],
    );
}

#[test]
fn other_names_of_the_same_layers_are_recognised() {
    let replaced = |name: &str, pairs: &[(&str, &str)]| {
        let mut name = name.to_owned();
        for (from, to) in pairs {
            name = name.replace(from, to);
        }
        name
    };
    let split = [
        ("classifier.0", "fc1"),
        ("classifier.3", "fc2"),
        ("classifier.6", "head"),
    ];
    check(|name| replaced(name, &split), &[]);
    let old = [("classifier.3", "classifier.4"), ("classifier.0", "classifier.1")];
    check(|name| replaced(name, &old), &[]);
    let six = [("classifier.6", "classifier.6.1")];
    check(|name| replaced(name, &six), &[]);
    // The Linears' order follows from their widths.
    let unsorted = [
        ("classifier.0", "z"),
        ("classifier.3", "y"),
        ("classifier.6", "classifier"),
    ];
    check(|name| replaced(name, &unsorted), &[]);
    let halves = [("features", "0"), ("classifier", "1")];
    check(|name| replaced(name, &halves), &[]);
    let numbers: Vec<usize> = convolutions().into_iter().map(|(index, ..)| index).collect();
    let blocks = |name: &str| match name.strip_prefix("features.") {
        Some(rest) => {
            let (index, leaf) = rest.split_once('.').unwrap();
            let place = numbers.iter().position(|number| number.to_string() == index).unwrap();
            format!("conv{}.{leaf}", place + 1)
        }
        None => replaced(name, &split),
    };
    check(blocks, &[]);
}

#[test]
fn timm_convolutions_of_the_whole_map_are_linears() {
    let plain = File::vgg16(5).read(None).unwrap();
    for prefix in ["", "net."] {
        let mut file = File::vgg16(5).renamed(|name| {
            let name = name
                .replace("classifier.0", "pre_logits.fc1")
                .replace("classifier.3", "pre_logits.fc2");
            format!("{prefix}{}", name.replace("classifier.6", "head.fc"))
        });
        for (name, shape, _) in &mut file.tensors {
            if name.ends_with("fc1.weight") {
                *shape = vec![FEATURES, CHANNELS, 7, 7];
            } else if name.ends_with("fc2.weight") {
                *shape = vec![FEATURES, FEATURES, 1, 1];
            }
        }
        assert_eq!(file.read(None).unwrap().parameters, plain.parameters);
    }
}

#[test]
fn the_digest_of_a_plain_head_is_that_of_its_tensors() {
    let file = File::new().linear("classifier.6", 3, FEATURES);
    let head = file.read(None).unwrap();
    let mut stored = headswap_checkpoint::Parameters::new();
    let checkpoint = file.checkpoint();
    for entry in checkpoint.tensors() {
        stored.insert(entry.name.clone(), checkpoint.read(entry).unwrap().into());
    }
    let of = |parameters| Digest::of_parameters(parameters, &[]);
    assert_eq!(of(&head.parameters), of(&stored));
}

#[test]
fn a_head_alone_stands_where_its_width_says() {
    for path in ["classifier.6", "", "fc", "model.fc", "classifier.6.1"] {
        let head = File::new().linear(path, 3, FEATURES).read(None).unwrap();
        assert_eq!(head.input, HeadInput::Features, "{path}");
        let own = own(&head);
        assert_eq!(own[1], ("classifier.6.weight".into(), vec![3, FEATURES]), "{path}");
    }
    let state = File::new()
        .linear("0", FEATURES, MAP)
        .linear("3", FEATURES, FEATURES)
        .linear("6", 3, FEATURES);
    let head = state.read(None).unwrap();
    assert_eq!(head.parameters.len(), 6);
    assert!(head.parameters.contains_key("classifier.3.bias"));

    let map = File::new().linear("fc", 3, MAP).read(None).unwrap();
    assert_eq!(
        (map.input, map.layers),
        (HeadInput::Adaptive7x7, vec![HeadLayer::Linear])
    );
    let average = spec("\"input\": \"global_average\"");
    let head = File::new().linear("fc", 3, CHANNELS).read(Some(&average)).unwrap();
    assert_eq!(head.input, HeadInput::GlobalAverage);
    assert_eq!(own(&head)[1], ("head.0.weight".into(), vec![3, CHANNELS]));
}

#[test]
fn some_of_the_parameters_are_a_head() {
    let file = File::new()
        .with("features.28.weight", &[CHANNELS, CHANNELS, 3, 3])
        .with("features.26.bias", &[CHANNELS])
        .linear("classifier.0", FEATURES, MAP)
        .with("classifier.3.bias", &[FEATURES])
        .linear("classifier.6", 3, FEATURES);
    let head = file.read(None).unwrap();
    let names: Vec<&str> = head.parameters.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "classifier.0.bias",
            "classifier.0.weight",
            "classifier.3.bias",
            "classifier.6.bias",
            "classifier.6.weight",
            "features.26.bias",
            "features.28.weight",
        ]
    );
}

#[test]
fn tensors_outside_the_network_are_left_out_and_listed() {
    let file = File::vgg16(5)
        .renamed(prefixed("module."))
        .with("n_averaged", &[1])
        .with("criterion.weight", &[5])
        .with("module.mean", &[1, 3, 1, 1])
        .with("module.aux_classifier.weight", &[5, CHANNELS])
        .with("module.aux_classifier.bias", &[5]);
    let head = file.read(None).unwrap();
    assert_eq!(head.parameters, File::vgg16(5).read(None).unwrap().parameters);
    let mut left_out = head.report.left_out;
    left_out.sort();
    assert_eq!(
        left_out,
        [
            "criterion.weight",
            "module.aux_classifier.bias",
            "module.aux_classifier.weight",
            "module.mean",
            "n_averaged",
        ]
    );
}

#[test]
fn an_inspection_says_what_is_missing() {
    let file = File::convolutions()
        .renamed(prefixed("net."))
        .linear("net.classifier.0", 32, MAP)
        .linear("net.classifier.3", 3, 32);
    let inspection = inspect_head(&file.checkpoint(), None).unwrap();
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["architecture"], "vgg16-narrow");
    assert_eq!(json["convolutions"], 13);
    assert_eq!(json["prefixes"][0], "net.");
    assert_eq!(json["input"]["known"], "adaptive_7x7");
    assert_eq!(json["layers"], "missing");
    assert_eq!(json["modules"][1]["shape"][0], 3);
    let missing: Vec<&str> = inspection.missing.iter().map(|missing| missing.what.as_str()).collect();
    assert_eq!(
        missing,
        [
            "how its pictures were prepared",
            "the activations between its 2 Linears",
            "what its output means"
        ]
    );
}
