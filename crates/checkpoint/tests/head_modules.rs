//! The modules of a whole pickled network say what a head computes, or it is refused by the module that is not read.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;
mod pickled;

use head_fixture::{CHANNELS, FEATURES, MAP, spec};
use headswap_checkpoint::Finding;
use headswap_spec::{HeadInput, HeadLayer, Output};
use pickled::Tensors::{self, Linear, None as Bare, Weight};
use pickled::{Attribute, Pickled};

/// VGG16's first two Linears, and what follows the second one's activation.
fn own(activation: &'static str, last: &[(&'static str, Tensors)]) -> Vec<(&'static str, Tensors)> {
    let mut modules = vec![
        ("Linear", Linear(FEATURES, MAP)),
        (activation, Bare),
        ("Dropout", Bare),
        ("Linear", Linear(FEATURES, FEATURES)),
        (activation, Bare),
        ("Dropout", Bare),
    ];
    modules.extend_from_slice(last);
    modules
}

#[test]
fn a_network_whose_modules_are_known_needs_no_layers() {
    let plain = Pickled::vgg16(&own("ReLU", &[("Linear", Linear(3, FEATURES))]));
    let head = plain.read(None).unwrap();
    assert_eq!(
        (head.input, &head.layers[..]),
        (HeadInput::Features, &[HeadLayer::Linear][..])
    );
    assert_eq!(head.report.assumed, [""; 0]);
    let stack = Pickled::vgg16(&[
        ("Linear", Linear(8, MAP)),
        ("Tanh", Bare),
        ("Linear", Linear(3, 8)),
        ("LogSoftmax", Bare),
    ]);
    let head = stack.read(None).unwrap();
    assert_eq!(head.input, HeadInput::Adaptive7x7);
    assert_eq!(head.layers, [HeadLayer::Linear, HeadLayer::Tanh, HeadLayer::Linear]);
    assert_eq!(head.output, Some(Output::Softmax));
    let inspection = stack.inspect().unwrap();
    assert_eq!(inspection.layers, Finding::Known(head.layers));
    assert_eq!(inspection.modules[0].activations, Some(vec![HeadLayer::Tanh]));
}

