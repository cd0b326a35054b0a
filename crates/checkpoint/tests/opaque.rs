//! Nothing in a file is run: what lies beside a state dict is skipped, what stands for one is refused by name.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;

use common::{floats, open, refused};

#[test]
fn objects_beside_a_state_dict_are_skipped() {
    let reference = floats(&open("state_dict.safetensors"));
    for name in ["beside.pth", "call_beside.pth"] {
        let checkpoint = open(name);
        assert_eq!(checkpoint.naming().container, "state_dict", "{name}");
        assert_eq!(floats(&checkpoint), reference, "{name}");
    }
    assert!(!Path::new("headswap-was-here").exists());
}

#[test]
fn what_code_would_have_to_make_is_refused_by_its_name() {
    refused("call_is_result.pth", "asks Python to run posix.system;");
    refused("call_is_state_dict.pth", "asks Python to run posix.system;");
    refused("call_is_weight.pth", "asks Python to run __main__.in_main_function;");
    assert!(!Path::new("headswap-was-here").exists());
}

#[test]
fn class_names_are_found_beside_a_state_dict() {
    let lists = open("beside.pth").label_lists();
    let keys: Vec<&str> = lists.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "classes",
            "id2label",
            "hyper_parameters.class_names",
            "hyper_parameters.idx_to_class",
            "args.classes"
        ]
    );
    assert!(lists.iter().all(|(_, labels)| labels[..] == ["ant", "bee", "cat"]));
    let course = open("course.pth").label_lists();
    assert_eq!(
        course,
        [("class_to_idx".into(), vec!["ant".into(), "bee".into(), "cat".into()])]
    );
    assert_eq!(open("state_dict.safetensors").labels().unwrap(), ["a", "b"]);
}
