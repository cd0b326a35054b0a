//! ONNX files that are not a VGG16 with a head are refused by what they hold, with the remedy.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;
mod onnx_fixture;

use bytes::Bytes;
use head_fixture::{CHANNELS, File, MAP};
use headswap_checkpoint::Checkpoint;
use onnx_fixture::{Onnx, Value, field, flat, floats, int, tensor_head, turned, varint};

/// VGG16's convolutions, a node of `map`, and a Linear.
fn with_node(operator: &str, attributes: &[(&str, Value)]) -> Onnx {
    let file = flat(3);
    Onnx::vgg16(&file)
        .node(operator, &["map"], "m", attributes)
        .flatten("m", "v")
        .gemm(&file, "fc", "v", "y")
}

#[test]
fn operators_that_are_not_read_are_named_with_their_node() {
    for operator in ["LRN", "Resize", "If", "Loop", "InstanceNormalization", "GridSample"] {
        let what = match operator {
            "If" | "Loop" => "runs a graph of its own",
            _ => "is not a step of a VGG16 or its head",
        };
        let attributes = [("body", Value::Graph)];
        with_node(operator, &attributes).refused("y", &[operator, "`n31`", "(output `m`)", what, "export"]);
    }
    for operator in ["HardSigmoid", "Selu", "Mish"] {
        with_node(operator, &[]).refused("y", &[operator, "is an activation that heads do not have"]);
    }
    with_node("Clip", &[("min", Value::Float(0.0)), ("max", Value::Float(6.0))]).refused("y", &["Clip `n31`"]);
    for operator in [
        "QuantizeLinear",
        "QLinearConv",
        "MatMulInteger",
        "DynamicQuantizeLinear",
    ] {
        with_node(operator, &[]).refused("y", &[operator, "quantised", "before it is quantised"]);
    }
}

#[test]
fn quantised_weights_are_named() {
    let file = flat(3);
    let onnx = Onnx::vgg16(&file)
        .flatten("map", "v")
        .ints("q", &[1])
        .tensor("scale", &[], &[1.0])
        .node("DequantizeLinear", &["q", "scale"], "w", &[])
        .node("Gemm", &["v", "w"], "y", &[]);
    onnx.refused("y", &["DequantizeLinear `n32`", "quantised"]);
}

#[test]
fn operators_of_other_domains_are_named_with_it() {
    let file = flat(3);
    let onnx = Onnx::vgg16(&file).flatten("map", "v");
    let microsoft = onnx.clone().node_of("com.microsoft", "FusedGemm", &["v"], "y", &[]);
    microsoft.refused("y", &["com.microsoft.FusedGemm", "as it was exported"]);
    let mut own = onnx.node_of("pkg.torch", "Head", &["v"], "y", &[]);
    own.rest = field(25, &[field(1, b"Head"), field(10, b"pkg.torch")].concat());
    own.refused(
        "y",
        &["pkg.torch.Head", "function of the file's own", "inline_local_functions"],
    );
}

#[test]
fn convolutions_and_poolings_of_other_networks_are_named() {
    let file = flat(3);
    let start = Onnx::new(&[0, 3, 224, 224]).parameters(&file, "features.0");
    let conv = |attributes: &[(&str, Value)]| {
        let inputs = ["x", "features.0.weight", "features.0.bias"];
        start.clone().node("Conv", &inputs, "y", attributes)
    };
    let pads = ("pads", Value::Ints(vec![1; 4]));
    conv(&[("strides", Value::Ints(vec![2, 2])), pads.clone()]).refused("y", &["Conv `n0`", "strides [2, 2]"]);
    conv(&[("group", Value::Int(3)), pads]).refused("y", &["group 3"]);
    conv(&[("pads", Value::Ints(vec![0, 0, 1, 1]))]).refused("y", &["pads its sides differently"]);
    let three = [
        ("kernel_shape", Value::Ints(vec![3, 3])),
        ("strides", Value::Ints(vec![2, 2])),
    ];
    with_node("MaxPool", &three).refused("y", &["MaxPool `n31`", "another kind"]);
    with_node("AveragePool", &three).refused("y", &["overlap"]);
}

