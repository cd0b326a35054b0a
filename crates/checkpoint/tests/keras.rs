//! Keras's files: scripts/fixtures/keras_models.py says what is in them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use headswap_checkpoint::{
    Checkpoint, Finding, HeadOptions, NormalHead, Throttle, inspect_head, read_backbone, read_head,
};
use headswap_spec::HeadLayer::{BatchNorm, Gelu, LeakyRelu, Linear, Relu, Tanh};
use headswap_spec::{Architecture, ChannelOrder, GeluKind, HeadInput, HeadLayer, HeadSpec, Output, Preset, ValueRange};

fn bytes(file: &str) -> Vec<u8> {
    std::fs::read(format!("../../tests/fixtures/keras/{file}")).unwrap()
}

fn open(file: &str) -> Checkpoint {
    Checkpoint::from_bytes(bytes(file).into()).unwrap()
}

fn spec(json: &str) -> HeadSpec {
    HeadSpec::from_json(json).unwrap()
}

fn read(checkpoint: &Checkpoint, json: &str) -> Result<NormalHead, String> {
    let spec = spec(json);
    let options = HeadOptions {
        architecture: Architecture::Vgg16Narrow,
        spec: Some(&spec),
        labels: &[],
        throttle: &Throttle::off(),
    };
    read_head(checkpoint, &options).map_err(|error| error.to_string())
}

/// A file, and its head's input, layers, output and convolutions.
type Case<'a> = (&'a str, HeadInput, &'a [HeadLayer], Option<Output>, usize);

const RAW: &str = r#"{"preprocessing": {"preset": "keras-raw"}, "output": "softmax"}"#;

#[test]
fn a_model_says_its_input_its_layers_and_its_output() {
    let gelu = Gelu(Some(GeluKind::Exact));
    let leaky = LeakyRelu(Some(0.2));
    let eps = BatchNorm(Some(0.001));
    let layers = [eps, Linear, Relu, Linear];
    let scaled = [Linear, BatchNorm(Some(0.01)), leaky, Linear, gelu, Linear];
    let cases: [Case<'_>; 5] = [
        (
            "augmented.h5",
            HeadInput::FlattenHwc,
            &layers,
            Some(Output::Softmax),
            13,
        ),
        (
            "augmented3.keras",
            HeadInput::FlattenHwc,
            &layers,
            Some(Output::Softmax),
            13,
        ),
        ("scaled.keras", HeadInput::GlobalMax, &scaled, Some(Output::Sigmoid), 13),
        ("top.h5", HeadInput::Features, &[Linear], Some(Output::Softmax), 13),
        ("bottleneck.h5", HeadInput::FlattenHwc, &[Linear, Tanh, Linear], None, 0),
    ];
    for (file, input, layers, output, convolutions) in cases {
        let inspection = inspect_head(&open(file), None).unwrap();
        assert_eq!(inspection.input, Finding::Known(input), "{file}");
        assert_eq!(inspection.layers, Finding::Known(layers.to_vec()), "{file}");
        assert_eq!(inspection.output, output, "{file}");
        assert_eq!(inspection.convolutions, convolutions, "{file}");
        assert_eq!(inspection.architecture, Architecture::Vgg16Narrow, "{file}");
        assert!(
            inspection.assumed.is_empty() && inspection.left_out.is_empty(),
            "{file}"
        );
        let missing: Vec<&str> = inspection.missing.iter().map(|missing| missing.key).collect();
        assert_eq!(missing.contains(&"output"), output.is_none(), "{file}: {missing:?}");
        assert!(
            missing.contains(&"preprocessing") && missing.len() < 3,
            "{file}: {missing:?}"
        );
    }
}

#[test]
fn what_the_model_computes_of_its_pictures_follows_what_it_is_fed() {
    let caffe = |file: &str| {
        let json = RAW.replace("softmax", if file == "scaled.keras" { "sigmoid" } else { "softmax" });
        read(&open(file), &json).unwrap().preprocessing.unwrap()
    };
    for file in ["augmented.h5", "augmented3.keras"] {
        let read = caffe(file);
        assert_eq!(read.channels, ChannelOrder::Bgr, "{file}");
        assert_eq!(
            read.normalisation,
            Preset::KerasCaffe.preprocessing().normalisation,
            "{file}"
        );
        assert_eq!(read.size().unwrap(), [64, 64], "{file}");
    }
    let ValueRange::Scaled { scale, mean, std } = caffe("scaled.keras").normalisation else {
        panic!("not scaled");
    };
    for (channel, (expected_mean, expected_std)) in
        [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].into_iter().enumerate()
    {
        let (mean, std) = (mean[channel] / scale / 255.0, std[channel] / scale / 255.0);
        assert!(
            (mean - expected_mean).abs() < 1e-6 && (std - expected_std).abs() < 1e-6,
            "{mean} {std}"
        );
    }
}

