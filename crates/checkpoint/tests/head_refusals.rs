//! Files that are not heads of VGG16 are refused by name, with what to do.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;

use head_fixture::{CHANNELS, FEATURES, File, MAP, refused};
use headswap_checkpoint::{HeadOptions, Throttle, read_head};
use headswap_spec::Architecture;

/// A VGG whose convolutions have so many outputs, with a classifier.
fn vgg(outputs: &[usize]) -> File {
    let mut file = File::new();
    let mut input = 3;
    for (index, &output) in outputs.iter().enumerate() {
        file = file.linear(&format!("features.{index}"), output, input);
        let last = file.tensors.len() - 2;
        let count = output * input * 9;
        file.tensors[last].1 = vec![output, input, 3, 3];
        file.tensors[last].2 = vec![0.5; count];
        input = output;
    }
    file.linear("classifier.6", 3, FEATURES)
}

#[test]
fn a_weight_norm_over_columns_is_refused() {
    for (outputs, shape) in [(3, &[1, FEATURES][..]), (FEATURES, &[1, FEATURES]), (3, &[])] {
        let file = File::new()
            .with("fc.weight_v", &[outputs, FEATURES])
            .with("fc.weight_g", shape)
            .with("fc.bias", &[outputs]);
        refused(
            &file,
            None,
            &["fc.weight_g belongs to a weight_norm whose `dim` is not 0; remove it"],
        );
    }
}

#[test]
fn other_networks_are_named() {
    refused(
        &vgg(&[2, 4, 8, 8, 16, 16, 16, 16]),
        None,
        &["vgg11, not VGG16", "fine-tune"],
    );
    refused(&vgg(&[2, 2, 4, 4, 8, 8, 16, 16, 16, 16]), None, &["vgg13, not VGG16"]);
    let vgg19 = [2, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16];
    refused(&vgg(&vgg19), None, &["vgg19, not VGG16"]);
    let resnet = File::new()
        .with("conv1.weight", &[64, 3, 7, 7])
        .with("layer1.0.conv1.weight", &[64, 64, 3, 3])
        .linear("fc", 3, 512);
    refused(&resnet, None, &["a ResNet, not VGG16"]);
    refused(&vgg(&[5, 7]), None, &["another network, of 2 convolutions"]);
    let alexnet = File::new()
        .with("features.0.weight", &[64, 3, 11, 11])
        .linear("c.1", 9, 9);
    refused(&alexnet, None, &["an AlexNet"]);
}

#[test]
fn a_file_without_a_linear_is_refused() {
    refused(
        &File::convolutions(),
        None,
        &["VGG16's convolutions and no Linear", "save the whole"],
    );
    refused(&File::new().with("x", &[3]), None, &["no Linear"]);
    refused(&File::new(), None, &["no Linear"]);
}

#[test]
fn the_architecture_is_checked() {
    let checkpoint = File::vgg16(3).checkpoint();
    let throttle = Throttle::off();
    let options = HeadOptions {
        architecture: Architecture::Vgg16,
        spec: None,
        labels: &[],
        throttle: &throttle,
    };
    let error = read_head(&checkpoint, &options).unwrap_err().to_string();
    assert!(error.contains("vgg16-narrow, and vgg16 is expected"), "{error}");
}

#[test]
fn several_networks_are_refused_with_their_prefixes() {
    let mut file = File::vgg16(3).renamed(|name| format!("teacher.{name}"));
    file.tensors
        .extend(File::vgg16(3).renamed(|name| format!("student.{name}")).tensors);
    refused(&file, None, &["`student` and `teacher`", "--tensors KEY"]);
    let mut file = File::vgg16(3);
    file.tensors
        .extend(File::vgg16(3).renamed(|name| format!("ema.{name}")).tensors);
    refused(&file, None, &["`ema` and no prefix", "--tensors KEY"]);
    let heads = File::convolutions()
        .linear("a.fc", 3, FEATURES)
        .linear("b.fc", 4, FEATURES);
    refused(
        &heads,
        None,
        &["several heads", "a.fc.weight [3, 128]", "b.fc.weight [4, 128]"],
    );
}

#[test]
fn a_head_around_a_whole_network_is_not_left_out() {
    let around = File::vgg16(10)
        .renamed(|name| format!("vgg.{name}"))
        .linear("fc", 3, MAP);
    refused(
        &around,
        None,
        &["several heads", "fc.weight [3, 784]", "vgg.classifier.0.weight"],
    );
    let beside = File::vgg16(10).linear("rotation", 4, FEATURES);
    let head = beside.read(None).unwrap();
    assert_eq!((head.rows, head.report.left_out.len()), (10, 2));
}

