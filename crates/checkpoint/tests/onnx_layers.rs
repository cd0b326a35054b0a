//! The layers of an ONNX graph's head are read in each form in which exporters write them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;
mod onnx_fixture;

use head_fixture::{CHANNELS, File, MAP};
use headswap_checkpoint::ModuleKind;
use headswap_spec::{GeluKind, HeadLayer};
use onnx_fixture::{Onnx, Value, field, flat, floats, same, tensor_head, turned};

/// VGG16's convolutions, Relus and poolings.
const BACKBONE: usize = 31;

#[test]
fn activations_in_all_their_forms_are_layers() {
    let file = File::convolutions().linear("fc1", 6, CHANNELS).linear("fc2", 3, 6);
    let pooled = Onnx::vgg16(&file)
        .node(
            "ReduceMean",
            &["map"],
            "v",
            &[("axes", Value::Ints(vec![2, 3])), ("keepdims", Value::Int(0))],
        )
        .gemm(&file, "fc1", "v", "a")
        .tensor("zero", &[], &[0.0])
        .tensor("half", &[], &[0.5])
        .tensor("one", &[1], &[1.0])
        .tensor("root", &[], &[std::f32::consts::SQRT_2]);
    let simple = |operator: &str, attributes: &[(&str, Value)]| pooled.clone().node(operator, &["a"], "b", attributes);
    let gelu = pooled
        .clone()
        .node("Div", &["a", "root"], "g1", &[])
        .node("Erf", &["g1"], "g2", &[])
        .node("Add", &["g2", "one"], "g3", &[])
        .node("Mul", &["a", "g3"], "g4", &[])
        .node("Mul", &["half", "g4"], "b", &[]);
    let silu = pooled
        .clone()
        .node("Sigmoid", &["a"], "g1", &[])
        .node("Mul", &["g1", "a"], "b", &[]);
    let tanh = pooled.clone().node("Tanh", &["a"], "t", &[]);
    let two = tanh.clone().node("Sigmoid", &["t"], "b", &[]);
    let gated = tanh
        .node("Sigmoid", &["t"], "s", &[])
        .node("Mul", &["t", "s"], "b", &[]);
    let clipped = pooled.clone().node("Clip", &["a", "zero"], "b", &[]);
    for (onnx, layers) in [
        (simple("Relu", &[]), vec![HeadLayer::Relu]),
        (clipped, vec![HeadLayer::Relu]),
        (
            simple("LeakyRelu", &[("alpha", Value::Float(0.25))]),
            vec![HeadLayer::LeakyRelu(Some(0.25))],
        ),
        (simple("LeakyRelu", &[]), vec![HeadLayer::LeakyRelu(Some(0.01))]),
        (simple("Elu", &[]), vec![HeadLayer::Elu(Some(1.0))]),
        (
            simple("Gelu", &[("approximate", Value::Text("tanh"))]),
            vec![HeadLayer::Gelu(Some(GeluKind::Tanh))],
        ),
        (simple("Tanh", &[]), vec![HeadLayer::Tanh]),
        (gelu, vec![HeadLayer::Gelu(Some(GeluKind::Exact))]),
        (silu, vec![HeadLayer::Silu]),
        (two, vec![HeadLayer::Tanh, HeadLayer::Sigmoid]),
        (gated, vec![HeadLayer::Tanh, HeadLayer::Silu]),
    ] {
        let read = onnx.gemm(&file, "fc2", "b", "y").read("y", None).unwrap();
        let expected = [vec![HeadLayer::Linear], layers, vec![HeadLayer::Linear]].concat();
        assert_eq!(read.layers, expected);
    }
}

