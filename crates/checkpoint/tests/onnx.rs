//! ONNX graphs are read as the heads that they were exported of.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;
mod onnx_fixture;

use head_fixture::{CHANNELS, FEATURES, File, MAP, spec};
use headswap_checkpoint::ModuleKind;
use headswap_spec::{ChannelTransform, GeluKind, HeadInput, HeadLayer, Output};
use onnx_fixture::{Onnx, Value, field, floats, int, tensor_head, turned};

/// VGG16's convolutions, Relus and poolings.
const BACKBONE: usize = 31;

/// Checks that both files are the same head.
fn same(onnx: &Onnx, output: &str, file: &File, keys: &str) {
    let read = onnx.read(output, None).unwrap();
    let expected = file.read(Some(&spec(keys))).unwrap();
    assert_eq!(
        read.parameters.keys().collect::<Vec<_>>(),
        expected.parameters.keys().collect::<Vec<_>>()
    );
    for (name, tensor) in &read.parameters {
        assert_eq!(tensor, &expected.parameters[name], "{name}");
    }
    assert_eq!((&read.layers, read.rows), (&expected.layers, expected.rows));
}

/// VGG16's convolutions, and a Linear on its flattened map.
fn flat(classes: usize) -> File {
    File::convolutions().linear("fc", classes, MAP)
}

#[test]
fn a_fine_tuned_vgg16_is_the_same_as_its_state_dict() {
    let file = File::vgg16(7);
    let onnx = Onnx::vgg16(&file)
        .flatten("map", "flat")
        .gemm(&file, "classifier.0", "flat", "a")
        .node("Relu", &["a"], "b", &[])
        .node("Dropout", &["b"], "b2", &[])
        .gemm(&file, "classifier.3", "b2", "c")
        .node("Relu", &["c"], "d", &[])
        .gemm(&file, "classifier.6", "d", "y");
    same(&onnx, "y", &file, "");
    let checkpoint = onnx.open("y").unwrap();
    let graph = checkpoint.graph().unwrap();
    assert_eq!(graph.size, Some([224, 224]));
    assert_eq!(graph.transform, ChannelTransform::IDENTITY);
    assert_eq!(checkpoint.format().to_string(), "ONNX");
    assert_eq!(onnx.read("y", None).unwrap().input, HeadInput::Features);
}

#[test]
fn a_dense_on_a_map_of_tensorflow_is_flattened_by_row_column_and_channel() {
    let file = File::convolutions().linear("fc1", 8, MAP).linear("fc2", 3, 8);
    let onnx = Onnx::new(&[0, 224, 224, 3])
        .node("Transpose", &["x"], "nchw", &[("perm", Value::Ints(vec![0, 3, 1, 2]))])
        .convolutions(&file, "nchw")
        .node(
            "Transpose",
            &["map"],
            "nhwc",
            &[("perm", Value::Ints(vec![0, 2, 3, 1]))],
        )
        .ints("order", &[0, 2, 3, 1])
        .ints("zero", &[0])
        .ints("one", &[1])
        .ints("rest", &[MAP as i64])
        .node("Shape", &["map"], "shape0", &[])
        .node("Gather", &["shape0", "order"], "shape1", &[])
        .node("Cast", &["shape1"], "shape2", &[("to", Value::Int(6))])
        .node("Slice", &["shape2", "zero", "one", "zero"], "batch", &[])
        .node("Concat", &["batch", "rest"], "shape3", &[("axis", Value::Int(0))])
        .node("Cast", &["shape3"], "shape", &[("to", Value::Int(7))])
        .node("Reshape", &["nhwc", "shape"], "flat", &[])
        .dense(&file, "fc1", "flat", "a")
        .node("Relu", &["a"], "b", &[])
        .dense(&file, "fc2", "b", "logits")
        .node("Softmax", &["logits"], "y", &[]);
    same(
        &onnx,
        "y",
        &file,
        "\"input\": \"flatten_hwc\", \"layers\": [\"linear\", \"relu\", \"linear\"]",
    );
    let read = onnx.read("y", None).unwrap();
    assert_eq!(
        (read.input, read.output),
        (HeadInput::FlattenHwc, Some(Output::Softmax))
    );
}