#[test]
fn branches_are_named_where_they_join() {
    let file = File::convolutions().linear("a", CHANNELS, CHANNELS);
    let pooled = Onnx::vgg16(&file)
        .node("GlobalAveragePool", &["map"], "p", &[])
        .flatten("p", "v");
    let skip = pooled
        .clone()
        .gemm(&file, "a", "v", "b")
        .node("Add", &["v", "b"], "y", &[]);
    skip.refused("y", &["Add `n34`", "joins several branches"]);
    let concat = pooled
        .gemm(&file, "a", "v", "b")
        .node("Concat", &["v", "b"], "y", &[("axis", Value::Int(1))]);
    concat.refused("y", &["Concat `n34`", "joins several branches"]);
}

#[test]
fn several_outputs_are_named_and_one_can_be_chosen() {
    let file = File::convolutions().linear("a", 2, MAP).linear("b", 3, MAP);
    let onnx = Onnx::vgg16(&file)
        .flatten("map", "v")
        .gemm(&file, "a", "v", "first")
        .gemm(&file, "b", "v", "second")
        .output("first");
    onnx.refused(
        "second",
        &[
            "has 2 outputs, `first` and `second`".replace(" and ", ", ").as_str(),
            "--tensors NAME",
        ],
    );
    let bytes = Bytes::from(onnx.bytes("second"));
    let chosen = Checkpoint::from_bytes_selecting(bytes, Some("first")).unwrap();
    let last = chosen.modules().last().unwrap();
    assert_eq!(last.path, "a");
}

#[test]
fn several_inputs_are_named() {
    let file = flat(3);
    let mut onnx = Onnx::vgg16(&file);
    onnx.graph.extend(field(11, &field(1, b"mask")));
    let onnx = onnx.flatten("map", "v").gemm(&file, "fc", "v", "a");
    // An input that nothing uses does not count.
    assert!(onnx.read("a", None).is_ok());
    onnx.node("Mul", &["a", "mask"], "y", &[])
        .refused("y", &["has several inputs, `x` and `mask`"]);
}

#[test]
fn external_data_is_refused_with_the_files_name() {
    let file = flat(3);
    let mut onnx = Onnx::vgg16(&file).flatten("map", "v");
    let location = field(13, &[field(1, b"location"), field(2, b"model.onnx.data")].concat());
    let tensor = [tensor_head("w", &[3, MAP], 1), location, int(14, 1)].concat();
    onnx.graph.extend(field(5, &tensor));
    let onnx = onnx.node("Gemm", &["v", "w"], "y", &[("transB", Value::Int(1))]);
    onnx.refused("y", &["`w`", "`model.onnx.data`", "onnx.save(onnx.load(path), path)"]);
}

#[test]
fn elements_one_by_one_are_refused_with_the_remedy() {
    let file = flat(3);
    let mut onnx = Onnx::vgg16(&file).flatten("map", "v");
    let mut elements = tensor_head("w", &[3, MAP], 1);
    for value in file.values("fc.weight") {
        elements.extend(varint(4 << 3 | 5));
        elements.extend(value.to_le_bytes());
    }
    onnx.graph.extend(field(5, &elements));
    let onnx = onnx.node("Gemm", &["v", "w"], "y", &[("transB", Value::Int(1))]);
    onnx.refused("y", &["the elements of `w` one by one", "onnx.save"]);
}

#[test]
fn tensors_that_contradict_their_shape_are_damaged() {
    let file = flat(3);
    let start = Onnx::vgg16(&file).flatten("map", "v");
    let gemm = |tensor: &[Vec<u8>]| {
        let mut onnx = start.clone();
        onnx.graph.extend(field(5, &tensor.concat()));
        onnx.node("Gemm", &["v", "w"], "y", &[("transB", Value::Int(1))])
    };
    let few = field(9, &floats(&[1.0; 8]));
    gemm(&[tensor_head("w", &[3, MAP], 1), few.clone()]).refused("y", &["damaged", "as its shape says"]);
    gemm(&[tensor_head("w", &[3, MAP], 1)]).refused("y", &["damaged", "no elements"]);
    gemm(&[tensor_head("w", &[usize::MAX, 3], 1), few.clone()]).refused("y", &["damaged", "impossible shape"]);
    gemm(&[tensor_head("w", &[2, 4], 8), few.clone()]).refused("y", &["`w` of an element type"]);
    gemm(&[tensor_head("w", &[2, 4], 1), few.clone()]).refused("y", &["another number of values"]);
    gemm(&[tensor_head("w", &[4, 4], 10), few]).refused("y", &["another number of values"]);
}