#[test]
fn an_unknown_module_at_the_end_is_refused() {
    for class in ["Softplus", "ReLU6", "Hardswish", "PReLU", "__main__.Temperature"] {
        let short = class.rsplit('.').next().unwrap();
        let last = [("Linear", Linear(3, FEATURES)), (class, Bare)];
        let network = Pickled::vgg16(&own("ReLU", &last));
        network.refused(
            None,
            &[
                &format!("classifier.7 ({short})"),
                "\"layers\" in its spec (--layers or --spec)",
            ],
        );
        let said = spec(r#""layers": ["linear", "silu"]"#);
        let head = network.read(Some(&said)).unwrap();
        assert_eq!(head.layers, [HeadLayer::Linear, HeadLayer::Silu]);
        assert_eq!(
            head.report.assumed,
            [format!(
                "classifier.7 ({short}): not read, its spec says what is computed"
            )]
        );
        let missing = &network.inspect().unwrap().missing;
        assert!(
            missing
                .iter()
                .any(|missing| missing.key == "layers" && missing.what.contains(short))
        );
    }
}

#[test]
fn an_unknown_module_between_linears_is_refused() {
    for class in ["ReLU6", "Hardswish", "__main__.Gate"] {
        let network = Pickled::vgg16(&[("Linear", Linear(8, MAP)), (class, Bare), ("Linear", Linear(3, 8))]);
        network.refused(
            None,
            &["classifier.1", class.rsplit('.').next().unwrap(), "give \"layers\""],
        );
        let said = spec(r#""layers": ["linear", "relu", "linear"]"#);
        assert_eq!(network.read(Some(&said)).unwrap().layers.len(), 3);
    }
    // Its own activation says nothing of what its class does with it.
    let mut gated = Pickled::vgg16(&[("Linear", Linear(8, MAP)), ("__main__.Gate", Bare)]);
    gated = gated
        .module("classifier.1.inner", "Sigmoid", &[])
        .with("classifier.2", "Linear", Linear(3, 8));
    gated.refused(None, &["classifier.1 (Gate)", "give \"layers\""]);
}

#[test]
fn linears_of_vgg16s_own_shapes_compute_features_only_with_relus() {
    let last = [("Linear", Linear(3, FEATURES))];
    let unknown = Pickled::vgg16(&own("ReLU6", &last));
    unknown.refused(
        None,
        &[
            "classifier.1 (ReLU6), classifier.4 (ReLU6)",
            "give \"input\" and \"layers\"",
            "--input and --layers, or --spec",
        ],
    );
    let said = spec(r#""input": "features", "layers": ["linear"]"#);
    let head = unknown.read(Some(&said)).unwrap();
    assert_eq!(head.input, HeadInput::Features);
    assert_eq!(
        head.report.assumed,
        ["classifier.1 (ReLU6), classifier.4 (ReLU6): not read, its spec says what is computed"]
    );
    let known = Pickled::vgg16(&own("Tanh", &last));
    let head = known.read(None).unwrap();
    let (linear, tanh) = (HeadLayer::Linear, HeadLayer::Tanh);
    assert_eq!(
        (head.input, &head.layers[..]),
        (HeadInput::Adaptive7x7, &[linear, tanh, linear, tanh, linear][..])
    );
    // Without the convolutions, too.
    let alone = Pickled::new("__main__.Head").sequential("classifier", &own("Tanh", &last));
    assert_eq!(alone.read(None).unwrap().layers, [linear, tanh, linear, tanh, linear]);
}

#[test]
fn a_linear_of_an_unknown_class_is_refused() {
    let cosine = [("__main__.CosineLinear", Weight(3, FEATURES))];
    Pickled::vgg16(&own("ReLU", &cosine)).refused(None, &["classifier.6 (CosineLinear)", "give \"layers\""]);
    let alone = Pickled::new("Sequential").with("0", "__main__.CosineLinear", Weight(3, FEATURES));
    alone.refused(None, &["0 (CosineLinear)"]);
    let said = spec(r#""layers": ["l2_normalise", "linear"], "input": "features""#);
    assert_eq!(alone.read(Some(&said)).unwrap().layers.len(), 2);
}

#[test]
fn an_unknown_module_before_the_first_linear_may_be_the_pooling() {
    let head = |class: &str| {
        Pickled::new("Sequential")
            .with("0", class, Bare)
            .with("1", "Linear", Linear(3, FEATURES))
    };
    let network = head("__main__.L2Norm");
    network.refused(None, &["0 (L2Norm)", "give \"input\" and \"layers\""]);
    let layers = r#""layers": ["l2_normalise", "linear"]"#;
    network.refused(Some(&spec(layers)), &["0 (L2Norm)", "give \"input\" in its spec"]);
    let said = spec(&format!("{layers}, \"input\": \"features\""));
    assert_eq!(network.read(Some(&said)).unwrap().input, HeadInput::Features);
    assert_eq!(head("Dropout").read(None).unwrap().input, HeadInput::Features);
    // Behind a known pooling it is a layer.
    let pooled = Pickled::new("Sequential")
        .convolutions("0")
        .module("1", "AdaptiveAvgPool2d", &[("output_size", Attribute::Int(1))])
        .with("2", "Flatten", Bare)
        .with("3", "__main__.L2Norm", Bare)
        .with("4", "Linear", Linear(3, CHANNELS));
    pooled.refused(None, &["3 (L2Norm)", "give \"layers\" in its spec"]);
    let head = pooled.read(Some(&spec(layers))).unwrap();
    assert_eq!((head.input, head.layers.len()), (HeadInput::GlobalAverage, 2));
}

#[test]
fn another_pooling_is_not_the_average_of_its_width() {
    let pooled = |class: &str, size: Attribute| {
        Pickled::new("torchvision.models.vgg.VGG")
            .convolutions("features")
            .module("avgpool", class, &[("output_size", size)])
            .sequential("classifier", &own("ReLU", &[("Linear", Linear(3, FEATURES))]))
    };
    let seven = || Attribute::Int(7);
    assert!(pooled("AdaptiveAvgPool2d", seven()).read(None).is_ok());
    let largest = pooled("AdaptiveMaxPool2d", seven());
    largest.refused(None, &["avgpool (AdaptiveMaxPool2d)", "give \"input\" and \"layers\""]);
    let said = spec(r#""input": "features", "layers": ["linear"]"#);
    assert!(largest.read(Some(&said)).is_ok());
    let twice = Pickled::new("Sequential")
        .convolutions("0")
        .with("1", "MaxPool2d", Bare)
        .with("2", "Flatten", Bare)
        .with("3", "Linear", Linear(3, CHANNELS * 9));
    twice.refused(
        Some(&spec(r#""layers": ["linear"]"#)),
        &["1 (MaxPool2d)", "give \"input\""],
    );
}

#[test]
fn a_usual_layout_is_not_assumed_beside_unknown_modules() {
    // fastai's names and widths, with another activation.
    let fastai = |activation: &str| {
        let mut network = Pickled::new("Sequential")
            .module("0", "Sequential", &[])
            .convolutions("0.0")
            .module("1", "Sequential", &[])
            .module("1.0", "fastai.layers.AdaptiveConcatPool2d", &[])
            .module("1.0.ap", "AdaptiveAvgPool2d", &[("output_size", Attribute::Int(1))])
            .module("1.0.mp", "AdaptiveMaxPool2d", &[("output_size", Attribute::Int(1))])
            .module("1.1", "fastai.layers.Flatten", &[])
            .module("1.2", "BatchNorm1d", &[("eps", Attribute::Float(1e-3))])
            .with("1.4", "Linear", Weight(8, 2 * CHANNELS))
            .module("1.5", activation, &[])
            .module("1.6", "BatchNorm1d", &[("eps", Attribute::Float(1e-3))])
            .with("1.8", "Linear", Weight(3, 8));
        network.tensors = network.tensors.batch_norm("1.2", 2 * CHANNELS).batch_norm("1.6", 8);
        network
    };
    let head = fastai("ReLU").read(None).unwrap();
    assert_eq!(head.input, HeadInput::GlobalMaxAverage);
    assert_eq!(head.report.assumed, [""; 0], "the modules say it");
    fastai("Mish").refused(None, &["1.5 (Mish)", "give \"layers\""]);
}

#[test]
fn an_activation_of_no_known_place_is_refused() {
    let network = |class: &str| {
        Pickled::new("__main__.Net")
            .convolutions("features")
            .module("pool", "AdaptiveAvgPool2d", &[("output_size", Attribute::Int(7))])
            .with("fc", "Linear", Linear(3, MAP))
            .with("last", class, Bare)
    };
    network("Tanh").refused(None, &["last (Tanh)", "give \"layers\""]);
    network("__main__.Scale").refused(None, &["last (Scale)"]);
    network("Sigmoid").refused(None, &["last (Sigmoid)"]);
    // It is what the spec says of the output.
    let sigmoid = spec(r#""output": "sigmoid""#);
    assert_eq!(network("Sigmoid").read(Some(&sigmoid)).unwrap().layers.len(), 1);
    for beside in ["ReLU", "Dropout", "CrossEntropyLoss", "torchmetrics.MulticlassAccuracy"] {
        assert!(network(beside).read(None).is_ok(), "{beside}");
    }
}

#[test]
fn a_network_under_two_names_counts_once() {
    let network = Pickled::new("__main__.Net")
        .convolutions("features")
        .module("vgg", "__main__.Wrapper", &[])
        .module("vgg.features", "Sequential", &[])
        .module("vgg.features.0", "Conv2d", &[("padding", Attribute::Int(1))])
        .module("vgg.features.1", "Tanh", &[])
        .module("vgg.features.2", "MaxPool2d", &[])
        .module("vgg.features.3", "MaxPool2d", &[])
        .module("pool", "AdaptiveAvgPool2d", &[("output_size", Attribute::Int(7))])
        .with("fc", "Linear", Linear(3, MAP));
    let head = network.read(None).unwrap();
    assert_eq!(head.report.assumed, [""; 0]);
}

#[test]
fn a_backbone_of_other_modules_is_refused() {
    let mut network = Pickled::vgg16(&own("ReLU", &[("Linear", Linear(3, FEATURES))]));
    network.set_class("features.1", "Tanh");
    network.refused(None, &["features.1 is of class Tanh where VGG16 has a ReLU"]);
}

#[test]
fn vectors_of_a_layer_norm_are_refused_whatever_the_spec_says() {
    let mut network = Pickled::vgg16(&[
        ("Linear", Linear(8, MAP)),
        ("LayerNorm", Bare),
        ("Linear", Linear(3, 8)),
    ]);
    network.tensors = network
        .tensors
        .with("classifier.1.weight", &[8])
        .with("classifier.1.bias", &[8]);
    let said = spec(r#""layers": ["linear", "affine", "linear"]"#);
    for spec in [None, Some(&said)] {
        network.refused(spec, &["classifier.1 is a LayerNorm, which heads do not have"]);
    }
}

#[test]
fn numbers_that_are_not_finite_are_not_read() {
    let stack = |class: &str, name: &'static str, number: f64| {
        Pickled::vgg16(&[("Linear", Linear(8, MAP))])
            .module("classifier.1", class, &[(name, Attribute::Float(number))])
            .with("classifier.2", "Linear", Linear(3, 8))
    };
    for number in [f64::NAN, f64::INFINITY, 1e39, -1e39] {
        stack("LeakyReLU", "negative_slope", number).refused(None, &["classifier.1 (LeakyReLU, negative_slope"]);
        stack("ELU", "alpha", number).refused(None, &["classifier.1 (ELU, alpha"]);
    }
    for eps in [f64::NAN, f64::INFINITY, -1e-5] {
        let mut network = stack("BatchNorm1d", "eps", eps);
        network.tensors = network.tensors.batch_norm("classifier.1", 8);
        network.refused(None, &["classifier.1 (BatchNorm1d, eps"]);
    }
    let zero = stack("LeakyReLU", "negative_slope", -0.0).read(None).unwrap();
    let HeadLayer::LeakyRelu(Some(slope)) = zero.layers[1] else {
        panic!("{:?}", zero.layers);
    };
    assert!(slope.is_sign_positive());
}

#[test]
fn a_head_has_a_limit_of_layers() {
    let stack = |activations: usize| {
        let mut modules = vec![("Linear", Linear(8, MAP))];
        modules.extend(vec![("Tanh", Bare); activations]);
        modules.push(("Linear", Linear(3, 8)));
        Pickled::vgg16(&modules)
    };
    assert_eq!(stack(254).read(None).unwrap().layers.len(), 256);
    stack(255).refused(None, &["the head has 257 layers; the limit is 256"]);
}
