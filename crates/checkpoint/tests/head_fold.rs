//! Batch norms, masks and norms are folded into weights as a direct computation in f64 gives them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;

use head_fixture::{CHANNELS, FEATURES, File, MAP, convolutions, refused, spec};
use headswap_checkpoint::NormalHead;
use headswap_spec::HeadLayer;

/// One layer of the network as the file has it: its name and kind.
enum Stored {
    Linear(&'static str),
    Norm(&'static str, f64),
    Affine(&'static str),
    Relu,
}

fn wide(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

fn linear(weight: &[f64], bias: &[f64], x: &[f64]) -> Vec<f64> {
    let rows = weight.chunks_exact(x.len()).zip(bias);
    rows.map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias)
        .collect()
}

fn relu(x: Vec<f64>) -> Vec<f64> {
    x.into_iter().map(|x| x.max(0.0)).collect()
}

/// Runs the layers of the file.
fn run_file(file: &File, layers: &[Stored], mut x: Vec<f64>) -> Vec<f64> {
    for layer in layers {
        x = match layer {
            Stored::Linear(path) => {
                let weight = wide(file.values(&format!("{path}.weight")));
                linear(&weight, &wide(file.values(&format!("{path}.bias"))), &x)
            }
            Stored::Norm(path, eps) => {
                let [weight, bias, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
                    .map(|leaf| wide(file.values(&format!("{path}.{leaf}"))));
                let normal = |i: usize| (x[i] - mean[i]) / (variance[i] + eps).sqrt() * weight[i] + bias[i];
                (0..x.len()).map(normal).collect()
            }
            Stored::Affine(path) => {
                let [weight, bias] = ["weight", "bias"].map(|leaf| wide(file.values(&format!("{path}.{leaf}"))));
                (0..x.len()).map(|i| x[i] * weight[i] + bias[i]).collect()
            }
            Stored::Relu => relu(x),
        };
    }
    x
}

/// Runs the normal form.
fn run_head(head: &NormalHead, mut x: Vec<f64>) -> Vec<f64> {
    for (index, layer) in head.layers.iter().enumerate() {
        let parameter = |leaf: &str| wide(head.parameters[&format!("head.{index}.{leaf}")].values.clone());
        x = match layer {
            Linear => linear(&parameter("weight"), &parameter("bias"), &x),
            Affine => {
                let scaled = x.iter().zip(parameter("weight")).zip(parameter("bias"));
                scaled.map(|((x, weight), bias)| x * weight + bias).collect()
            }
            Relu => relu(x),
            other => panic!("{other:?}"),
        };
    }
    x
}

/// Checks that the normal form of a head on the pooled map computes what the file says, and has these layers.
fn check(file: &File, keys: &str, stored: &[Stored], layers: &[HeadLayer]) {
    let keys = format!(r#""input": "global_average", "layers": {keys}"#);
    let head = file.read(Some(&spec(&keys))).unwrap();
    assert_eq!(head.layers, layers);
    let x: Vec<f64> = (0..CHANNELS).map(|channel| (channel as f64).sin()).collect();
    let (expected, got) = (run_file(file, stored, x.clone()), run_head(&head, x));
    for (expected, got) in expected.iter().zip(&got) {
        assert!((expected - got).abs() < 1e-5, "{expected} {got}");
    }
    assert_eq!(expected.len(), got.len());
}

use HeadLayer::{Affine, Linear, Relu};

#[test]
fn a_batch_norm_goes_into_the_linear_before_it() {
    let file = File::new()
        .linear("c.1", 6, CHANNELS)
        .batch_norm("c.2", 6)
        .linear("c.5", 3, 6)
        .batch_norm("c.6", 3);
    let stored = [
        Stored::Linear("c.1"),
        Stored::Norm("c.2", 0.001f32.into()),
        Stored::Relu,
        Stored::Linear("c.5"),
        Stored::Norm("c.6", 1e-5f32.into()),
    ];
    let keys = r#"["linear", {"batch_norm": 0.001}, "relu", "linear", "batch_norm"]"#;
    check(&file, keys, &stored, &[Linear, Relu, Linear]);
}

#[test]
fn a_batch_norm_goes_into_the_linear_after_it() {
    let file = File::new()
        .batch_norm("c.0", CHANNELS)
        .linear("c.1", 6, CHANNELS)
        .batch_norm("c.3", 6)
        .batch_norm("c.4", 6)
        .linear("c.5", 3, 6);
    let eps = 1e-5f32.into();
    let stored = [
        Stored::Norm("c.0", eps),
        Stored::Linear("c.1"),
        Stored::Relu,
        Stored::Norm("c.3", eps),
        Stored::Norm("c.4", eps),
        Stored::Linear("c.5"),
    ];
    let keys = r#"["batch_norm", "linear", "relu", "batch_norm", "batch_norm", "linear"]"#;
    check(&file, keys, &stored, &[Linear, Relu, Linear]);
}

#[test]
fn a_batch_norm_between_activations_becomes_an_affine() {
    let file = File::new()
        .batch_norm("c.0", CHANNELS)
        .linear("c.2", 6, CHANNELS)
        .batch_norm("c.4", 6)
        .linear("c.6", 3, 6);
    let eps = 1e-5f32.into();
    let stored = [
        Stored::Norm("c.0", eps),
        Stored::Relu,
        Stored::Linear("c.2"),
        Stored::Relu,
        Stored::Norm("c.4", eps),
        Stored::Relu,
        Stored::Linear("c.6"),
    ];
    let keys = r#"["batch_norm", "relu", "linear", "relu", "batch_norm", "relu", "linear"]"#;
    check(
        &file,
        keys,
        &stored,
        &[Affine, Relu, Linear, Relu, Affine, Relu, Linear],
    );
}

#[test]
fn an_affine_of_the_file_takes_the_batch_norms_beside_it() {
    let file = File::new()
        .batch_norm("c.0", CHANNELS)
        .with("c.1.weight", &[CHANNELS])
        .with("c.1.bias", &[CHANNELS])
        .batch_norm("c.2", CHANNELS)
        .linear("c.3", 3, CHANNELS);
    let eps = 1e-5f32.into();
    let stored = [
        Stored::Norm("c.0", eps),
        Stored::Affine("c.1"),
        Stored::Norm("c.2", eps),
        Stored::Linear("c.3"),
    ];
    let keys = r#"["batch_norm", "affine", "batch_norm", "linear"]"#;
    check(&file, keys, &stored, &[Affine, Linear]);
}

#[test]
fn batch_norms_of_convolutions_are_folded() {
    let mut file = File::new();
    for (position, (_, input, output)) in convolutions().into_iter().enumerate() {
        // vgg16_bn's own numbers differ, only the order counts.
        file = file
            .with(&format!("features.{}.weight", 3 * position), &[output, input, 3, 3])
            .with(&format!("features.{}.bias", 3 * position), &[output])
            .batch_norm(&format!("features.{}", 3 * position + 1), output);
    }
    let file = file
        .linear("classifier.0", FEATURES, MAP)
        .linear("classifier.3", FEATURES, FEATURES)
        .linear("classifier.6", 3, FEATURES);
    let head = file.read(None).unwrap();
    assert_eq!(head.parameters.len(), 32);
    assert_eq!(
        head.report.assumed,
        ["the convolutions' batch norms: eps 0.00001, PyTorch's default"]
    );
    let eps = 1e-5f64;
    for (position, (index, input, output)) in convolutions().into_iter().enumerate() {
        let stored = |at: usize, leaf: &str| wide(file.values(&format!("features.{}.{leaf}", 3 * position + at)));
        let (weight, bias) = (stored(0, "weight"), stored(0, "bias"));
        let [gamma, beta, mean, variance] =
            ["weight", "bias", "running_mean", "running_var"].map(|leaf| stored(1, leaf));
        let got = &head.parameters[&format!("features.{index}.weight")];
        assert_eq!(got.shape, [output, input, 3, 3]);
        for (element, got) in got.values.iter().enumerate() {
            let row = element / (input * 9);
            assert_eq!(
                *got,
                (weight[element] * (gamma[row] / (variance[row] + eps).sqrt())) as f32
            );
        }
        for (row, got) in head.parameters[&format!("features.{index}.bias")]
            .values
            .iter()
            .enumerate()
        {
            let scale = gamma[row] / (variance[row] + eps).sqrt();
            let expected = (bias[row] - mean[row]) * scale + beta[row];
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{got} {expected}");
        }
    }
}

#[test]
fn a_batch_norm_may_lack_its_weight_and_bias() {
    let file = File::new().linear("c.0", 3, CHANNELS).batch_norm("c.1", 3);
    let plain = file.clone().without("c.1.weight").without("c.1.bias");
    let ones = plain
        .clone()
        .with_values("c.1.weight", &[3], vec![1.0; 3])
        .with_values("c.1.bias", &[3], vec![0.0; 3]);
    let keys = spec(r#""input": "global_average", "layers": ["linear", "batch_norm"]"#);
    let [plain, ones] = [plain, ones].map(|file| file.read(Some(&keys)).unwrap().parameters);
    assert_eq!(plain, ones);
}

#[test]
fn a_batch_norm_that_overflows_is_refused_by_name() {
    let file = File::new()
        .linear("c.0", 3, CHANNELS)
        .batch_norm("c.1", 3)
        .without("c.1.running_var");
    let file = file.with_values("c.1.running_var", &[3], vec![1.0, -2.0, 1.0]);
    let keys = r#""input": "global_average", "layers": ["linear", "batch_norm"]"#;
    refused(&file, Some(keys), &["c.0.weight is not finite"]);
}

#[test]
fn a_missing_bias_is_zero_and_a_column_is_flattened() {
    let bare = File::new().with("fc.weight", &[3, FEATURES]);
    let head = bare.read(None).unwrap();
    assert_eq!(head.parameters["classifier.6.bias"].values, [0.0; 3]);
    for shape in [&[3, 1][..], &[1, 3]] {
        let column = bare.clone().with_values("fc.bias", shape, vec![1.0, 2.0, 3.0]);
        let head = column.read(None).unwrap();
        let bias = &head.parameters["classifier.6.bias"];
        assert_eq!((&bias.shape[..], &bias.values[..]), (&[3][..], &[1.0, 2.0, 3.0][..]));
    }
}

#[test]
fn masks_and_norms_are_folded() {
    let plain = File::new().linear("fc", 3, FEATURES);
    let weight = plain.values("fc.weight");
    let mask: Vec<f32> = (0..weight.len()).map(|index| (index % 3 != 0) as u8 as f32).collect();
    let pruned = plain
        .clone()
        .renamed(|name| name.replace("weight", "weight_orig"))
        .with_values("fc.weight_mask", &[3, FEATURES], mask.clone());
    let head = pruned.read(None).unwrap();
    let expected: Vec<f32> = weight.iter().zip(&mask).map(|(weight, mask)| weight * mask).collect();
    assert_eq!(head.parameters["classifier.6.weight"].values, expected);

    let lengths = [2.0f32, 0.5, 3.0];
    for (direction, length) in [
        ("weight_v", "weight_g"),
        ("parametrizations.weight.original1", "parametrizations.weight.original0"),
    ] {
        let normed = plain
            .clone()
            .renamed(|name| name.replace("weight", direction))
            .with_values(&format!("fc.{length}"), &[3, 1], lengths.to_vec());
        let head = normed.read(None).unwrap();
        let got = &head.parameters["classifier.6.weight"].values;
        for (row, (stored, got)) in weight.chunks(FEATURES).zip(got.chunks(FEATURES)).enumerate() {
            let norm = stored.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
            for (stored, got) in stored.iter().zip(got) {
                let expected = f64::from(*stored) * f64::from(lengths[row]) / norm;
                assert!((f64::from(*got) - expected).abs() < 1e-6);
            }
        }
    }
}
