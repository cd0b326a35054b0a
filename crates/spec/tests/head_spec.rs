//! The JSON form of head specs, which is a contract.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use headswap_spec::{
    ChannelOrder, Framework, GeluKind, HeadInput, HeadLayer, HeadSpec, LABEL_BYTES_MAX, LABELS_MAX, Output,
    Preprocessing, Resize, ResizeFilter, ValueRange,
};
use proptest::prelude::*;

const TORCHVISION: &str = r#"{"preset": "torchvision"}"#;

fn spec(json: &str) -> HeadSpec {
    HeadSpec::from_json(json).unwrap()
}

fn preprocessing(json: &str) -> Preprocessing {
    spec(&format!(r#"{{"preprocessing": {json}, "output": "softmax"}}"#)).preprocessing
}

/// The error of a spec with this preprocessing, without what is the same for all.
fn refused_preprocessing(json: &str) -> String {
    let json = format!(r#"{{"preprocessing": {json}, "output": "softmax"}}"#);
    HeadSpec::from_json(&json).unwrap_err().to_string()
}

/// The error of a spec with these keys beside its preprocessing.
fn refused(keys: &str) -> String {
    let json = format!(r#"{{"preprocessing": {TORCHVISION}, {keys}}}"#);
    HeadSpec::from_json(&json).unwrap_err().to_string()
}

#[test]
fn all_keys_are_read() {
    let read = spec(
        r#"{"preprocessing": {"resize": {"short_side": 256}, "filter": "bilinear", "crop": [224, 224], "channels": "rgb",
            "scale": 0.00392156862745098, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            "input": "flatten", "layers": ["linear", "relu", "linear"],
            "output": "softmax", "labels": ["cat", "dog"], "classes": 2}"#,
    );
    assert_eq!(read.preprocessing, preprocessing(TORCHVISION));
    assert_eq!(read.input, Some(HeadInput::Flatten));
    assert_eq!(
        read.layers,
        Some(vec![HeadLayer::Linear, HeadLayer::Relu, HeadLayer::Linear])
    );
    assert_eq!(read.output, Output::Softmax);
    assert_eq!(read.labels, Some(vec!["cat".to_owned(), "dog".to_owned()]));
    assert_eq!(read.classes, Some(2));
}

#[test]
fn what_the_file_says_may_be_left_out() {
    let read = spec(r#"{"preprocessing": {"preset": "unit"}, "output": {"groups": 3}}"#);
    assert_eq!(read.output, Output::Groups(3));
    assert_eq!(
        (read.input, read.layers, read.labels, read.classes),
        (None, None, None, None)
    );
}

#[test]
fn presets_are_their_numbers() {
    let imagenet = r#""mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]"#;
    let caffe = r#""channels": "bgr", "scale": 1, "mean": [103.939, 116.779, 123.68]"#;
    let unit = r#""scale": 0.00392156862745098"#;
    let stretch = r#""resize": {"stretch": [224, 224]}"#;
    let tensorflow = r#""filter": "bilinear_no_antialias""#;
    for (preset, numbers) in [
        (
            "torchvision",
            format!(r#""resize": {{"short_side": 256}}, "crop": [224, 224], {unit}, {imagenet}"#),
        ),
        ("torchvision-stretch", format!("{stretch}, {unit}, {imagenet}")),
        ("unit", format!("{stretch}, {unit}")),
        (
            "half",
            format!(r#"{stretch}, {unit}, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]"#),
        ),
        ("keras-unit", format!(r#"{stretch}, "filter": "nearest", {unit}"#)),
        ("keras-caffe", format!(r#"{stretch}, "filter": "nearest", {caffe}"#)),
        ("keras-raw", format!(r#"{stretch}, "filter": "nearest", "scale": 1"#)),
        ("tensorflow-unit", format!("{stretch}, {tensorflow}, {unit}")),
        ("tensorflow-caffe", format!("{stretch}, {tensorflow}, {caffe}")),
        ("tensorflow-raw", format!(r#"{stretch}, {tensorflow}, "scale": 1"#)),
    ] {
        let preset = format!(r#"{{"preset": "{preset}"}}"#);
        assert_eq!(
            preprocessing(&preset),
            preprocessing(&format!("{{{numbers}}}")),
            "{preset}"
        );
    }
}

#[test]
fn preprocessing_has_no_size_but_a_fixed_one() {
    let sizes = [
        (
            r#"{"resize": {"short_side": 256}, "crop": [224, 200], "scale": 1}"#,
            [224, 200],
        ),
        (r#"{"resize": {"stretch": [150, 320]}, "scale": 1}"#, [150, 320]),
        (r#"{"resize": null, "crop": [512, 32], "standardise": true}"#, [512, 32]),
    ];
    for (json, size) in sizes {
        assert_eq!(preprocessing(json).size().unwrap(), size);
    }
    for json in [
        r#"{"resize": {"short_side": 256}, "scale": 1}"#,
        r#"{"resize": null, "scale": 1}"#,
    ] {
        let error = refused_preprocessing(json);
        assert!(
            error.starts_with("preprocessing: the size of the prepared picture depends"),
            "{error}"
        );
    }
}

#[test]
fn what_is_wrong_with_preprocessing_is_named() {
    for (json, error) in [
        (r#"{"scale": 1}"#, "preprocessing.resize: it is missing"),
        (
            r#"{"resize": {"stretch": [224, 224]}}"#,
            "preprocessing.scale: it is missing",
        ),
        (
            r#"{"preset": "unit", "scale": 1}"#,
            "preprocessing.preset: it stands for all other keys",
        ),
        (
            r#"{"preset": "unit", "crop": null}"#,
            "preprocessing.preset: it stands for all other keys",
        ),
        (
            r#"{"preset": "imagenet"}"#,
            "spec: unknown variant `imagenet`, expected one of `torchvision`",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1, "size": 3}"#,
            "spec: unknown field `size`",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1, "scale": 1}"#,
            "spec: duplicate field `scale`",
        ),
        (
            r#"{"resize": null, "crop": [31, 224], "scale": 1}"#,
            "preprocessing.crop: 31x224 is not within 32 to 512",
        ),
        (
            r#"{"resize": {"stretch": [513, 224]}, "scale": 1}"#,
            "preprocessing.resize.stretch: 513x224",
        ),
        (
            r#"{"resize": {"short_side": 0}, "crop": [224, 224], "scale": 1}"#,
            "preprocessing.resize: a side is not",
        ),
        (
            r#"{"resize": {"short_side": 9999}, "crop": [224, 224], "scale": 1}"#,
            "preprocessing.resize: a side is not",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 0}"#,
            "preprocessing.scale: 0 is zero",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1e39}"#,
            "preprocessing.scale: inf is zero or not finite",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1, "std": [1, 1, 0]}"#,
            "preprocessing.std: 0 is not",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1, "std": [1, -1, 1]}"#,
            "preprocessing.std: -1 is not",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1, "mean": [1, 1]}"#,
            "spec: invalid length 2",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1, "standardise": true}"#,
            "preprocessing.standardise: it takes",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "standardise": false}"#,
            "preprocessing.scale: it is missing",
        ),
    ] {
        let found = refused_preprocessing(json);
        assert!(found.starts_with(error), "{found:?} does not start with {error:?}");
    }
}

#[test]
fn layers_are_read_with_their_numbers() {
    let json = r#"{"preprocessing": {"preset": "unit"}, "output": "sigmoid", "layers": ["batch_norm", {"batch_norm": 0.001},
        {"leaky_relu": 0.2}, "leaky_relu", {"elu": 1.5}, {"gelu": "tanh"}, "gelu", "silu", "tanh", "sigmoid", "l2_normalise",
        "linear"]}"#;
    let resolved = |framework: Framework| {
        let layers = spec(json).layers.unwrap().into_iter();
        layers.map(|layer| layer.resolved(framework)).collect::<Vec<_>>()
    };
    let assumed = |layers: &[(HeadLayer, bool)]| {
        let defaults = layers.iter().filter(|(_, is_default)| *is_default);
        defaults.map(|(layer, _)| *layer).collect::<Vec<_>>()
    };
    let keras = resolved(Framework::Keras);
    assert_eq!(
        assumed(&keras),
        [
            HeadLayer::BatchNorm(Some(1e-3)),
            HeadLayer::LeakyRelu(Some(0.3)),
            HeadLayer::Gelu(Some(GeluKind::Exact))
        ]
    );
    let layers: Vec<HeadLayer> = keras.into_iter().map(|(layer, _)| layer).collect();
    assert_eq!(layers[1], HeadLayer::BatchNorm(Some(0.001)));
    assert_eq!(layers[2], HeadLayer::LeakyRelu(Some(0.2)));
    assert_eq!(layers[5], HeadLayer::Gelu(Some(GeluKind::Tanh)));
    let torch = resolved(Framework::PyTorch);
    assert_eq!(assumed(&torch)[0], HeadLayer::BatchNorm(Some(1e-5)));
    let again = torch.iter().map(|(layer, _)| layer.resolved(Framework::Keras));
    assert!(
        assumed(&again.collect::<Vec<_>>()).is_empty(),
        "nothing is left to assume"
    );
}

#[test]
fn what_is_wrong_beside_preprocessing_is_named() {
    let long = "x".repeat(LABEL_BYTES_MAX + 1);
    let long = format!(r#""output": "linear", "labels": ["{long}"]"#);
    for (keys, error) in [
        (r#""classes": 2"#, "output: it is missing; give softmax"),
        (r#""output": "probabilities""#, "spec: unknown variant `probabilities`"),
        (
            r#""output": {"groups": 0}"#,
            "output.groups: there must be one at least",
        ),
        (
            r#""output": {"groups": 3}, "classes": 8"#,
            "output.groups: 8 classes are not 3 groups",
        ),
        (
            r#""output": "softmax", "classes": 0"#,
            "classes: there must be one at least",
        ),
        (r#""output": "softmax", "classes": -1"#, "spec: invalid value"),
        (
            r#""output": "softmax", "input": "gap""#,
            "spec: unknown variant `gap`, expected one of `flatten`",
        ),
        (r#""output": "softmax", "heads": 1"#, "spec: unknown field `heads`"),
        (
            r#""output": "softmax", "layers": ["relu"]"#,
            "layers: there is no linear",
        ),
        (
            r#""output": "softmax", "layers": ["linear", "swish"]"#,
            "layers[1]: there is no layer \"swish\"; the layers are",
        ),
        (
            r#""output": "softmax", "layers": [{"relu": 6}]"#,
            "layers[0]: relu takes no number",
        ),
        (
            r#""output": "softmax", "layers": [{"gelu": 1}]"#,
            "layers[0]: gelu takes \"exact\" or \"tanh\"",
        ),
        (
            r#""output": "softmax", "layers": ["linear", {"gelu": "approximate"}]"#,
            "layers[1]: gelu takes \"exact\" or \"tanh\"",
        ),
        (
            r#""output": "softmax", "layers": [{"elu": 1, "relu": 1}]"#,
            "layers[0]: a layer has one name",
        ),
        (
            r#""output": "softmax", "layers": [{"batch_norm": -1}]"#,
            "layers[0]: the eps of a batch norm is not negative",
        ),
        (
            r#""output": "softmax", "layers": [{"leaky_relu": 1e39}]"#,
            "layers[0]: leaky_relu takes a number that is finite",
        ),
        (
            r#""output": "softmax", "classes": 3, "labels": ["a", "b"]"#,
            "labels: there are 2 labels, and 3 classes",
        ),
        (
            r#""output": "sigmoid", "classes": 2, "labels": ["a", "b", "c"]"#,
            "labels: there are 3 labels, and 2 classes",
        ),
        (&long, "labels[0]: it is longer than 4096 bytes"),
    ] {
        let found = refused(keys);
        assert!(found.starts_with(error), "{found:?} does not start with {error:?}");
    }
    for json in ["", "[]", "{", "null", r#"{"preprocessing": null, "output": "softmax"}"#] {
        assert!(HeadSpec::from_json(json).is_err(), "{json}");
    }
}

#[test]
fn labels_may_be_any_text_and_as_many_as_the_output_allows() {
    for keys in [
        r#""output": "sigmoid", "classes": 1, "labels": ["no", "yes"]"#,
        r#""output": "sigmoid", "classes": 1, "labels": ["yes"]"#,
        r#""output": {"groups": 2}, "classes": 6, "labels": ["a", "b", "c"]"#,
        r#""output": {"groups": 2}, "classes": 6, "labels": ["a", "b", "c", "d", "e", "f"]"#,
        r#""output": "softmax", "classes": 3, "labels": ["", "\u0000\n", "日本"]"#,
        r#""output": "log_softmax", "labels": []"#,
    ] {
        spec(&format!(r#"{{"preprocessing": {TORCHVISION}, {keys}}}"#));
    }
}

#[test]
fn values_of_another_type_are_refused_with_what_to_give() {
    for (preprocessing, said) in [
        (
            r#"{"resize": 224, "scale": 1}"#,
            r#"integer `224`, expected {"short_side": 256}, {"stretch": [224, 224]}, or null for none, as `resize`"#,
        ),
        (
            r#"{"resize": [224, 224], "scale": 1}"#,
            "sequence, expected {\"short_side\": 256}",
        ),
        (
            r#"{"resize": {"short_side": 256, "stretch": [224, 224]}, "crop": [224, 224], "scale": 1}"#,
            "preprocessing.resize: give either {\"short_side\": 256} or {\"stretch\": [224, 224]}",
        ),
        (
            r#"{"resize": {}, "crop": [224, 224], "scale": 1}"#,
            "preprocessing.resize: give either",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1, "mean": [1, 1]}"#,
            "invalid length 2, expected three numbers as `mean`, one for each channel",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1, "std": [1, 1, 1, 1]}"#,
            "invalid length 4, expected three positive numbers as `std`",
        ),
        (
            r#"{"resize": null, "crop": [224, 224], "scale": 1, "mean": 1}"#,
            "expected three numbers as `mean`",
        ),
        (
            r#"[{"stretch": [224, 224]}, "bilinear", null, "rgb", 1]"#,
            "expected a JSON object as `preprocessing`",
        ),
    ] {
        let found = refused_preprocessing(preprocessing);
        assert!(found.contains(said), "{found:?} lacks {said:?}");
    }
    for (keys, said) in [
        (
            r#""output": "softmax", "layers": ["linear", 3]"#,
            "a layer is its name, such as \"relu\"",
        ),
        (
            r#""output": "softmax", "layers": ["linear", {"elu": null}]"#,
            "a layer is its name, such as \"relu\", or an object of its name and its number",
        ),
    ] {
        let found = refused(keys);
        assert!(found.contains(said), "{found:?} lacks {said:?}");
    }
    let list = format!(r#"[{TORCHVISION}, null, null, "softmax", null, null]"#);
    let error = HeadSpec::from_json(&list).unwrap_err().to_string();
    assert!(
        error.contains("sequence, expected a JSON object of the keys of a spec"),
        "{error}"
    );
    let error = Preprocessing::from_json("[null]").unwrap_err().to_string();
    assert!(error.contains("expected a JSON object"), "{error}");
}

#[test]
fn normalised_values_have_a_limit() {
    for (numbers, key) in [
        (r#""scale": 3e38"#, "scale"),
        (r#""scale": -4e6"#, "scale"),
        (r#""scale": 1, "mean": [0, -3e38, 0]"#, "mean"),
        (r#""scale": 1, "std": [1, 1, 1e-30]"#, "std"),
    ] {
        let found = refused_preprocessing(&format!(r#"{{"resize": null, "crop": [224, 224], {numbers}}}"#));
        let said = format!("preprocessing.{key}: a channel's (255 * |scale| + |mean|) / std is not below 1e9");
        assert!(found.starts_with(&said), "{found:?} does not start with {said:?}");
    }
    preprocessing(r#"{"resize": null, "crop": [224, 224], "scale": 3e6, "std": [1, 1, 0.9]}"#);
}

#[test]
fn what_is_quoted_stays_one_short_line() {
    let long = "\\n".repeat(100_000);
    for keys in [
        format!(r#""output": "softmax", "{long}": 1"#),
        format!(r#""output": "{long}""#),
        format!(r#""output": "linear", "layers": ["{long}"]"#),
    ] {
        let error = refused(&keys);
        assert!(error.len() < 2000 && !error.contains(char::is_control), "{error}");
    }
}

#[test]
fn lists_are_bounded() {
    let labels = vec![r#""""#; LABELS_MAX + 1].join(",");
    let error = refused(&format!(r#""output": "linear", "labels": [{labels}]"#));
    assert!(error.contains("a list has more than 131072 entries"), "{error}");
    let layers = vec![r#""relu""#; 257].join(",");
    let error = refused(&format!(r#""output": "linear", "layers": [{layers}]"#));
    assert!(error.contains("a list has more than 256 entries"), "{error}");
    let null = spec(&format!(
        r#"{{"preprocessing": {TORCHVISION}, "output": "linear", "labels": null, "layers": null}}"#
    ));
    assert_eq!((null.labels, null.layers), (None, None));
}

fn numbers() -> impl Strategy<Value = f32> {
    prop_oneof![-1e6f32..1e6, -1e-6f32..1e-6, Just(0.1f32), Just(1.0 / 255.0)]
}

fn sides() -> impl Strategy<Value = [u32; 2]> {
    [32u32..=512, 32u32..=512]
}

prop_compose! {
    fn any_preprocessing()(
        resize in prop_oneof![
            Just(None), (1u32..=4096).prop_map(|side| Some(Resize::ShortSide(side))),
            sides().prop_map(|sides| Some(Resize::Stretch(sides))),
        ],
        filter in prop::sample::select(vec![
            ResizeFilter::Nearest, ResizeFilter::Bilinear, ResizeFilter::Bicubic, ResizeFilter::Lanczos,
            ResizeFilter::BilinearNoAntialias, ResizeFilter::BilinearNoAntialiasRounded,
        ]),
        crop in sides(),
        channels in prop::sample::select(vec![ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Grey]),
        scale in 1e-6f32..1e6,
        mean in [numbers(), numbers(), numbers()],
        std in [1e-6f32..1e6, 1e-6f32..1e6, 1e-6f32..1e6],
        standardised in any::<bool>(),
    ) -> Preprocessing {
        let normalisation = if standardised {
            ValueRange::Standardised
        } else {
            ValueRange::Scaled { scale, mean: mean.map(|number| number + 0.0), std }
        };
        Preprocessing { resize, filter, crop: Some(crop), channels, normalisation }
    }
}

/// Returns true unless the normalised values are refused as too large.
fn is_in_range(preprocessing: &Preprocessing) -> bool {
    let ValueRange::Scaled { scale, mean, std } = preprocessing.normalisation else {
        return true;
    };
    let largest = |(mean, std): (f32, f32)| (255.0 * f64::from(scale) + f64::from(mean.abs())) / f64::from(std);
    mean.into_iter().zip(std).map(largest).all(|largest| largest < 1e9)
}

fn any_layer() -> impl Strategy<Value = HeadLayer> {
    let number = || prop::option::of(numbers().prop_map(|number| number + 0.0));
    prop_oneof![
        Just(HeadLayer::Linear),
        Just(HeadLayer::Relu),
        Just(HeadLayer::Silu),
        Just(HeadLayer::Tanh),
        Just(HeadLayer::Sigmoid),
        Just(HeadLayer::Affine),
        Just(HeadLayer::L2Normalise),
        prop::option::of(0f32..1.0).prop_map(HeadLayer::BatchNorm),
        number().prop_map(HeadLayer::LeakyRelu),
        number().prop_map(HeadLayer::Elu),
        prop::option::of(prop::sample::select(vec![GeluKind::Exact, GeluKind::Tanh])).prop_map(HeadLayer::Gelu),
    ]
}

prop_compose! {
    fn any_spec()(
        preprocessing in any_preprocessing().prop_filter("values below the limit", is_in_range),
        input in prop::option::of(prop::sample::select(vec![
            HeadInput::Flatten, HeadInput::FlattenHwc, HeadInput::Adaptive7x7, HeadInput::GlobalAverage, HeadInput::GlobalMax,
            HeadInput::GlobalMaxAverage, HeadInput::Features,
        ])),
        mut layers in prop::collection::vec(any_layer(), 0..6),
        has_layers in any::<bool>(),
        output in prop_oneof![
            Just(Output::Softmax), Just(Output::Sigmoid), Just(Output::Linear), (1usize..9).prop_map(Output::Groups),
        ],
        labels in prop::option::of(prop::collection::vec(any::<String>(), 0..4)),
    ) -> HeadSpec {
        layers.push(HeadLayer::Linear);
        HeadSpec { preprocessing, input, layers: has_layers.then_some(layers), output, labels, classes: None }
    }
}

proptest! {
    #[test]
    fn a_spec_survives_its_json(spec in any_spec()) {
        let json = spec.to_json();
        let read = HeadSpec::from_json(&json).unwrap();
        prop_assert_eq!(&read, &spec);
        prop_assert_eq!(read.to_json(), json);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = HeadSpec::from_json(&text);
    }

    #[test]
    fn a_cut_spec_is_refused(spec in any_spec(), cut in any::<prop::sample::Index>()) {
        let json = spec.to_json();
        let cut = json.floor_char_boundary(cut.index(json.len()));
        prop_assert!(HeadSpec::from_json(&json[..cut]).is_err());
    }
}
