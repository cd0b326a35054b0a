//! What is read of a head is bounded by the length of its file, and what a receiver has is not kept.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;
mod pickled;

use std::cell::RefCell;

use head_fixture::{CHANNELS, FEATURES, File, spec};
use headswap_checkpoint::{
    Checkpoint, Digest, HeadFileError, HeadOptions, HeadPolicy, NormalHead, Throttle, read_head_for,
};
use headswap_spec::{Architecture, HeadSpec};

fn read(checkpoint: &Checkpoint, keys: &str, policy: HeadPolicy<'_>) -> Result<NormalHead, HeadFileError> {
    let spec: HeadSpec = spec(keys);
    let throttle = Throttle::off();
    let options = HeadOptions {
        architecture: Architecture::Vgg16Narrow,
        spec: Some(&spec),
        labels: &[],
        throttle: &throttle,
    };
    read_head_for(checkpoint, &options, policy)
}

/// So many Linears of 2048 x 2048, whose numbers are all the same one.
fn repeated(linears: usize) -> (Checkpoint, String) {
    let mut tensors = vec![("0.weight".to_owned(), vec![2048, FEATURES])];
    for index in 1..linears {
        tensors.push((format!("{index}.weight"), vec![2048, 2048]));
    }
    let layers = vec!["\"linear\""; linears].join(", ");
    (pickled::repeated(&tensors), format!("\"layers\": [{layers}]"))
}

#[test]
fn tensors_that_repeat_a_storage_have_a_limit_together() {
    let (one, keys) = repeated(1);
    assert_eq!(read(&one, &keys, HeadPolicy::default()).unwrap().rows, 2048);
    let (many, keys) = repeated(20);
    let error = read(&many, &keys, HeadPolicy::default()).unwrap_err();
    assert!(
        matches!(error, HeadFileError::TooLarge { elements, bytes, elements_max }
            if elements > elements_max && elements_max == 4 * bytes + (4 << 20)),
        "{error}"
    );
    assert!(error.to_string().contains("save dense, contiguous tensors"), "{error}");
}

#[test]
fn a_head_has_a_limit_of_modules() {
    let mut file = File::new();
    for index in 0..257 {
        file = file.with(&format!("{index}.weight"), &[CHANNELS, CHANNELS]);
    }
    let error = file.read(None).unwrap_err().to_string();
    assert!(error.contains("the head has 257 layers; the limit is 256"), "{error}");
}

#[test]
fn the_rows_are_counted_before_any_tensor_is_read() {
    let mut file = File::new().linear("classifier.6", 3, FEATURES);
    file.tensors[0].2.fill(f32::NAN);
    let policy = |rows_max| HeadPolicy {
        rows_max,
        is_dropped: None,
    };
    let error = read(&file.checkpoint(), "", policy(2)).unwrap_err().to_string();
    assert_eq!(error, "its last Linear has 3 outputs; 1 to 2 are accepted");
    let error = read(&file.checkpoint(), "", policy(3)).unwrap_err().to_string();
    assert!(error.contains("NaN"), "{error}");
}

#[test]
fn what_the_receiver_has_is_dropped_as_soon_as_it_is_read() {
    let file = File::vgg16(3);
    let all = read(&file.checkpoint(), "", HeadPolicy::default()).unwrap().parameters;
    let seen = RefCell::new(Vec::new());
    let is_dropped = |name: &str, digest: &Digest| {
        assert_eq!(*digest, all[name].digest());
        seen.borrow_mut().push(name.to_owned());
        name.starts_with("features.") && name != "features.28.bias"
    };
    let policy = HeadPolicy {
        is_dropped: Some(&is_dropped),
        ..HeadPolicy::default()
    };
    let kept = read(&file.checkpoint(), "", policy).unwrap().parameters;
    let mut names = seen.take();
    names.sort_unstable();
    assert!(names.iter().eq(all.keys()));
    let expected = [
        "classifier.0.bias",
        "classifier.0.weight",
        "classifier.3.bias",
        "classifier.3.weight",
        "classifier.6.bias",
        "classifier.6.weight",
        "features.28.bias",
    ];
    assert!(kept.keys().eq(expected), "{:?}", kept.keys());
}
