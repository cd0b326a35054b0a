//! Where a head stands, and its layers: from the spec, from the file, or refused.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;

use head_fixture::{CHANNELS, FEATURES, File, MAP, convolutions, own, refused, spec};
use headswap_spec::{GeluKind, HeadInput, HeadLayer};

/// Checks the input, the layers and the shapes of the own weights of a head that is read with these keys of a spec.
fn check(file: &File, keys: &str, input: HeadInput, layers: &[HeadLayer], weights: &[(&str, &[usize])]) {
    let head = file.read(Some(&spec(keys))).unwrap();
    assert_eq!((head.input, &head.layers[..]), (input, layers));
    for (name, shape) in weights {
        assert_eq!(head.parameters[*name].shape, *shape, "{name}");
    }
    assert_eq!(
        own(&head).iter().filter(|(name, _)| name.ends_with("weight")).count(),
        weights.len()
    );
}

fn stack() -> File {
    File::convolutions()
        .linear("classifier.0", 32, MAP)
        .linear("classifier.3", 8, 32)
        .linear("classifier.6", 3, 8)
}

#[test]
fn the_spec_gives_layers_to_the_linears_in_order() {
    let linear = HeadLayer::Linear;
    check(
        &stack(),
        r#""layers": ["linear", "relu", "linear", {"leaky_relu": 0.2}, "linear"]"#,
        HeadInput::Adaptive7x7,
        &[linear, HeadLayer::Relu, linear, HeadLayer::LeakyRelu(Some(0.2)), linear],
        &[
            ("head.0.weight", &[32, MAP]),
            ("head.2.weight", &[8, 32]),
            ("head.4.weight", &[3, 8]),
        ],
    );
    let six = File::vgg16(8).linear("classifier.7", 3, 8);
    check(
        &six,
        r#""layers": ["linear", "gelu", "linear"]"#,
        HeadInput::Features,
        &[linear, HeadLayer::Gelu(Some(GeluKind::Exact)), linear],
        &[
            ("classifier.0.weight", &[FEATURES, MAP]),
            ("classifier.3.weight", &[FEATURES, FEATURES]),
            ("head.0.weight", &[8, FEATURES]),
            ("head.2.weight", &[3, 8]),
        ],
    );
}