#[test]
fn every_way_to_flatten_is_one() {
    let file = flat(4);
    let start = Onnx::vgg16(&file);
    let unsqueeze = [("axes", Value::Ints(vec![0]))];
    let gathered = start
        .clone()
        .node("Shape", &["map"], "s", &[])
        .node("Constant", &[], "zero", &[("value_int", Value::Int(0))])
        .node("Gather", &["s", "zero"], "n", &[])
        .node("Unsqueeze", &["n"], "n1", &unsqueeze)
        .node("Constant", &[], "minus", &[("value_ints", Value::Ints(vec![-1]))])
        .node("Concat", &["n1", "minus"], "shape", &[("axis", Value::Int(0))])
        .node("Reshape", &["map", "shape"], "flat", &[]);
    let multiplied = start
        .clone()
        .node(
            "Shape",
            &["map"],
            "n",
            &[("start", Value::Int(0)), ("end", Value::Int(1))],
        )
        .node("Shape", &["map"], "chw", &[("start", Value::Int(1))])
        .node("ReduceProd", &["chw"], "c", &[("keepdims", Value::Int(1))])
        .node("Concat", &["n", "c"], "shape", &[("axis", Value::Int(0))])
        .node("Reshape", &["map", "shape"], "flat", &[]);
    let constant = |sizes: &[i64]| {
        let start = start.clone().ints("shape", sizes);
        start.node("Reshape", &["map", "shape"], "flat", &[])
    };
    let identities = start
        .clone()
        .node("Identity", &["map"], "i", &[])
        .node("AveragePool", &["i"], "j", &[("kernel_shape", Value::Ints(vec![1, 1]))])
        .node("Cast", &["j"], "k", &[("to", Value::Int(1))])
        .node("Flatten", &["k"], "flat", &[("axis", Value::Int(-3))]);
    for onnx in [
        gathered,
        multiplied,
        constant(&[-1, MAP as i64]),
        constant(&[0, -1]),
        identities,
    ] {
        same(&onnx.gemm(&file, "fc", "flat", "y"), "y", &file, "");
    }
}

#[test]
fn pooled_maps_are_inputs() {
    let file = File::convolutions().linear("fc", 4, CHANNELS);
    let window = |sides: i64| ("kernel_shape", Value::Ints(vec![sides, sides]));
    let axes = |axes: &[i64]| [("axes", Value::Ints(axes.to_vec())), ("keepdims", Value::Int(0))];
    let perm = [("perm", Value::Ints(vec![0, 2, 3, 1]))];
    let start = Onnx::vgg16(&file);
    let mean = HeadInput::GlobalAverage;
    for (onnx, input) in [
        (
            start
                .clone()
                .node("GlobalAveragePool", &["map"], "p", &[])
                .flatten("p", "v"),
            mean,
        ),
        (
            start
                .clone()
                .node("AveragePool", &["map"], "p", &[window(7)])
                .flatten("p", "v"),
            mean,
        ),
        (start.clone().node("ReduceMean", &["map"], "v", &axes(&[2, 3])), mean),
        (
            start
                .clone()
                .node("Transpose", &["map"], "t", &perm)
                .node("ReduceMean", &["t"], "v", &axes(&[1, 2])),
            mean,
        ),
        (
            start
                .clone()
                .node("GlobalMaxPool", &["map"], "p", &[])
                .node("Squeeze", &["p"], "v", &[]),
            HeadInput::GlobalMax,
        ),
    ] {
        let onnx = onnx.gemm(&file, "fc", "v", "y");
        same(&onnx, "y", &file, "\"input\": \"global_average\"");
        assert_eq!(onnx.read("y", None).unwrap().input, input);
    }
    let file = File::convolutions().linear("fc", 4, 2 * CHANNELS);
    let onnx = Onnx::vgg16(&file)
        .node("GlobalAveragePool", &["map"], "mean", &[])
        .node("GlobalMaxPool", &["map"], "max", &[])
        .node("Concat", &["max", "mean"], "both", &[("axis", Value::Int(1))])
        .flatten("both", "v")
        .gemm(&file, "fc", "v", "y");
    assert_eq!(onnx.read("y", None).unwrap().input, HeadInput::GlobalMaxAverage);
}

