//! Heads and their specs: digests, labels, classes, what is assumed, and what is refused.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use headswap_checkpoint::{
    Checkpoint, Digest, HeadOptions, SPEC, StoredDtype, Throttle, read_head, safetensors_header, write_head,
};
use headswap_heads::{Backbones, HeadError, HeadLimits, HeadRequest, HeadWeights, KnownBackbone, assumed_without_spec};
use headswap_spec::{
    Architecture, ChannelOrder, HeadInput, HeadLayer, HeadSpec, LAST_BIAS, LAST_WEIGHT, Output, Preprocessing, Preset,
    Resize, ResizeFilter, ValueRange,
};
use proptest::prelude::*;

/// The narrow architecture's features and channels.
const FEATURES: usize = 128;
const CHANNELS: usize = 16;

/// Tensors and metadata of a file.
#[derive(Clone, Default)]
struct File {
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    metadata: std::collections::HashMap<String, String>,
}

impl File {
    /// A last Linear under torchvision's name.
    fn last(rows: usize) -> Self {
        Self::default().linear("classifier.6", rows, FEATURES)
    }

    fn linear(self, path: &str, rows: usize, width: usize) -> Self {
        self.with(&format!("{path}.weight"), &[rows, width])
            .with(&format!("{path}.bias"), &[rows])
    }

    /// Adds a tensor whose numbers follow from its place: eighths from -1 to 1.
    fn with(self, name: &str, shape: &[usize]) -> Self {
        let seed = self.tensors.len() * 5;
        let count = shape.iter().product();
        let values = (0..count).map(|index: usize| ((index * 7 + seed) % 17) as f32 / 8.0 - 1.0);
        self.with_values(name, shape, values.collect())
    }