#[test]
fn batch_norms_are_folded_where_they_stand() {
    let file = File::convolutions()
        .linear("0", 6, MAP)
        .batch_norm("1", 6)
        .linear("2", 3, 6);
    let head = |onnx: Onnx| {
        let norm = ["1.weight", "1.bias", "1.running_mean", "1.running_var"];
        let onnx = norm.iter().fold(onnx, |onnx, name| onnx.copied(&file, name));
        let inputs = [&["b"][..], &norm].concat();
        onnx.node("BatchNormalization", &inputs, "c", &[("epsilon", Value::Float(0.001))])
            .gemm(&file, "2", "c", "y")
    };
    let onnx = head(Onnx::vgg16(&file).flatten("map", "v").gemm(&file, "0", "v", "b"));
    same(
        &onnx,
        "y",
        &file,
        "\"layers\": [\"linear\", {\"batch_norm\": 0.001}, \"linear\"]",
    );
    // After a ReLU, as Keras has them: a product and a sum.
    let file = File::convolutions()
        .linear("0", 6, MAP)
        .with("1.weight", &[6])
        .with("1.bias", &[6])
        .linear("2", 3, 6);
    let onnx = Onnx::vgg16(&file)
        .flatten("map", "v")
        .gemm(&file, "0", "v", "a")
        .node("Relu", &["a"], "b", &[])
        .parameters(&file, "1")
        .node("Mul", &["1.weight", "b"], "b1", &[])
        .node("Add", &["b1", "1.bias"], "c", &[])
        .gemm(&file, "2", "c", "y");
    same(
        &onnx,
        "y",
        &file,
        "\"layers\": [\"linear\", \"relu\", \"affine\", \"linear\"]",
    );
}

#[test]
fn a_batch_norm_of_the_map_is_one_of_the_vector() {
    let file = File::convolutions()
        .with("n.weight", &[CHANNELS])
        .with("n.bias", &[CHANNELS])
        .linear("fc", 3, CHANNELS);
    let norm = Onnx::vgg16(&file)
        .tensor("scale", &[1, CHANNELS, 1, 1], &file.values("n.weight"))
        .tensor("shift", &[CHANNELS, 1, 1], &file.values("n.bias"))
        .node("Mul", &["map", "scale"], "m1", &[])
        .node("Add", &["m1", "shift"], "m", &[]);
    let onnx = norm
        .clone()
        .node("GlobalAveragePool", &["m"], "p", &[])
        .flatten("p", "v")
        .gemm(&file, "fc", "v", "y");
    same(
        &onnx,
        "y",
        &file,
        "\"input\": \"global_average\", \"layers\": [\"affine\", \"linear\"]",
    );
    // Flattened, each of a channel's 49 places has its number.
    let repeated = |name: &str| file.values(name).iter().flat_map(|value| [*value; 49]).collect();
    let flat = File::convolutions()
        .with_values("n.weight", &[MAP], repeated("n.weight"))
        .with_values("n.bias", &[MAP], repeated("n.bias"))
        .linear("fc", 3, MAP);
    let onnx = norm.clone().flatten("m", "v").gemm(&flat, "fc", "v", "y");
    same(&onnx, "y", &flat, "\"layers\": [\"affine\", \"linear\"]");
    norm.node("GlobalMaxPool", &["m"], "p", &[])
        .flatten("p", "v")
        .refused("v", &["GlobalMaxPool `n33`", "normalised"]);
}

