//! ONNX graphs are read as the heads that they were exported of.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;
mod onnx_fixture;

use head_fixture::{CHANNELS, FEATURES, File, MAP, spec};
use headswap_spec::{ChannelTransform, HeadInput, Output};
use onnx_fixture::{Onnx, Value, field, flat, int, same, tensor};

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
fn a_single_output_may_lack_its_dimension() {
    let file = flat(1);
    let onnx = Onnx::vgg16(&file).flatten("map", "v").gemm(&file, "fc", "v", "a");
    let squeezed = onnx
        .clone()
        .node("Squeeze", &["a"], "b", &[("axes", Value::Ints(vec![1]))]);
    let reshaped = onnx.ints("shape", &[-1]).node("Reshape", &["a", "shape"], "b", &[]);
    for onnx in [squeezed, reshaped] {
        let read = onnx.node("Sigmoid", &["b"], "y", &[]).read("y", None).unwrap();
        assert_eq!((read.rows, read.output), (1, Some(Output::Sigmoid)));
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
    more.rest = [field(7, &field(5, &tensor("unused", &[1], &[1.0]))), int(1, 9)].concat();
    assert_ne!(bytes, more.bytes("y"));
    same(&more, "y", &file, "");
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