#[test]
fn vgg16s_own_linears_count_if_the_input_is_the_map() {
    let own_shapes = File::vgg16(3);
    let head = own_shapes.read(Some(&spec(r#""input": "adaptive_7x7""#))).unwrap();
    let (linear, relu) = (HeadLayer::Linear, HeadLayer::Relu);
    assert_eq!(head.layers, [linear, relu, linear, relu, linear]);
    assert_eq!(
        head.report.assumed,
        [
            "layers[1]: relu, between Linears of VGG16's own shapes",
            "layers[3]: relu, between Linears of VGG16's own shapes"
        ]
    );
    refused(
        &own_shapes,
        Some(r#""layers": ["linear", "relu", "linear"]"#),
        &[
            "\"layers\" has 2 linear and the file has 1",
            "classifier.6.weight [3, 128]",
            "do not count",
        ],
    );
}

#[test]
fn renamed_linears_of_vgg16_have_an_assumed_relu() {
    let file = File::vgg16(3).renamed(|name| name.replace("classifier.0", "fc1").replace("classifier.3", "fc2"));
    let file = file.renamed(|name| name.replace("classifier.6", "head"));
    let assumed = file.read(None).unwrap().report.assumed;
    assert_eq!(
        assumed,
        ["fc1.weight and fc2.weight: relu after each, Linears of VGG16's own shapes"]
    );
}

#[test]
fn activations_that_a_file_does_not_say_must_be_given() {
    refused(
        &stack(),
        None,
        &[
            "classifier.0.weight [32, 784], classifier.3.weight [8, 32]",
            "give \"layers\" in its spec",
        ],
    );
    refused(
        &stack(),
        Some(r#""layers": ["linear"]"#),
        &["\"layers\" has 1 linear and the file has 3"],
    );
    let two = File::vgg16(8).linear("classifier.7", 3, 8);
    refused(&two, None, &["classifier.7.weight [3, 8]", "give \"layers\""]);
    let normed = File::convolutions().linear("fc", 3, MAP).batch_norm("bn", 3);
    refused(&normed, None, &["give \"layers\""]);
    refused(
        &normed,
        Some(r#""layers": ["linear"]"#),
        &["has 0 batch_norm and the file has 1: bn.weight [3]"],
    );
}

#[test]
fn an_input_that_a_file_does_not_say_must_be_given() {
    let pooled = File::convolutions().linear("classifier.1", 3, CHANNELS);
    refused(
        &pooled,
        None,
        &["takes 16 values", "`global_average`", "give \"input\" in its spec"],
    );
    let twice = File::convolutions().linear("fc", 3, 2 * CHANNELS);
    refused(&twice, None, &["takes 32 values", "`global_max_average`"]);
    refused(
        &twice,
        Some(r#""input": "global_max""#),
        &["takes 32 values", "`global_max` has 16"],
    );
    let odd = File::convolutions().linear("fc", 3, 100);
    refused(&odd, None, &["100", "give \"input\""]);
}

#[test]
fn flatten_follows_the_size_of_the_pictures() {
    let small = File::convolutions().linear("fc", 3, CHANNELS * 4 * 5);
    refused(&small, None, &["20 positions of 16 channels"]);
    let sized = |height: u32, width: u32| {
        let json = format!(
            r#"{{"preprocessing": {{"resize": {{"stretch": [{height}, {width}]}}, "scale": 1}}, "output": "softmax",
               "input": "flatten_hwc"}}"#
        );
        headswap_spec::HeadSpec::from_json(&json).unwrap()
    };
    let head = small.read(Some(&sized(150, 170))).unwrap();
    assert_eq!(head.input, HeadInput::FlattenHwc);
    let error = small.read(Some(&sized(224, 170))).unwrap_err().to_string();
    assert!(error.contains("16 x 7 x 5 = 560 for pictures of 224x170"), "{error}");
}

/// fastai's `create_head` on vgg16_bn.
fn fastai() -> File {
    let mut file = File::new();
    for (index, input, output) in convolutions() {
        // vgg16_bn has a batch norm beside each convolution.
        file = file
            .with(&format!("0.0.{index}.weight"), &[output, input, 3, 3])
            .with(&format!("0.0.{index}.bias"), &[output]);
    }
    file.batch_norm("1.2", 2 * CHANNELS)
        .with("1.4.weight", &[8, 2 * CHANNELS])
        .batch_norm("1.6", 8)
        .with("1.8.weight", &[3, 8])
}

#[test]
fn the_layout_of_fastai_is_known() {
    let head = fastai().read(None).unwrap();
    assert_eq!(head.input, HeadInput::GlobalMaxAverage);
    assert_eq!(head.layers, [HeadLayer::Linear, HeadLayer::Relu, HeadLayer::Linear]);
    assert!(head.report.assumed.iter().any(|line| line.contains("fastai")));
    assert!(
        head.report
            .assumed
            .contains(&"layers[3]: eps 0.00001, PyTorch's default".to_owned())
    );
    // Other numbers are another layout.
    let other = fastai().renamed(|name| name.replace("1.6.", "1.7."));
    refused(&other, None, &["give \"input\""]);
}

#[test]
fn numbers_that_are_left_out_are_pytorchs_and_reported() {
    let file = File::convolutions()
        .linear("classifier.1", 8, MAP)
        .batch_norm("classifier.2", 8)
        .linear("classifier.5", 3, 8);
    let keys = r#""layers": ["linear", "batch_norm", "leaky_relu", "linear"]"#;
    let head = file.read(Some(&spec(keys))).unwrap();
    assert_eq!(
        head.layers,
        [HeadLayer::Linear, HeadLayer::LeakyRelu(Some(0.01)), HeadLayer::Linear]
    );
    assert_eq!(
        head.report.assumed,
        [
            "layers[1]: eps 0.00001, PyTorch's default",
            "layers[2]: slope 0.01, PyTorch's default"
        ]
    );
}

/// A LayerNorm's parameters look like an affine's, so the message warns against declaring one as the other.
#[test]
fn a_pair_of_vectors_without_a_layer_may_be_a_layer_norm() {
    let file = File::convolutions()
        .linear("head.0", 8, CHANNELS)
        .with("head.1.weight", &[8])
        .with("head.1.bias", &[8])
        .linear("head.3", 3, 8);
    refused(
        &file,
        Some(r#""input": "global_average", "layers": ["linear", "relu", "linear"]"#),
        &[
            "0 affine and the file has 1: head.1.weight [8]",
            "a LayerNorm or GroupNorm is not",
        ],
    );
}