#[test]
fn a_product_and_a_sum_before_the_relu_are_the_convolutions() {
    let file = flat(3);
    let (scale, shift) = (
        File::new().with("s", &[2]).values("s"),
        File::new().with("s", &[2]).values("s"),
    );
    let first = |onnx: Onnx, from: &str| {
        onnx.tensor("scale", &[2, 1, 1], &scale)
            .tensor("shift", &[1, 2, 1, 1], &shift)
            .node("Mul", &[from, "scale"], "m", &[])
            .node("Add", &["m", "shift"], "norm", &[])
    };
    let mut onnx = Onnx::new(&[0, 3, 224, 224]).parameters(&file, "features.0");
    let pads = [("pads", Value::Ints(vec![1; 4]))];
    onnx = onnx.node("Conv", &["x", "features.0.weight", "features.0.bias"], "conv0", &pads);
    onnx = first(onnx, "conv0").node("Relu", &["norm"], "relu0", &[]);
    // The plain graph, with the first two nodes replaced.
    let plain = Onnx::new(&[0, 3, 224, 224])
        .parameters(&file, "features.0")
        .node("Conv", &["x", "features.0.weight", "features.0.bias"], "conv0", &pads)
        .node("Relu", &["conv0"], "relu0", &[]);
    let mut all = Onnx::vgg16(&file).flatten("map", "v").gemm(&file, "fc", "v", "y");
    all.graph = [&onnx.graph[..], &all.graph[plain.graph.len()..]].concat();
    let read = all.read("y", None).unwrap();
    let weight = &read.parameters["features.0.weight"].values;
    let plain = file.values("features.0.weight");
    for (index, value) in weight.iter().enumerate() {
        let expected = f64::from(plain[index]) * f64::from(scale[index / 27]);
        assert!((f64::from(*value) - expected).abs() < 1e-7, "{value} {expected}");
    }
}

#[test]
fn weights_are_views_of_constants() {
    let file = flat(5);
    let kernel = turned(&file.values("fc.weight"), MAP);
    let start = || Onnx::vgg16(&file).flatten("map", "v").copied(&file, "fc.bias");
    let transposed = start()
        .tensor("kernel", &[MAP, 5], &kernel)
        .node("Transpose", &["kernel"], "w", &[])
        .node("Gemm", &["v", "w", "fc.bias"], "y", &[("transB", Value::Int(1))]);
    let identity = start()
        .tensor("kernel", &[1, MAP, 5], &kernel)
        .node("Squeeze", &["kernel"], "w1", &[("axes", Value::Ints(vec![0]))])
        .node("Identity", &["w1"], "w2", &[])
        .node("Cast", &["w2"], "w", &[("to", Value::Int(1))])
        .node("Gemm", &["v", "w", "fc.bias"], "y", &[]);
    let constant = start()
        .node(
            "Constant",
            &[],
            "flat",
            &[("value", Value::Tensor(vec![5 * MAP], file.values("fc.weight")))],
        )
        .ints("shape", &[5, -1])
        .node("Reshape", &["flat", "shape"], "w", &[])
        .node("Gemm", &["v", "w", "fc.bias"], "y", &[("transB", Value::Int(1))]);
    let mut typed = start();
    let elements = [
        tensor_head("w", &[5, MAP], 1),
        field(4, &floats(&file.values("fc.weight"))),
    ]
    .concat();
    typed.graph.extend(field(5, &elements));
    let typed = typed.node("Gemm", &["v", "w", "fc.bias"], "y", &[("transB", Value::Int(1))]);
    for onnx in [transposed, identity, constant, typed] {
        same(&onnx, "y", &file, "");
    }
}

#[test]
fn two_steps_may_share_a_tensor() {
    let file = File::convolutions().linear("a", CHANNELS, CHANNELS);
    let onnx = Onnx::vgg16(&file)
        .node("GlobalAveragePool", &["map"], "p", &[])
        .flatten("p", "v")
        .gemm(&file, "a", "v", "b")
        .node("Relu", &["b"], "c", &[])
        .node("Gemm", &["c", "a.weight", "a.bias"], "y", &[("transB", Value::Int(1))]);
    let read = onnx.read("y", None).unwrap();
    assert_eq!(read.layers, [HeadLayer::Linear, HeadLayer::Relu, HeadLayer::Linear]);
    assert_eq!(read.parameters["head.0.weight"], read.parameters["head.2.weight"]);
    let kinds = onnx.kinds("y", BACKBONE);
    assert_eq!(kinds[0], ModuleKind::AdaptiveAveragePool { size: [1, 1] });
}
