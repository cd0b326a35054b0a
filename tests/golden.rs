//! Logits equal those that torchvision computed of the demo weights, which `scripts/parity/logits.py` generated in numpy.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;

use clap::ValueEnum as _;
use headswap::image::{ImageLimits, Pixels, decode};
use headswap::model::{
    Architecture, Backbone, DeviceChoice, HeadRows, Precision, TorchSettings, WeightsSource, top_k, torch_network,
};
use serde::Deserialize;

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
fn pixels(picture: &str) -> Pixels {
    let value: fn(usize) -> usize = match picture {
        "31mod251.png" => |index| index * 31 % 251,
        "7919mod256.png" => |index| index * 7919 % 256,
        photograph => {
            let file = std::fs::read(format!("images/{photograph}")).unwrap();
            return decode(&file, ImageLimits::default()).unwrap();
        }
    };
    let row = |y: usize| (0..224 * 3).map(move |x| value((y * 256 + 16) * 3 + x) as u8);
    Pixels::from_bytes(&(16..240).flat_map(row).collect::<Vec<u8>>()).unwrap()
}

fn check(arch: &str) {
    let golden = std::fs::read_to_string("tests/fixtures/golden_logits.json").unwrap();
    let golden: Vec<Golden> = serde_json::from_str(&golden).unwrap();
    let golden: Vec<Golden> = golden.into_iter().filter(|golden| golden.arch == arch).collect();
    assert_eq!(golden.len(), 6);

    let mut backbone = Backbone::load(&WeightsSource::Demo, Architecture::from_str(arch, true).unwrap()).unwrap();
    let last = backbone.take_last_linear();
    let settings = TorchSettings {
        device: DeviceChoice::Cpu,
        precision: Precision::F32,
        threads: 0,
    };
    let mut network = torch_network(backbone, settings).unwrap();
    let head = network.placer().place(Arc::new(last)).unwrap();
    for golden in golden {
        let groups = [HeadRows {
            head: &head,
            rows: vec![0],
        }];
        let outputs = network
            .forward(pixels(&golden.picture).as_bytes(), 1, &groups, false)
            .unwrap();
        let logits = &outputs.logits[0];
        let top5: Vec<usize> = top_k(logits, 5).iter().map(|prediction| prediction.index).collect();
        assert_eq!(top5, golden.top5, "{}", golden.picture);
        // A photograph's pixels may differ by a rounding of the resizing; the synthetic pictures are not resized.
        let tolerance = if golden.picture.contains("mod") { 1e-4 } else { 1e-2 };
        for (got, want) in logits.iter().step_by(50).zip(&golden.every_50th) {
            assert!(
                (got - want).abs() <= tolerance * golden.scale,
                "{}: {got} {want}",
                golden.picture
            );
        }
    }
}

#[test]
fn narrow_logits_equal_torchvisions() {
    check("vgg16-narrow");
}

#[test]
fn full_logits_equal_torchvisions() {
    check("vgg16");
}