#[test]
fn batch_norms_between_convolutions_and_their_relus_alone_are_read() {
    let file = flat(3).with("n.weight", &[2]).with("n.bias", &[2]);
    let head = Onnx::vgg16(&file);
    let pads = [("pads", Value::Ints(vec![1; 4]))];
    let start = Onnx::new(&[0, 3, 224, 224]).parameters(&file, "features.0");
    let plain = start
        .clone()
        .node("Conv", &["x", "features.0.weight", "features.0.bias"], "conv0", &pads)
        .node("Relu", &["conv0"], "relu0", &[]);
    let late = start
        .parameters(&file, "n")
        .tensor("scale", &[2, 1, 1], &file.values("n.weight"))
        .tensor("shift", &[2, 1, 1], &file.values("n.bias"))
        .node("Conv", &["x", "features.0.weight", "features.0.bias"], "conv0", &pads)
        .node("Relu", &["conv0"], "r", &[])
        .node("Mul", &["r", "scale"], "m", &[])
        .node("Add", &["m", "shift"], "relu0", &[]);
    let mut onnx = head.clone();
    onnx.graph = [&late.graph[..], &head.graph[plain.graph.len()..]].concat();
    let onnx = onnx.flatten("map", "v").gemm(&file, "fc", "v", "y");
    onnx.refused("y", &["is of class Affine where VGG16 has a convolution"]);
}

#[test]
fn a_network_without_its_relus_or_poolings_is_not_vgg16() {
    let file = flat(3);
    let mut onnx = Onnx::new(&[0, 3, 224, 224]);
    let mut from = "x".to_owned();
    for (index, _, _) in head_fixture::convolutions() {
        let path = format!("features.{index}");
        let (weight, bias) = (format!("{path}.weight"), format!("{path}.bias"));
        let to = format!("conv{index}");
        onnx = onnx.parameters(&file, &path).node(
            "Conv",
            &[&from, &weight, &bias],
            &to,
            &[("pads", Value::Ints(vec![1; 4]))],
        );
        from = to;
    }
    let onnx = onnx.node("GlobalAveragePool", &[&from], "p", &[]).flatten("p", "v");
    let file = File::new().linear("fc", 3, CHANNELS);
    onnx.gemm(&file, "fc", "v", "y")
        .refused("y", &["where VGG16 has a ReLU"]);
}

#[test]
fn arithmetic_that_heads_do_not_have_is_named() {
    let file = flat(3);
    let start = Onnx::vgg16(&file).flatten("map", "v").gemm(&file, "fc", "v", "a");
    let vector = |operator: &str| {
        let onnx = start.clone().tensor("k", &[3], &[1.0, 2.0, 3.0]);
        onnx.node(operator, &["a", "k"], "y", &[])
    };
    vector("Mul").refused("y", &["multiplied by a vector without adding one"]);
    vector("Div").refused("y", &["Div `n33`", "otherwise than by a product and then a sum"]);
    vector("Add").refused("y", &["Add `n33`", "otherwise"]);
    let number = |operator: &str, value: f32| {
        let onnx = start.clone().tensor("k", &[], &[value]);
        onnx.node(operator, &["a", "k"], "y", &[])
    };
    number("Mul", 2.0).refused("y", &["Mul `n33`", "a function that heads do not have"]);
    assert!(number("Mul", 1.0).read("y", None).is_ok());
    start
        .clone()
        .node("Softplus", &["a"], "s", &[])
        .node("Tanh", &["s"], "t", &[])
        .node("Mul", &["a", "t"], "y", &[])
        .refused("y", &["Softplus `n33`", "activation that heads do not have"]);
    start.node("ArgMax", &["a"], "y", &[]).refused("y", &["ArgMax `n33`"]);
    let gemm = Onnx::vgg16(&file).flatten("map", "v").parameters(&file, "fc").node(
        "Gemm",
        &["v", "fc.weight"],
        "y",
        &[("alpha", Value::Float(0.5)), ("transB", Value::Int(1))],
    );
    gemm.refused("y", &["Gemm `n32`", "other factors than 1"]);
}

