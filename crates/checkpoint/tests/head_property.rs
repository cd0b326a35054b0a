//! The digest of a head does not depend on the names of its modules, only on their order.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;

use head_fixture::{File, MAP, spec};
use headswap_checkpoint::{
    Checkpoint, Digest, HeadFileError, HeadOptions, NormalHead, Throttle, inspect_head, read_head, write_head,
};
use headswap_spec::Architecture;
use proptest::prelude::*;

/// A stack with a batch norm, under names that are replaced: the convolutions' parts first, then the head's.
fn file(names: &[String]) -> File {
    let mut file = File::convolutions();
    let mut paths: Vec<String> = Vec::new();
    for (name, ..) in &file.tensors {
        let path = name.rsplit_once('.').unwrap().0.to_owned();
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    file = file.linear("c.1", 8, MAP).batch_norm("c.2", 8).linear("c.5", 3, 8);
    paths.extend(["c.1", "c.2", "c.5"].map(str::to_owned));
    file.renamed(|name| {
        let (path, leaf) = name.rsplit_once('.').unwrap();
        let place = paths.iter().position(|known| known == path).unwrap();
        format!("{}.{leaf}", names[place])
    })
}

fn digest(names: &[String]) -> Digest {
    let spec = spec(r#""layers": ["linear", "batch_norm", "relu", "linear"]"#);
    let head = file(names)
        .read(Some(&spec))
        .unwrap_or_else(|error| panic!("{names:?}: {error}"));
    Digest::of_parameters(&head.parameters, &head.labels)
}

/// Sixteen names in natural order: numbers that grow, with words around them.
fn names() -> impl Strategy<Value = Vec<String>> {
    let steps = prop::collection::vec(1u32..40, 16);
    let prefix = "([a-z_]{1,6}\\.){0,3}";
    (prefix, "[a-z]{1,4}", "[a-z]{1,4}", "[_a-z]{0,3}", steps, any::<bool>()).prop_map(
        |(prefix, body, head, suffix, steps, dotted)| {
            let mut number = 0;
            let mut names = Vec::new();
            for (index, step) in steps.into_iter().enumerate() {
                number += step;
                // The head's word sorts behind the body's.
                let word = if index < 13 {
                    format!("a{body}")
                } else {
                    format!("b{head}")
                };
                let separator = if dotted { "." } else { "" };
                names.push(format!("{prefix}{word}{separator}{number}{suffix}"));
            }
            names
        },
    )
}

/// Names as files have them, and shapes of the narrow architecture and others.
fn tensor() -> impl Strategy<Value = (String, Vec<usize>)> {
    let paths = prop::sample::select(vec![
        "",
        "fc",
        "features.0",
        "features.28",
        "classifier",
        "classifier.0",
        "classifier.3",
        "classifier.6",
        "classifier.6.1",
        "1.2",
        "1.4",
        "0.0.0",
        "module.x",
        "aux",
        "a.b.c",
        "conv1",
    ]);
    let leaves = prop::sample::select(vec![
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "weight_g",
        "weight_v",
        "weight_mask",
        "weight_orig",
        "bias_orig",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
        "extra",
    ]);
    let sizes = prop::sample::select(vec![0usize, 1, 2, 3, 7, 16, 32, 128]);
    let shape = prop_oneof![
        prop::collection::vec(sizes, 0..4),
        Just(vec![3, 784]),
        Just(vec![128, 784]),
        Just(vec![128, 128]),
        Just(vec![2, 3, 3, 3]),
        Just(vec![16, 16, 3, 3]),
        Just(vec![4, 16, 7, 7]),
    ];
    (paths, leaves, shape).prop_map(|(path, leaf, shape)| {
        let name = if path.is_empty() {
            leaf.to_owned()
        } else {
            format!("{path}.{leaf}")
        };
        (name, shape)
    })
}

fn read_bytes(bytes: Vec<u8>) -> Result<NormalHead, HeadFileError> {
    let checkpoint = Checkpoint::from_bytes(bytes.into()).unwrap();
    let throttle = Throttle::off();
    let options = HeadOptions {
        architecture: Architecture::Vgg16Narrow,
        spec: None,
        labels: &[],
        throttle: &throttle,
    };
    read_head(&checkpoint, &options)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_tensors_are_read_or_refused(
        whole in any::<bool>(),
        tensors in prop::collection::vec(tensor(), 0..10),
        keys in prop::sample::select(vec![
            "", r#""input": "features""#, r#""layers": ["linear"]"#, r#""layers": ["batch_norm", "linear", "affine"]"#,
            r#""input": "global_average", "layers": ["linear", "batch_norm", "relu", "linear"]"#, r#""input": "flatten""#,
        ]),
    ) {
        let mut file = if whole { File::vgg16(3) } else { File::new() };
        for (name, shape) in tensors {
            if file.tensors.iter().all(|(other, ..)| *other != name) {
                file = file.with(&name, &shape);
            }
        }
        if let Err(error) = inspect_head(&file.checkpoint(), None) {
            let message = error.to_string();
            prop_assert!(message.len() < 2000 && !message.contains(char::is_control), "{}", message);
        }
        let spec = spec(keys);
        if let Ok(head) = file.read(Some(&spec)) {
            for tensor in head.parameters.values() {
                prop_assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>());
                prop_assert!(tensor.values.iter().all(|value| value.is_finite()));
            }
            let mut bytes = Vec::new();
            write_head(&head, &spec, &mut bytes).unwrap();
            let again = read_bytes(bytes).unwrap();
            prop_assert_eq!((again.input, again.layers, again.rows), (head.input, head.layers, head.rows));
            prop_assert_eq!(again.parameters, head.parameters);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn renaming_in_natural_order_keeps_the_digest(names in names()) {
        let plain: Vec<String> = (0..16).map(|index| format!("x.{index}")).collect();
        prop_assert_eq!(digest(&names), digest(&plain));
    }
}
