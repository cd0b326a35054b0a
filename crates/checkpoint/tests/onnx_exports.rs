//! Networks in small, as PyTorch's two exporters and tf2onnx write them, are read as they were defined.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use headswap_checkpoint::{Checkpoint, ModuleKind as M};

fn open(name: &str) -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/onnx")
        .join(name);
    let on_disk = Checkpoint::open(&path).unwrap();
    let in_memory = Checkpoint::from_bytes(std::fs::read(&path).unwrap().into()).unwrap();
    assert_eq!(on_disk.modules(), in_memory.modules());
    for (entry, other) in on_disk.tensors().zip(in_memory.tensors()) {
        assert_eq!(on_disk.read(entry).unwrap(), in_memory.read(other).unwrap());
    }
    on_disk
}

fn kinds(checkpoint: &Checkpoint) -> Vec<M> {
    checkpoint.modules().iter().map(|module| module.kind.clone()).collect()
}

/// Checks a graph's scale and shift to single precision.
fn check_pixels(checkpoint: &Checkpoint, reversed: bool, scale: f64, shift: [f64; 3]) {
    let graph = checkpoint.graph().unwrap();
    assert_eq!(graph.size, Some([8, 8]));
    assert_eq!(graph.transform.reversed, reversed);
    let transform = graph.transform;
    for (channel, shift) in shift.into_iter().enumerate() {
        let differences = [transform.scale[channel] - scale, transform.shift[channel] - shift];
        assert!(
            differences.iter().all(|difference| difference.abs() < 1e-8),
            "{transform:?}"
        );
    }
}

#[test]
fn pytorchs_exporters_agree() {
    let script = open("pytorch_script.onnx");
    let dynamo = open("pytorch_dynamo.onnx");
    for checkpoint in [&script, &dynamo] {
        check_pixels(checkpoint, true, 1.0 / 255.0, [-0.5, -0.25, -0.125]);
        let expected = [
            M::Conv2d { padding: [1, 1] },
            M::Relu,
            M::MaxPool,
            M::Flatten { channels_last: false },
            M::Linear,
            M::Gelu { tanh: false },
            M::BatchNorm {
                eps: f64::from(1e-5_f32),
            },
            M::Linear,
            M::Silu,
            M::Linear,
            M::Softmax,
        ];
        assert_eq!(kinds(checkpoint), expected);
    }
    let names: Vec<&str> = script.tensors().map(|entry| entry.file_name.as_str()).collect();
    assert!(
        names.contains(&"features.0.weight") && names.contains(&"classifier.4.bias"),
        "{names:?}"
    );
    let weight = |checkpoint: &Checkpoint| {
        let mut entries = checkpoint.tensors();
        let entry = entries.find(|entry| entry.file_name == "classifier.6.weight").unwrap();
        checkpoint.read(entry).unwrap()
    };
    assert_eq!(weight(&script), weight(&dynamo));
    assert_eq!(weight(&script).shape, [3, 4]);
}

#[test]
fn tf2onnx_keeps_keras_order_of_the_map() {
    let checkpoint = open("tf2onnx.onnx");
    check_pixels(&checkpoint, false, f64::from(1.0_f32 / 127.5), [-1.0; 3]);
    assert_eq!(
        kinds(&checkpoint),
        [
            M::Conv2d { padding: [1, 1] },
            M::Relu,
            M::MaxPool,
            M::Flatten { channels_last: true },
            M::Linear,
            M::Relu,
            M::Affine,
            M::Linear,
            M::Silu,
            M::Linear,
            M::Sigmoid,
        ]
    );
    let shapes: Vec<Vec<usize>> = checkpoint.tensors().map(|entry| entry.shape.clone()).collect();
    for shape in [vec![2, 3, 3, 3], vec![6, 32], vec![4, 6], vec![1, 4]] {
        assert!(shapes.contains(&shape), "{shapes:?}");
    }
}