#[test]
fn a_pooling_to_seven_rows_is_adaptive() {
    let file = flat(4);
    let window = [
        ("kernel_shape", Value::Ints(vec![2, 2])),
        ("strides", Value::Ints(vec![2, 2])),
    ];
    let onnx = Onnx::new(&[1, 3, 448, 448])
        .convolutions(&file, "x")
        .node("AveragePool", &["map"], "p", &window)
        .flatten("p", "v")
        .gemm(&file, "fc", "v", "y");
    assert_eq!(onnx.read("y", None).unwrap().input, HeadInput::Adaptive7x7);
}

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
fn what_is_done_to_the_pixels_is_the_graphs_transform() {
    let file = flat(3);
    let caffe = ChannelTransform {
        reversed: true,
        scale: [1.0; 3],
        shift: [-0.5, -1.5, -2.5],
    };
    let end = |onnx: Onnx| {
        onnx.convolutions(&file, "in")
            .flatten("map", "v")
            .gemm(&file, "fc", "v", "y")
    };
    let at = |start: i64, end: i64, onnx: Onnx| {
        let slice = [
            ("starts", Value::Ints(vec![start])),
            ("ends", Value::Ints(vec![end])),
            ("axes", Value::Ints(vec![3])),
        ];
        onnx.node("Slice", &["x"], &format!("c{start}"), &slice)
    };
    let start = || Onnx::new(&[0, 224, 224, 3]).tensor("mean", &[3], &[0.5, 1.5, 2.5]);
    let sliced = at(0, 1, at(1, 2, at(2, i64::MAX, start())));
    let perm = [("perm", Value::Ints(vec![0, 3, 1, 2]))];
    let joined = sliced
        .node("Concat", &["c2", "c1", "c0"], "bgr", &[("axis", Value::Int(-1))])
        .node("Sub", &["bgr", "mean"], "sub", &[])
        .node("Transpose", &["sub"], "in", &perm);
    let gathered = start()
        .ints("order", &[2, 1, 0])
        .node("Gather", &["x", "order"], "bgr", &[("axis", Value::Int(3))])
        .node("Transpose", &["bgr"], "nchw", &perm)
        .tensor("shift", &[1, 3, 1, 1], &[-0.5, -1.5, -2.5])
        .node("Add", &["nchw", "shift"], "in", &[]);
    let backwards = [
        ("starts", Value::Ints(vec![-1])),
        ("ends", Value::Ints(vec![i64::MIN])),
        ("axes", Value::Ints(vec![1])),
        ("steps", Value::Ints(vec![-1])),
    ];
    let turned = Onnx::new(&[0, 3, 224, 224])
        .node("Slice", &["x"], "bgr", &backwards)
        .tensor("mean", &[3, 1, 1], &[0.5, 1.5, 2.5])
        .node("Sub", &["bgr", "mean"], "in", &[]);
    let split = Onnx::new(&[0, 3, 224, 224])
        .node("Split", &["x"], "r g b", &[("axis", Value::Int(1))])
        .tensor("mean", &[3, 1, 1], &[0.5, 1.5, 2.5])
        .node("Concat", &["b", "g", "r"], "bgr", &[("axis", Value::Int(1))])
        .node("Sub", &["bgr", "mean"], "in", &[]);
    for onnx in [joined, gathered, turned, split] {
        let checkpoint = end(onnx).open("y").unwrap();
        assert_eq!(checkpoint.graph().unwrap().transform, caffe);
    }
    let scaled = Onnx::new(&[0, 3, 224, 224])
        .tensor("by", &[], &[0.25])
        .tensor("std", &[1, 3, 1, 1], &[0.5, 2.0, 4.0])
        .tensor("two", &[1], &[2.0])
        .node("Cast", &["x"], "f", &[("to", Value::Int(1))])
        .node("Mul", &["f", "by"], "a", &[])
        .node("Div", &["a", "std"], "b", &[])
        .node("Sub", &["two", "b"], "in", &[]);
    let checkpoint = end(scaled).open("y").unwrap();
    let expected = ChannelTransform {
        reversed: false,
        scale: [-0.5, -0.125, -0.0625],
        shift: [2.0; 3],
    };
    assert_eq!(checkpoint.graph().unwrap().transform, expected);
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
fn a_head_alone_stands_on_the_servers_backbone() {
    let file = File::new().linear("0", 4, FEATURES);
    let onnx = Onnx::new(&[0, FEATURES as i64]).gemm(&file, "0", "x", "y");
    let read = onnx.read("y", None).unwrap();
    assert_eq!((read.input, read.rows), (HeadInput::Features, 4));
    assert_eq!(onnx.open("y").unwrap().graph().unwrap().size, None);
}

#[test]
fn fields_may_come_in_any_order_and_more_than_once() {
    let file = flat(3);
    let onnx = Onnx::vgg16(&file).flatten("map", "v").gemm(&file, "fc", "v", "y");
    let bytes = onnx.bytes("y");
    // A second graph is joined to the first, and a second version replaces the first.
    let mut more = onnx.clone();
    more.rest = [
        field(7, &field(5, &onnx_fixture::tensor("unused", &[1], &[1.0]))),
        int(1, 9),
    ]
    .concat();
    assert_ne!(bytes, more.bytes("y"));
    same(&more, "y", &file, "");
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

#[test]
fn a_spec_that_contradicts_the_graph_is_refused() {
    let file = flat(3);
    let onnx = Onnx::vgg16(&file)
        .node("Transpose", &["map"], "t", &[("perm", Value::Ints(vec![0, 2, 3, 1]))])
        .flatten("t", "v")
        .gemm(&file, "fc", "v", "y");
    for input in ["flatten", "adaptive_7x7"] {
        let spec = spec(&format!("\"input\": \"{input}\""));
        let error = onnx.read("y", Some(&spec)).unwrap_err().to_string();
        assert!(
            error.contains(&format!(
                "\"input\" is `{input}` and the file's network computes `flatten_hwc`"
            )),
            "{error}"
        );
    }
    assert!(onnx.read("y", Some(&spec("\"input\": \"flatten_hwc\""))).is_ok());
}
