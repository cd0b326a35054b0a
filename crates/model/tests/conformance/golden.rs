//! Logits equal those that torchvision computed of the demo weights, which `scripts/parity/logits.py` generated in numpy.

use headswap_image::{ImageSettings, Prepared, decode};
use headswap_model::{Answered, HeadRows, PlacedHead, demo_head_from};
use headswap_spec::{Architecture, Output};
use serde::Deserialize;

use super::{Case, open, place, rows, torchvision};
use crate::CASES;

/// At the repository's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[derive(Deserialize)]
struct Golden {
    arch: String,
    picture: String,
    /// The largest logit's magnitude.
    scale: f32,
    top5: Vec<usize>,
    every_50th: Vec<f32>,
}

/// The middle of a 256x256 picture whose bytes follow a formula, or a photograph.
fn pixels(picture: &str) -> Prepared {
    let value: fn(usize) -> usize = match picture {
        "31mod251.png" => |index| index * 31 % 251,
        "7919mod256.png" => |index| index * 7919 % 256,
        photograph => {
            let file = std::fs::read(format!("{ROOT}/images/{photograph}")).unwrap();
            let pixels = decode(&file, ImageSettings::default()).unwrap();
            return super::picture(pixels.as_bytes().to_vec());
        }
    };
    let row = |y: usize| (0..224 * 3).map(move |x| value((y * 256 + 16) * 3 + x) as u8);
    super::picture((16..240).flat_map(row).collect())
}

fn architecture(name: &str) -> Architecture {
    match name {
        "vgg16" => Architecture::Vgg16,
        _ => Architecture::Vgg16Narrow,
    }
}

fn check(arch: &str, case: Case) {
    let golden = std::fs::read_to_string(format!("{ROOT}/tests/fixtures/golden_logits.json")).unwrap();
    let golden: Vec<Golden> = serde_json::from_str(&golden).unwrap();
    let golden: Vec<Golden> = golden.into_iter().filter(|golden| golden.arch == arch).collect();
    assert_eq!(golden.len(), 6);

    let (mut network, last) = open(architecture(arch), case, 0);
    let (head, torchvision) = (place(&*network, &last), torchvision());
    for golden in golden {
        let groups = [HeadRows {
            head: &head,
            rows: vec![0],
        }];
        let pictures = [pixels(&golden.picture)];
        let outputs = network.forward(&rows(&pictures, &torchvision), &groups, &[]).unwrap();
        let logits = &outputs.logits[0];
        let five = Answered {
            output: Output::Softmax,
            classes: logits.len(),
            is_binary: false,
            top_k: 5,
        };
        let predictions = five.predictions(logits);
        let top5: Vec<usize> = predictions.iter().map(|prediction| prediction.index).collect();
        assert_eq!(top5, golden.top5, "{}, {case:?}", golden.picture);
        // A photograph's pixels may differ by a rounding of the resizing; the synthetic pictures are not resized.
        let tolerance = if golden.picture.contains("mod") {
            case.tolerance
        } else {
            1e-2
        };
        for (got, want) in logits.iter().step_by(50).zip(&golden.every_50th) {
            assert!(
                (got - want).abs() <= tolerance * golden.scale,
                "{}: {got} {want}",
                golden.picture
            );
        }
    }
}

/// torchvision's logits for a head that overrides everything from a layer on.
#[derive(Deserialize)]
struct GoldenHead {
    arch: String,
    split: String,
    seed: u64,
    logits: Vec<f32>,
}

/// Each head alone, then all of them in one batch with every row asked of all.
fn check_heads(arch: &str, case: Case) {
    let golden = std::fs::read_to_string(format!("{ROOT}/tests/fixtures/golden_heads.json")).unwrap();
    let golden: Vec<GoldenHead> = serde_json::from_str(&golden).unwrap();
    let golden: Vec<GoldenHead> = golden.into_iter().filter(|golden| golden.arch == arch).collect();
    assert_eq!(golden.len(), 6);

    let architecture = architecture(arch);
    let mut network = open(architecture, case, 0).0;
    let place_golden = |golden: &GoldenHead| {
        let head = demo_head_from(architecture, &golden.split, 10, golden.seed);
        let placed = place(&*network, &head);
        if architecture == Architecture::Vgg16 {
            let bytes: usize = head.values().map(|tensor| tensor.bytes()).sum();
            assert_eq!(placed.device_bytes, bytes, "{}", golden.split);
        }
        placed
    };
    let heads: Vec<PlacedHead> = golden.iter().map(place_golden).collect();
    let near = |got: &[f32], golden: &GoldenHead| {
        let scale = golden
            .logits
            .iter()
            .fold(0f32, |largest, logit| largest.max(logit.abs()));
        for (got, want) in got.iter().zip(&golden.logits) {
            let near = (got - want).abs() <= case.tolerance * scale;
            assert!(near, "{}, {case:?}: {got} {want}", golden.split);
        }
    };
    let torchvision = torchvision();
    let [picture, other] = ["31mod251.png", "7919mod256.png"].map(pixels);
    for (golden, head) in golden.iter().zip(&heads) {
        let groups = [HeadRows { head, rows: vec![0] }];
        let outputs = network
            .forward(&rows(std::slice::from_ref(&picture), &torchvision), &groups, &[])
            .unwrap();
        assert_eq!(outputs.logits[0].len(), 10);
        near(&outputs.logits[0], golden);
    }
    let batch = [picture.clone(), other, picture];
    let all = || vec![0, 1, 2];
    let groups: Vec<HeadRows<'_>> = heads.iter().map(|head| HeadRows { head, rows: all() }).collect();
    let outputs = network.forward(&rows(&batch, &torchvision), &groups, &[]).unwrap();
    for (golden, logits) in golden.iter().zip(&outputs.logits) {
        near(&logits[..10], golden);
        near(&logits[20..], golden);
    }
}

#[test]
fn narrow_heads_of_any_depth_equal_torchvisions() {
    for case in CASES {
        check_heads("vgg16-narrow", case);
    }
}

#[test]
fn full_heads_of_any_depth_equal_torchvisions() {
    for case in CASES {
        check_heads("vgg16", case);
    }
}

#[test]
fn narrow_logits_equal_torchvisions() {
    for case in CASES {
        check("vgg16-narrow", case);
    }
}

#[test]
fn full_logits_equal_torchvisions() {
    for case in CASES {
        check("vgg16", case);
    }
}