#[test]
fn the_files_size_counts() {
    let checkpoint = open("augmented.h5");
    let report = read(&checkpoint, RAW).unwrap().report;
    assert_eq!(report.assumed, ["preprocessing: pictures of 64x64, as the file says"]);
    let own = |size: u32| {
        format!(
            r#"{{"preprocessing": {{"resize": {{"stretch": [{size}, {size}]}}, "scale": 1}}, "output": "softmax"}}"#
        )
    };
    assert!(read(&checkpoint, &own(64)).unwrap().report.assumed.is_empty());
    let error = read(&checkpoint, &own(96)).unwrap_err();
    assert!(
        error.contains("the file's pictures are 64x64") && error.contains(r#"{"stretch": [64, 64]}"#),
        "{error}"
    );
}

#[test]
fn the_convolutions_are_those_of_pytorch() {
    let torch = Checkpoint::open("../../tests/fixtures/heads/backbone.pth".as_ref()).unwrap();
    let expected = read_backbone(&torch, Architecture::Vgg16Narrow, &Throttle::off()).unwrap();
    let stack = r#"{"preprocessing": {"preset": "keras-unit"}, "input": "global_average", "output": "linear",
                    "layers": ["linear", "relu", "batch_norm", "linear"]}"#;
    for (file, json) in [
        ("augmented.h5", RAW),
        ("augmented3.keras", RAW),
        ("top.h5", RAW),
        ("pooled.weights.h5", stack),
        ("pooled2.h5", stack),
    ] {
        let head = read(&open(file), json).unwrap();
        let mut convolutions = 0;
        for (name, tensor) in head.parameters.iter().filter(|(name, _)| name.starts_with("features.")) {
            assert_eq!(tensor.digest(), expected[name].digest(), "{name} of {file}");
            convolutions += 1;
        }
        assert_eq!(convolutions, 26, "{file}");
    }
}

#[test]
fn weights_alone_leave_open_what_lies_between() {
    for file in ["pooled.weights.h5", "pooled2.h5"] {
        let inspection = inspect_head(&open(file), None).unwrap();
        let missing: Vec<&str> = inspection.missing.iter().map(|missing| missing.key).collect();
        assert_eq!(missing, ["preprocessing", "input", "layers", "output"], "{file}");
        assert_eq!(inspection.convolutions, 13, "{file}");
        let stack = r#"{"preprocessing": {"preset": "keras-unit"}, "input": "global_average", "output": "linear",
                        "layers": ["linear", "relu", "batch_norm", "linear"]}"#;
        let head = read(&open(file), stack).unwrap();
        assert_eq!(head.report.assumed, ["layers[2]: eps 0.001, Keras's default"], "{file}");
    }
}

/// Checks the refusal of `scaled.keras` with some text of its configuration in place of other text of the same length.
fn check_refused(replaced: &str, by: &str, part: &str) {
    assert_eq!(replaced.len(), by.len());
    let mut bytes = bytes("scaled.keras");
    let places: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes[*at..].starts_with(replaced.as_bytes()))
        .collect();
    assert!(!places.is_empty(), "{replaced}");
    for at in places {
        bytes[at..at + by.len()].copy_from_slice(by.as_bytes());
    }
    let said = match Checkpoint::from_bytes(bytes.into()) {
        Err(error) => error.to_string(),
        Ok(checkpoint) => read(&checkpoint, &RAW.replace("softmax", "sigmoid")).unwrap_err(),
    };
    assert!(said.contains(part), "{said:?} lacks {part:?}");
    assert!(!said.contains(char::is_control) && said.len() < 400, "{said:?}");
}

#[test]
fn what_heads_do_not_have_is_refused_by_its_layer() {
    for (replaced, by, part) in [
        (
            "\"class_name\": \"LeakyReLU\"",
            "\"class_name\": \"ThreshReL\"",
            "is of class ThreshReL, which heads do not have",
        ),
        (
            "\"activation\": \"gelu\"",
            "\"activation\": \"selu\"",
            "has the activation selu, which heads do not have",
        ),
        (
            "\"class_name\": \"GlobalMaxPooling2D\"",
            "\"class_name\": \"GlobalMaxPooling3D\"",
            "global_max_pooling2d",
        ),
        (
            "\"class_name\": \"Rescaling\"",
            "\"class_name\": \"Something\"",
            "is of class Something where VGG16 has a convolution",
        ),
        (
            "\"module\": \"keras.layers\", \"class_name\": \"LeakyReLU\"",
            "\"module\": \"somebodys.my\", \"class_name\": \"LeakyReLU\"",
            "is of class somebodys.my>LeakyReLU",
        ),
        ("\"offset\": 0.0", "\"offset\": nul", "that is not JSON"),
        (
            "\"strides\": [1, 1]",
            "\"strides\": [1, 2]",
            "block1_conv1 is a convolution with a stride",
        ),
        (
            "\"pool_size\": [2, 2]",
            "\"pool_size\": [3, 3]",
            "pools 3x3 places of the map",
        ),
        (
            "\"class_name\": \"Sequential\"",
            "\"class_name\": \"Recursive_\"",
            "a model of class Recursive_, whose layers only its code knows",
        ),
    ] {
        check_refused(replaced, by, part);
    }
}

#[test]
fn what_contradicts_the_file_is_refused() {
    for (changed, part) in [
        (
            r#""output": "softmax", "layers": ["batch_norm", "linear", "tanh", "linear"]"#,
            "the file's network computes",
        ),
        (r#""output": "sigmoid""#, "the file's network ends in a softmax"),
        (r#""output": "softmax", "input": "flatten""#, "`flatten_hwc`"),
    ] {
        let json = RAW.replace(r#""output": "softmax""#, changed);
        let error = read(&open("augmented.h5"), &json).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
