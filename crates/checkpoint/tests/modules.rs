//! Whole pickled models and TorchScript archives give the tensors of their state dict, and their layers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{floats, kinds, open, refused};
use headswap_checkpoint::ModuleKind;

/// The layers of the fixtures' network.
fn network() -> Vec<(&'static str, ModuleKind)> {
    vec![
        ("", ModuleKind::Container),
        ("features", ModuleKind::Container),
        ("features.0", ModuleKind::Conv2d { padding: [1, 1] }),
        ("features.1", ModuleKind::BatchNorm { eps: 1e-3 }),
        ("features.2", ModuleKind::Relu),
        ("features.3", ModuleKind::MaxPool),
        ("pool", ModuleKind::AdaptiveAveragePool { size: [2, 2] }),
        ("flat", ModuleKind::Flatten { channels_last: false }),
        ("classifier", ModuleKind::Container),
        ("classifier.fc1", ModuleKind::Linear),
        ("classifier.relu", ModuleKind::LeakyRelu { slope: 0.2 }),
        ("classifier.drop", ModuleKind::Dropout),
        ("classifier.fc2", ModuleKind::Linear),
        ("classifier.output", ModuleKind::LogSoftmax),
    ]
}

fn check_kinds(name: &str, got: &[(&str, &ModuleKind)], expected: &[(&str, ModuleKind)]) {
    assert_eq!(got.len(), expected.len(), "{name}: {got:?}");
    for ((path, kind), (expected_path, expected_kind)) in got.iter().zip(expected) {
        assert_eq!((path, *kind), (expected_path, expected_kind), "{name}");
    }
}

#[test]
fn a_whole_model_is_read_as_its_state_dict_and_its_layers() {
    let reference = floats(&open("state_dict.safetensors"));
    for name in [
        "whole.pth",
        "whole_legacy.pth",
        "script.pt",
        "trace.pt",
        "learner.pth",
        "model_and_state.pth",
    ] {
        let checkpoint = open(name);
        assert_eq!(floats(&checkpoint), reference, "{name}");
        check_kinds(name, &kinds(&checkpoint), &network());
    }
}

#[test]
fn the_names_of_data_parallel_are_those_of_its_state_dict() {
    let checkpoint = open("whole_data_parallel.pth");
    let reference = floats(&open("state_dict.safetensors"));
    let got = floats(&checkpoint);
    assert_eq!(got.len(), reference.len());
    for (name, tensor) in reference {
        assert_eq!(got[&format!("module.{name}")], tensor, "{name}");
    }
    let kinds = kinds(&checkpoint);
    assert_eq!(kinds[0], ("", &ModuleKind::Container));
    assert_eq!(kinds[11].0, "module.classifier.relu");
}

#[test]
fn a_module_beside_a_state_dict_describes_its_tensors() {
    let checkpoint = open("course.pth");
    assert_eq!(checkpoint.naming().container, "state_dict");
    assert_eq!(floats(&checkpoint), floats(&open("state_dict.safetensors")));
    check_kinds("course.pth", &kinds(&checkpoint), &network()[8..]);
    assert_eq!(open("model_and_state.pth").naming().container, "weights_of_it");
    assert!(open("beside.pth").modules().is_empty());
}

#[test]
fn buffers_are_read_unless_they_are_not_persistent() {
    let checkpoint = open("buffers.pth");
    let floats = floats(&checkpoint);
    assert_eq!(floats["kept"], (vec![2], vec![3.0, 3.0]));
    assert!(floats.contains_key("inner.features.1.running_var"));
    assert!(!floats.contains_key("dropped"));
    let kinds = kinds(&checkpoint);
    assert_eq!(kinds[0], ("", &ModuleKind::Other("WithBuffers".into())));
    let sizes = [
        ("sizes", ModuleKind::Container),
        ("sizes.0", ModuleKind::AdaptiveAveragePool { size: [7, 7] }),
        ("sizes.1", ModuleKind::AdaptiveMaxPool { size: [0, 5] }),
        ("sizes.2", ModuleKind::Elu { alpha: 0.5 }),
        ("sizes.3", ModuleKind::Gelu { tanh: true }),
    ];
    check_kinds("buffers.pth", &kinds[15..], &sizes);
}

#[test]
fn quantised_models_are_refused_as_such() {
    refused("quantize_dynamic_whole.pth", "0 is quantised");
    refused("quantize_dynamic.pth", "0._packed_params._packed_params is quantised");
}
