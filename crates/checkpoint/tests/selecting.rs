//! One of several networks in a file is chosen by its key.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{floats, open, open_selecting, refused};

#[test]
fn several_networks_are_refused_by_their_keys() {
    let hint = "; choose one with --tensors KEY";
    refused(
        "model_and_ema.pth",
        &format!("under the keys `model`, `model_ema`{hint}"),
    );
    refused("list_of_two.pth", &format!("under the keys `0`, `1`{hint}"));
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
