//! One of several networks in a file is chosen by its key.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;

use common::{floats, open, open_selecting, refused};
use headswap_checkpoint::{Checkpoint, StoredDtype, safetensors_header};

#[test]
fn several_networks_are_refused_by_their_keys() {
    let hint = "; choose one with --tensors KEY";
    refused(
        "model_and_ema.pth",
        &format!("under the keys `model`, `model_ema`{hint}"),
    );
    refused("list_of_two.pth", &format!("under the keys `0`, `1`{hint}"));
}

/// A last layer alone is too little to be a network by itself.
#[test]
fn two_last_layers_are_two_networks() {
    let path = "../../tests/fixtures/coverage/two-networks/model.pth";
    let error = Checkpoint::open(Path::new(path)).unwrap_err().to_string();
    assert!(
        error.contains("under the keys `model`, `model_ema`; choose one"),
        "{error}"
    );
    let [one, other] = ["model", "model_ema"].map(|key| {
        let chosen = Checkpoint::open_selecting(Path::new(path), Some(key)).unwrap();
        floats(&chosen)["classifier.6.weight"].1[0]
    });
    assert_eq!(one, -other);
}

#[test]
fn a_key_chooses_one_of_several() {
    let reference = floats(&open("state_dict.safetensors"));
    for (name, first, second) in [
        ("model_and_ema.pth", "model", "model_ema"),
        ("list_of_two.pth", "0", "1"),
    ] {
        let chosen = open_selecting(name, Some(first)).unwrap();
        assert_eq!(floats(&chosen), reference, "{name}");
        assert_eq!((chosen.naming().container.as_str(), chosen.selected()), (first, None));
        let other = floats(&open_selecting(name, Some(second)).unwrap());
        assert_eq!(
            other["classifier.fc1.bias"].1[0],
            reference["classifier.fc1.bias"].1[0] + 1.0
        );
    }
}

#[test]
fn another_key_is_left_to_the_caller() {
    for name in ["whole.pth", "beside.pth", "state_dict.safetensors"] {
        let checkpoint = open_selecting(name, Some("features")).unwrap();
        assert_eq!(checkpoint.selected(), Some("features"), "{name}");
        assert_eq!(floats(&checkpoint), floats(&open("state_dict.safetensors")), "{name}");
        assert_eq!(open(name).selected(), None);
    }
    assert!(open_selecting("model_and_ema.pth", Some("features")).is_err());
}

#[test]
fn the_only_network_in_a_list_is_used() {
    let reference = floats(&open("state_dict.safetensors"));
    assert_eq!(floats(&open("list_of_one.pth")), reference);
    assert_eq!(floats(&open("same_twice.pth")), reference);
    assert_eq!(floats(&open("beside_matrices.pth")), reference);
    refused("list_of_tensors.pth", "a list of tensors, which have no names");
}

#[test]
fn a_key_chooses_one_of_two_networks_whose_names_differ_in_a_wrapper() {
    let names = ["model.fc.weight", "module.fc.weight", "step"];
    let shape = [1usize];
    let mut bytes = safetensors_header(
        names.iter().map(|name| (*name, &shape[..])),
        StoredDtype::F32,
        &std::collections::HashMap::new(),
    );
    bytes.extend([1.0f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()));
    let error = Checkpoint::from_bytes(bytes.clone().into()).unwrap_err().to_string();
    assert!(
        error.contains("`model.fc.weight` and as `module.fc.weight`") && error.contains("--tensors KEY"),
        "{error}"
    );
    for (key, chosen, value) in [("model", "model.fc.weight", 1.0), ("module.", "module.fc.weight", 2.0)] {
        let checkpoint = Checkpoint::from_bytes_selecting(bytes.clone().into(), Some(key)).unwrap();
        let floats = floats(&checkpoint);
        assert_eq!(floats[chosen].1, [value]);
        assert_eq!(floats.len(), 2, "the step is in neither");
    }
    assert!(Checkpoint::from_bytes_selecting(bytes.into(), Some("step")).is_err());
}