#[test]
fn what_is_done_to_pixels_otherwise_is_named() {
    let file = flat(3);
    let pads = [("pads", Value::Ints(vec![1; 4]))];
    let conv = |onnx: Onnx, from: &str| {
        let inputs = [from, "features.0.weight", "features.0.bias"];
        onnx.parameters(&file, "features.0").node("Conv", &inputs, "y", &pads)
    };
    let start = Onnx::new(&[0, 3, 224, 224]);
    let crop = [
        ("starts", Value::Ints(vec![16])),
        ("ends", Value::Ints(vec![208])),
        ("axes", Value::Ints(vec![2])),
    ];
    conv(start.clone().node("Slice", &["x"], "p", &crop), "p").refused("y", &["Slice `n0`", "part of the picture"]);
    let mean = start.clone().tensor("mean", &[3, 224, 1], &vec![0.0; 672]);
    conv(mean.node("Sub", &["x", "mean"], "p", &[]), "p").refused("y", &["Sub `n0`", "for each channel"]);
    let swap = start
        .clone()
        .ints("order", &[1, 0, 2])
        .node("Gather", &["x", "order"], "p", &[("axis", Value::Int(1))]);
    conv(swap, "p").refused("y", &["Conv `n1`", "their order or the reverse"]);
    conv(start.node("Relu", &["x"], "p", &[]), "p").refused("y", &["Relu `n0`", "before the first convolution"]);
    Onnx::new(&[0, 1, 224, 224])
        .node("Relu", &["x"], "y", &[])
        .refused("y", &["takes `x` of shape [?, 1, 224, 224]"]);
}

#[test]
fn a_reshape_that_mixes_pictures_is_refused() {
    let file = flat(3);
    let reshape = |sizes: &[i64]| {
        let onnx = Onnx::vgg16(&file).ints("shape", sizes);
        onnx.node("Reshape", &["map", "shape"], "v", &[])
            .gemm(&file, "fc", "v", "y")
    };
    for sizes in [&[2, -1][..], &[-1, 392], &[-1, 7, 112], &[784, -1]] {
        reshape(sizes).refused("y", &["Reshape `n31`", "otherwise than by flattening"]);
    }
    let turned_map = Onnx::vgg16(&file)
        .node("Transpose", &["map"], "t", &[("perm", Value::Ints(vec![0, 1, 3, 2]))])
        .flatten("t", "v")
        .gemm(&file, "fc", "v", "y");
    turned_map.refused("y", &["Flatten `n32`"]);
}

#[test]
fn cut_off_files_are_damaged_at_every_length() {
    let file = File::new().linear("0", 4, 128);
    let kernel = turned(&file.values("0.weight"), 128);
    let onnx = Onnx::new(&[0, 128])
        .tensor("w", &[128, 4], &kernel)
        .node("MatMul", &["x", "w"], "y", &[]);
    let bytes = onnx.bytes("y");
    assert!(Checkpoint::from_bytes(bytes.clone().into()).is_ok());
    for length in 3..bytes.len() - 8 {
        let error = Checkpoint::from_bytes(bytes[..length].to_vec().into())
            .unwrap_err()
            .to_string();
        assert!(error.contains("ONNX file is damaged"), "{length}: {error}");
    }
}

#[test]
fn loops_and_unordered_nodes_are_damaged() {
    let onnx = Onnx::new(&[0, 128])
        .node("Relu", &["b"], "a", &[])
        .node("Add", &["a", "x"], "b", &[]);
    onnx.refused("b", &["damaged", "no node before it returns"]);
}