    fn with_values(mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Self {
        self.tensors.push((name.to_owned(), shape.to_vec(), values));
        self
    }

    fn metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let tensors = self.tensors.iter().map(|(name, shape, _)| (name.as_str(), &shape[..]));
        let mut bytes = safetensors_header(tensors, StoredDtype::F32, &self.metadata);
        for (.., values) in &self.tensors {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    fn read(&self, request: &HeadRequest) -> Result<HeadWeights, HeadError> {
        HeadWeights::from_bytes(self.bytes().into(), request, &limits())
    }
}

fn limits() -> HeadLimits {
    HeadLimits {
        classes_max: 1000,
        architecture: Architecture::Vgg16Narrow,
        require_spec: false,
        backbones: Backbones::new(
            KnownBackbone::of_any_heads("default", Digest::of_backbone([]), Preset::Torchvision.preprocessing()),
            [],
        ),
    }
}

/// A spec of torchvision's preprocessing and softmax, unless the JSON of the further keys has its own.
fn spec(keys: &str) -> HeadSpec {
    let mut json = String::from("{");
    if !keys.contains("\"preprocessing\"") {
        json += r#""preprocessing": {"preset": "torchvision"}, "#;
    }
    if !keys.contains("\"output\"") {
        json += r#""output": "softmax", "#;
    }
    json += keys;
    let json = json.trim_end().trim_end_matches(',').to_owned() + "}";
    HeadSpec::from_json(&json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn with_spec(keys: &str) -> HeadRequest {
    HeadRequest {
        labels: Vec::new(),
        spec: Some(spec(keys)),
        ..HeadRequest::default()
    }
}

fn with_labels(labels: &[&str]) -> HeadRequest {
    HeadRequest {
        labels: owned(labels),
        spec: None,
        ..HeadRequest::default()
    }
}

fn owned(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

fn no_request() -> HeadRequest {
    HeadRequest::default()
}

// Digests.

/// Clients and stores hold digests of heads that were published before there were specs.
#[test]
fn a_head_without_a_spec_keeps_its_digest() {
    let labels = ["cat", "a \"dög\"\n"];
    let plain = File::last(2).read(&no_request()).unwrap();
    let labelled = File::last(2).read(&with_labels(&labels)).unwrap();
    assert!(!plain.has_spec && !labelled.has_spec);
    assert_eq!(plain.digest, Digest::of_parameters(&plain.parameters, &[]));
    assert_eq!(
        labelled.digest,
        Digest::of_parameters(&plain.parameters, &owned(&labels))
    );
    assert_eq!(plain.digest.to_string(), PLAIN_DIGEST);
    assert_eq!(labelled.digest.to_string(), LABELLED_DIGEST);
}

/// Computed by hashlib: of each tensor its rank and dimensions (u64) and its values (f32); then, for each in the order of
/// names, the length of its name (u64), its name and that SHA-256; then of each label its length and bytes.
const PLAIN_DIGEST: &str = "08222f58c8f4f4d5148fb4a771ce1da09197bee8696f06b374c4cb86440a947e";
const LABELLED_DIGEST: &str = "b912ee3b986332f6fe298847d686dab234eb88908080c62a742796d913e6b3c4";
/// The length and bytes of `headswap.head/2` and of the canonical spec, then [`PLAIN_DIGEST`] as bytes.
const SPEC_DIGEST: &str = "d8a45b1cdd839dca9cbce01e43606bfc0b8a442aa7049115e7eb935c2bff6edf";

#[test]
fn a_head_with_a_spec_has_a_digest_that_stays() {
    let head = File::last(2).read(&with_spec("")).unwrap();
    assert!(head.has_spec);
    let canonical = head.spec.to_spec(&[]).to_json();
    assert_eq!(head.digest, Digest::of_head(&head.parameters, &canonical));
    assert_eq!(head.digest.to_string(), SPEC_DIGEST);
    // It says the same as what is assumed without one, and yet was said.
    assert_eq!(*head.spec, *File::last(2).read(&no_request()).unwrap().spec);
}

#[test]
fn a_preset_and_its_numbers_have_one_digest() {
    for preset in [
        "torchvision",
        "torchvision-stretch",
        "unit",
        "half",
        "keras-unit",
        "keras-caffe",
        "tensorflow-caffe",
    ] {
        let by_name = with_spec(&format!(r#""preprocessing": {{"preset": "{preset}"}},"#));
        let numbers = by_name.spec.as_ref().unwrap().preprocessing.to_json();
        let by_numbers = with_spec(&format!(r#""preprocessing": {numbers},"#));
        let digests = [&by_name, &by_numbers].map(|request| File::last(2).read(request).unwrap().digest);
        assert_eq!(digests[0], digests[1], "{preset}");
    }
}

#[test]
fn what_a_spec_leaves_out_is_part_of_the_digest_as_the_file_says_it() {
    let short = File::last(2).read(&with_spec("")).unwrap();
    let long = File::last(2).read(&with_spec(
        r#""input": "features", "layers": ["linear"], "output": "softmax", "classes": 2"#,
    ));
    assert_eq!(short.digest, long.unwrap().digest);
    let in_spec = with_spec(r#""labels": ["a", "b"]"#);
    let beside = HeadRequest {
        labels: owned(&["a", "b"]),
        ..with_spec("")
    };
    let in_file = File::last(2).metadata("labels", r#"["a", "b"]"#);
    let digest = File::last(2).read(&in_spec).unwrap().digest;
    assert_eq!(digest, File::last(2).read(&beside).unwrap().digest);
    assert_eq!(digest, in_file.read(&with_spec("")).unwrap().digest);
    assert_ne!(digest, short.digest);
}

/// Returns preprocessings, no two of which are equal.
fn preprocessings() -> Vec<Preprocessing> {
    let base = Preset::Torchvision.preprocessing();
    vec![
        base,
        Preset::Half.preprocessing(),
        Preset::KerasCaffe.preprocessing(),
        Preprocessing {
            filter: ResizeFilter::Bicubic,
            ..base
        },
        Preprocessing {
            crop: Some([192, 224]),
            ..base
        },
        Preprocessing {
            channels: ChannelOrder::Bgr,
            ..base
        },
        Preprocessing {
            resize: Some(Resize::ShortSide(257)),
            ..base
        },
        Preprocessing {
            normalisation: ValueRange::Standardised,
            ..base
        },
        Preprocessing {
            normalisation: ValueRange::Scaled {
                scale: 1.0,
                mean: [0.0, 0.0, 0.1],
                std: [1.0; 3],
            },
            ..base
        },
        Preprocessing {
            normalisation: ValueRange::Scaled {
                scale: 1.0,
                mean: [0.0, 0.0, f32::from_bits(0.1_f32.to_bits() + 1)],
                std: [1.0; 3],
            },
            ..base
        },
    ]
}

fn between(layers: &[HeadLayer]) -> Vec<HeadLayer> {
    [&[HeadLayer::Linear], layers, &[HeadLayer::Linear]].concat()
}

/// Returns layers of heads with two Linears.
fn layers() -> Vec<Vec<HeadLayer>> {
    vec![
        between(&[HeadLayer::Relu]),
        between(&[HeadLayer::Tanh]),
        between(&[HeadLayer::LeakyRelu(Some(0.1))]),
        between(&[HeadLayer::LeakyRelu(Some(0.2))]),
        between(&[HeadLayer::Relu, HeadLayer::L2Normalise]),
        [between(&[HeadLayer::Relu]), vec![HeadLayer::Tanh]].concat(),
    ]
}

/// Any spec that leaves nothing open, for 16 inputs and six rows.
fn any_spec() -> impl Strategy<Value = HeadSpec> {
    let inputs = vec![HeadInput::GlobalAverage, HeadInput::GlobalMax];
    let outputs = vec![
        Output::Softmax,
        Output::Sigmoid,
        Output::Linear,
        Output::Groups(1),
        Output::Groups(2),
    ];
    let all = (
        prop::sample::select(preprocessings()),
        prop::sample::select(inputs),
        prop::sample::select(layers()),
        prop::sample::select(outputs),
        prop::sample::select(vec![6, 4]),
        prop::option::of("[a-b]{0,1}"),
    );
    all.prop_map(|(preprocessing, input, layers, output, classes, label)| HeadSpec {
        preprocessing,
        input: Some(input),
        layers: Some(layers),
        output,
        labels: label.map(|label| (0..classes).map(|index| format!("{label}{index}")).collect()),
        classes: Some(classes),
    })
}

/// Returns a spec and another that differs in one key at most.
fn neighbours() -> impl Strategy<Value = (HeadSpec, HeadSpec)> {
    (any_spec(), any_spec(), 0..6).prop_map(|(one, other, key)| {
        let mut two = one.clone();
        match key {
            0 => two.preprocessing = other.preprocessing,
            1 => two.input = other.input,
            2 => two.layers = other.layers,
            3 => two.output = other.output,
            4 => (two.classes, two.labels) = (other.classes, None),
            _ => two.labels = other.labels.filter(|labels| Some(labels.len()) == one.classes),
        }
        (one, two)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Two heads with the same numbers have equal digests if and only if their canonical specs are equal.
    #[test]
    fn every_key_of_the_spec_is_part_of_the_digest((one, two) in neighbours()) {
        let file = File::default().linear("head.0", 8, CHANNELS).linear("head.2", 6, 8);
        let [first, second] = [&one, &two].map(|spec| {
            file.read(&HeadRequest { labels: Vec::new(), spec: Some(spec.clone()), ..HeadRequest::default() }).unwrap()
        });
        prop_assert_eq!(first.digest == second.digest, one.to_json() == two.to_json());
        prop_assert_eq!(first.spec.to_spec(&first.labels), one);
    }
}

// One output.

#[test]
fn one_output_without_a_meaning_is_refused() {
    for request in [no_request(), with_labels(&["yes"]), with_labels(&["no", "yes"])] {
        let error = File::last(1).read(&request).unwrap_err();
        assert!(matches!(error, HeadError::OneOutput), "{error}");
        let text = error.to_string();
        assert!(text.contains("one output") && text.contains("sigmoid"), "{text}");
    }
}

#[test]
fn one_output_with_a_meaning_is_accepted() {
    for (keys, labels) in [
        (r#""output": "sigmoid""#, &[][..]),
        (r#""output": "sigmoid", "labels": ["yes"]"#, &["yes"]),
        (r#""output": "sigmoid", "labels": ["no", "yes"]"#, &["no", "yes"]),
        (r#""output": "linear", "labels": ["age"]"#, &["age"]),
    ] {
        let head = File::last(1).read(&with_spec(keys)).unwrap();
        assert_eq!((&head.labels[..], head.classes()), (&owned(labels)[..], 1), "{keys}");
    }
    let labels = HeadRequest {
        labels: owned(&["no", "yes"]),
        ..with_spec(r#""output": "sigmoid""#)
    };
    assert_eq!(File::last(1).read(&labels).unwrap().labels[..], ["no", "yes"]);
}

// Labels.

fn check_labels(file: &File, request: &HeadRequest, expected: &[&str]) {
    assert_eq!(file.read(request).unwrap().labels[..], owned(expected));
}

#[test]
fn labels_of_the_request_come_before_the_specs_and_those_before_the_files() {
    let labelled = File::last(2).metadata("labels", r#"["x", "y"]"#);
    let in_spec = spec(r#""labels": ["s", "t"]"#);
    check_labels(&labelled, &no_request(), &["x", "y"]);
    check_labels(&labelled, &with_labels(&["r", "q"]), &["r", "q"]);
    check_labels(&labelled, &with_spec(""), &["x", "y"]);
    check_labels(&labelled, &with_spec(r#""labels": ["s", "t"]"#), &["s", "t"]);
    let filled = HeadRequest {
        labels: owned(&["r", "q"]),
        ..with_spec("")
    };
    check_labels(&labelled, &filled, &["r", "q"]);
    let same = HeadRequest {
        labels: owned(&["s", "t"]),
        spec: Some(in_spec.clone()),
        ..HeadRequest::default()
    };
    check_labels(&labelled, &same, &["s", "t"]);
    // Labels that came with the network from which it was trained do not matter then.
    for metadata in [r#"["a", "b", "c"]"#, "cat, dog"] {
        let unfit = File::last(2).metadata("labels", metadata);
        check_labels(&unfit, &with_labels(&["r", "q"]), &["r", "q"]);
        check_labels(&unfit, &with_spec(r#""labels": ["s", "t"]"#), &["s", "t"]);
        unfit.read(&no_request()).unwrap_err();
    }
    // The request may replace those of a spec that is only in the file.
    let stored = File::last(2).metadata(SPEC, &in_spec.to_json());
    check_labels(&stored, &no_request(), &["s", "t"]);
    check_labels(&stored, &with_labels(&["r", "q"]), &["r", "q"]);
}

fn check_refused(file: &File, request: &HeadRequest, parts: &[&str]) -> HeadError {
    let error = file.read(request).unwrap_err();
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    assert!(text.len() < 500 && !text.contains(char::is_control), "{text:?}");
    error
}

#[test]
fn labels_that_contradict_each_other_are_refused() {
    for labels in [&["a", "c"][..], &["a"], &["a", "b", "c"]] {
        let request = HeadRequest {
            labels: owned(labels),
            ..with_spec(r#""labels": ["a", "b"]"#)
        };
        let error = check_refused(
            &File::last(2),
            &request,
            &["the request and the spec have different ones"],
        );
        assert!(matches!(error, HeadError::Labels { .. }));
    }
}

#[test]
fn labels_that_do_not_fit_are_refused_with_the_numbers() {
    let three = with_spec(r#""labels": ["a", "b", "c"]"#);
    let error = check_refused(&File::last(2), &three, &["3 labels and 2 classes"]);
    assert!(matches!(error, HeadError::Labels { .. }));
    let few = with_spec(r#""output": {"groups": 2}, "labels": ["a"]"#);
    check_refused(&File::last(4), &few, &["1 labels and 4 classes"]);
    let of_request = with_labels(&["a", "b", "c"]);
    check_refused(&File::last(2), &of_request, &["3 labels and 2 classes"]);
    // Two labels stand for the answers of one sigmoid only.
    let two = with_spec(r#""output": "linear", "labels": ["a", "b"]"#);
    check_refused(&File::last(1), &two, &["2 labels and 1 classes"]);
}

#[test]
fn labels_may_be_empty_long_and_of_any_characters() {
    let labels = [String::new(), "\0\u{1b}[2J\r\n\t\"\\".to_owned(), "é".repeat(2048)];
    let request = HeadRequest {
        labels: labels.to_vec(),
        spec: None,
        ..HeadRequest::default()
    };
    assert_eq!(File::last(3).read(&request).unwrap().labels[..], labels);
    let in_spec = HeadRequest {
        spec: Some(HeadSpec {
            labels: Some(labels.to_vec()),
            ..spec("")
        }),
        ..no_request()
    };
    assert_eq!(File::last(3).read(&in_spec).unwrap().labels[..], labels);
    let too_long = HeadRequest {
        labels: vec!["a".into(), "é".repeat(2048) + "x"],
        spec: None,
        ..HeadRequest::default()
    };
    check_refused(
        &File::last(2),
        &too_long,
        &["label 1 has 4097 bytes; the limit is 4096"],
    );
}

// Classes.

#[test]
fn there_may_be_fewer_classes_than_rows() {
    let head = File::last(10)
        .read(&with_spec(r#""classes": 3, "labels": ["a", "b", "c"]"#))
        .unwrap();
    assert_eq!((head.classes(), head.labels.len()), (3, 3));
    assert_eq!(head.parameters[LAST_WEIGHT].shape, [10, FEATURES]);
    let all = File::last(10).read(&with_spec("")).unwrap();
    assert_ne!(head.digest, all.digest);
    let error = check_refused(&File::last(10), &with_spec(r#""classes": 11"#), &["11", "10 rows"]);
    assert!(matches!(error, HeadError::Spec { .. }));
}

/// The limit is on the rows, which take the memory.
#[test]
fn unused_rows_count_toward_the_limit() {
    let request = with_spec(r#""classes": 3"#);
    check_refused(&File::last(1001), &request, &["1001 outputs; 1 to 1000 are accepted"]);
}

// What is assumed.

fn check_assumed(file: &File, request: &HeadRequest, expected: &[&str]) {
    assert_eq!(file.read(request).unwrap().assumed[..], owned(expected));
}

const PREPROCESSING: &str = "preprocessing: the backbone's";
const SOFTMAX: &str = "output: softmax";

#[test]
fn what_neither_the_file_nor_a_spec_says_is_listed() {
    check_assumed(&File::last(2), &no_request(), &[PREPROCESSING, SOFTMAX]);
    check_assumed(&File::last(2), &with_labels(&["a", "b"]), &[PREPROCESSING, SOFTMAX]);
    assert_eq!(assumed_without_spec()[..], owned(&[PREPROCESSING, SOFTMAX]));
    check_assumed(&File::last(2), &with_spec(""), &[]);
    let stored = File::last(2).metadata(SPEC, &spec("").to_json());
    check_assumed(&stored, &no_request(), &[]);
    // What was assumed when the file was converted stays known: another spec does not change how it was folded.
    let slope = "leaky_relu: slope 0.01, PyTorch's default";
    let converted = stored.metadata("headswap.assumed", &format!("[{slope:?}]"));
    check_assumed(&converted, &no_request(), &[slope]);
    check_assumed(&converted, &with_spec(""), &[slope]);
}

/// The metadata of a file is anyone's: logs and terminals show these lines.
#[test]
fn assumed_lines_of_a_file_are_bounded() {
    let stored = File::last(2).metadata(SPEC, &spec("").to_json());
    let mut lines = vec!["a\nb".to_owned(), "\u{1b}[2J".to_owned(), "x".repeat(401)];
    lines.extend((0..100).map(|line| line.to_string()));
    let kept: Vec<String> = (0..64).map(|line| line.to_string()).collect();
    let lines = serde_json::to_string(&lines).unwrap();
    let head = stored.clone().metadata("headswap.assumed", &lines).read(&no_request());
    assert_eq!(head.unwrap().assumed[..], kept);
    for none in ["", "{}", "[1]", "null", "text"] {
        check_assumed(&stored.clone().metadata("headswap.assumed", none), &no_request(), &[]);
    }
}

#[test]
fn a_missing_slope_is_listed_and_part_of_the_spec() {
    let file = File::default().linear("head.0", 8, CHANNELS).linear("head.2", 2, 8);
    let request = with_spec(r#""input": "global_average", "layers": ["linear", "leaky_relu", "linear"]"#);
    let head = file.read(&request).unwrap();
    assert_eq!(head.assumed.len(), 1, "{:?}", head.assumed);
    assert!(head.assumed[0].contains("slope 0.01"), "{:?}", head.assumed);
    assert_eq!(head.spec.layers[1], HeadLayer::LeakyRelu(Some(0.01)));
}

// Specs that are required, stored, or not specs.

#[test]
fn a_server_may_require_a_spec() {
    let required = HeadLimits {
        require_spec: true,
        ..limits()
    };
    let read = |file: &File, request: &HeadRequest| HeadWeights::from_bytes(file.bytes().into(), request, &required);
    for request in [no_request(), with_labels(&["a", "b"])] {
        let error = read(&File::last(2), &request).unwrap_err();
        assert!(matches!(error, HeadError::SpecMissing), "{error}");
        assert!(error.to_string().contains("preprocessing"), "{error}");
    }
    read(&File::last(2), &with_spec("")).unwrap();
    read(&File::last(2).metadata(SPEC, &spec("").to_json()), &no_request()).unwrap();
}

#[test]
fn the_spec_in_a_files_metadata_counts_unless_one_is_given() {
    let keys = r#""preprocessing": {"preset": "half"}, "output": "sigmoid", "labels": ["s", "t"]"#;
    let file = File::last(2).metadata(SPEC, &spec(keys).to_json());
    let head = file.read(&no_request()).unwrap();
    assert!(head.has_spec);
    assert_eq!(
        (head.spec.output, &head.labels[..]),
        (Output::Sigmoid, &owned(&["s", "t"])[..])
    );
    assert_eq!(head.spec.preprocessing, Preset::Half.preprocessing());
    assert_eq!(head.digest, File::last(2).read(&with_spec(keys)).unwrap().digest);

    let given = file.read(&with_spec("")).unwrap();
    assert_eq!(given.spec.output, Output::Softmax);
    assert_eq!(given.spec.preprocessing, Preset::Torchvision.preprocessing());
}

#[test]
fn classes_of_the_files_spec_count_unless_the_request_has_some() {
    let stored = r#"{"preprocessing": {"preset": "unit"}, "output": "softmax", "classes": 2, "labels": ["a", "b"]}"#;
    let file = File::last(3).metadata(SPEC, stored);
    let classes = |request: &HeadRequest| file.read(request).unwrap().classes();
    assert_eq!(classes(&no_request()), 2);
    assert_eq!(classes(&with_spec("\"input\": \"features\"")), 2);
    assert_eq!(
        file.read(&with_spec("\"input\": \"features\"")).unwrap().labels[..],
        ["a", "b"]
    );
    assert_eq!(classes(&with_spec("\"classes\": 3")), 3);
}

#[test]
fn metadata_that_is_not_a_spec_is_refused() {
    for (json, part) in [
        ("{", "EOF"),
        ("{}", "preprocessing"),
        (r#"{"preprocessing": {"preset": "half"}}"#, "output"),
        (
            r#"{"preprocessing": {"preset": "half"}, "output": "softmax", "x\u0000": 1}"#,
            "unknown",
        ),
    ] {
        let file = File::last(2).metadata(SPEC, json);
        let error = check_refused(&file, &no_request(), &["the file's metadata", part]);
        assert!(matches!(error, HeadError::Spec { .. }), "{error}");
    }
}

// Normal form.

/// A batch norm before a ReLU is folded into its Linear; one before the first Linear of all, too.
#[test]
fn a_folded_head_and_its_normal_form_have_one_digest() {
    let variance: Vec<f32> = (0..8).map(|index| 0.5 + index as f32).collect();
    let file = File::default()
        .linear("head.0", 8, CHANNELS)
        .with("head.1.weight", &[8])
        .with("head.1.bias", &[8])
        .with("head.1.running_mean", &[8])
        .with_values("head.1.running_var", &[8], variance)
        .linear("head.3", 2, 8);
    let request = with_spec(
        r#""input": "global_average", "layers": ["linear", "batch_norm", "relu", "linear"], "labels": ["a", "b"]"#,
    );
    let head = file.read(&request).unwrap();
    assert_eq!(
        head.spec.layers,
        [HeadLayer::Linear, HeadLayer::Relu, HeadLayer::Linear]
    );
    assert_eq!(head.spec.input, HeadInput::GlobalAverage);

    let checkpoint = Checkpoint::from_bytes(file.bytes().into()).unwrap();
    let throttle = Throttle::off();
    let options = HeadOptions {
        architecture: Architecture::Vgg16Narrow,
        spec: request.spec.as_ref(),
        labels: &[],
        throttle: &throttle,
    };
    let normal = read_head(&checkpoint, &options).unwrap();
    let mut converted = Vec::new();
    write_head(&normal, request.spec.as_ref().unwrap(), &mut converted).unwrap();
    let read = HeadWeights::from_bytes(converted.into(), &no_request(), &limits()).unwrap();
    assert_eq!(read.digest, head.digest);
    assert_eq!((&read.spec, &read.labels), (&head.spec, &head.labels));
    assert_eq!(read.parameters, head.parameters);
    assert_eq!(read.assumed, head.assumed);
}

/// The numbers of the backbone are no part of a head, whichever file it comes in.
#[test]
fn a_whole_network_is_the_head_alone() {
    let mut whole = File::default();
    for (name, shape) in Architecture::Vgg16Narrow.parameters(2) {
        if ![LAST_WEIGHT, LAST_BIAS].contains(&name.as_str()) {
            whole = whole.with(&name, &shape);
        }
    }
    let backbone = whole.clone();
    whole.tensors.extend(File::last(2).tensors);
    let own = whole.read(&with_spec("")).unwrap();
    let mut digests = BTreeMap::new();
    for (name, ..) in &backbone.tensors {
        digests.insert(name.clone(), own.parameters[name].digest());
    }
    let known = KnownBackbone {
        parameters: digests,
        ..limits().backbones.first().clone()
    };
    let limits = HeadLimits {
        backbones: Backbones::new(known, []),
        ..limits()
    };
    let head = HeadWeights::from_bytes(whole.bytes().into(), &with_spec(""), &limits).unwrap();
    assert_eq!(head.digest, File::last(2).read(&with_spec("")).unwrap().digest);
    assert_eq!(head.parameters.keys().collect::<Vec<_>>(), [LAST_BIAS, LAST_WEIGHT]);
}