#[test]
fn a_tensor_within_the_network_must_have_a_place() {
    for name in [
        "features.0.extra",
        "features.31.table",
        "classifier.6.extra",
        "classifier.9.alpha",
    ] {
        refused(&File::vgg16(3).with(name, &[3]), None, &[name, "has no place"]);
    }
    let further = File::vgg16(3).with("features.30.weight", &[CHANNELS, CHANNELS, 3, 3]);
    refused(&further, None, &["features.30.weight [16, 16, 3, 3] has no place"]);
    let block = File::vgg16(3).with("attention.weight", &[CHANNELS, CHANNELS, 5, 5]);
    refused(&block, None, &["attention.weight [16, 16, 5, 5] has no place"]);
    // A Linear whose width is wrong is not another head.
    let wrong = File::convolutions().linear("a", 32, MAP).linear("b", 3, 31);
    refused(
        &wrong,
        None,
        &["a.weight [32, 784] returns 32", "b.weight [3, 31], takes 31"],
    );
}

/// A bias that belongs to a Linear, by its size, is not left out because its name has another prefix.
#[test]
fn a_bias_without_a_weight_is_not_left_out_of_a_head_that_lacks_one() {
    for (weight, bias) in [("weight", "classifier.6.bias"), ("classifier.6.weight", "bias")] {
        let file = File::new().with(weight, &[3, FEATURES]).with(bias, &[3]);
        refused(&file, None, &[&format!("{bias} [3] has no place")]);
        let other = File::new().with(weight, &[3, FEATURES]).with(bias, &[4]);
        assert_eq!(other.read(None).unwrap().report.left_out, [bias]);
    }
}

#[test]
fn altered_weights_are_named() {
    let check = |name: &str, shape: &[usize], part: &str| {
        refused(&File::new().with(name, shape), None, &[name, part]);
    };
    check("base_model.model.classifier.6.lora_A.weight", &[4, 128], "LoRA");
    check("classifier.6._packed_params._packed_params", &[1], "quantised");
    check("classifier.6.zero_point", &[], "quantised");
    check("classifier.6.weight_orig", &[3, FEATURES], "spectral_norm");
}

#[test]
fn a_transposed_weight_is_refused_with_the_line_that_turns_it() {
    let line = "`state[\"fc.weight\"] = state[\"fc.weight\"].T`";
    let with_bias = File::new().with("fc.weight", &[FEATURES, 3]).with("fc.bias", &[3]);
    refused(&with_bias, None, &["[128, 3]", "transposed?", line]);
    refused(
        &File::new().with("fc.weight", &[FEATURES, 3]),
        None,
        &["transposed?", line],
    );
    let second = File::new().with("a.weight", &[32, MAP]).with("b.weight", &[32, 3]);
    refused(&second, None, &["b.weight has shape [32, 3]", "transposed?"]);
}

#[test]
fn widths_that_do_not_follow_each_other_are_refused_with_both() {
    let file = File::convolutions()
        .linear("classifier.0", 32, MAP)
        .linear("classifier.3", 3, 31);
    refused(
        &file,
        Some(r#""layers": ["linear", "relu", "linear"]"#),
        &[
            "classifier.0.weight [32, 784] returns 32",
            "classifier.3.weight [3, 31], takes 31",
        ],
    );
    let norm = File::convolutions()
        .linear("classifier.0", 32, MAP)
        .batch_norm("classifier.1", 31)
        .linear("classifier.3", 3, 32);
    refused(
        &norm,
        Some(r#""layers": ["linear", "batch_norm", "relu", "linear"]"#),
        &["returns 32", "classifier.1.weight [31], takes 31"],
    );
}

#[test]
fn torchvisions_features_without_a_classifier_are_named() {
    let mut file = File::vgg16(10);
    for (name, _, values) in &mut file.tensors {
        if name.starts_with("classifier") {
            values.fill(f32::NAN);
        }
    }
    refused(&file, None, &["IMAGENET1K_FEATURES has no classifier"]);
    let mut diverged = File::vgg16(10);
    for (.., values) in &mut diverged.tensors {
        values.fill(f32::NAN);
    }
    refused(&diverged, None, &["holds NaN", "finite"]);
}
