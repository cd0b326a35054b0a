//! The narrow VGG16 (2 to 16 channels, 128 features) from pixels to logits against a plain reference.
#![allow(missing_docs)]

mod common;

use common::{numbers, relative_error};
use winograd::{Bias, Engine, Isa, Maps, Normalisation, PackedConv, PackedLinear, Precision};

const CHANNELS: [usize; 18] = [2, 2, 0, 4, 4, 0, 8, 8, 8, 0, 16, 16, 16, 0, 16, 16, 16, 0];
const LINEARS: [(usize, usize); 3] = [(784, 128), (128, 128), (128, 10)];

struct Layer {
    weight: Vec<f32>,
    bias: Vec<f32>,
    pool: bool,
}

fn layer(seed: usize, fan_in: usize, outputs: usize, pool: bool) -> Layer {
    Layer {
        weight: numbers(seed as u64 + 1, outputs * fan_in, (6.0 / fan_in as f32).sqrt()),
        bias: numbers(seed as u64 + 101, outputs, 0.05),
        pool,
    }
}

fn convs() -> Vec<Layer> {
    let mut inputs = 3;
    let mut layers = Vec::new();
    for (i, &outputs) in CHANNELS.iter().enumerate().filter(|(_, outputs)| **outputs > 0) {
        layers.push(layer(i, inputs * 9, outputs, CHANNELS[i + 1] == 0));
        inputs = outputs;
    }
    layers
}

fn linears() -> Vec<Layer> {
    LINEARS.iter().map(|&(i, o)| layer(i + o, i, o, false)).collect()
}

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// By the definition of torchvision's transforms.
fn normalised(pixels: &[u8], count: usize) -> Vec<f32> {
    let (mean, std) = (MEAN, STD);
    let value = |i: usize| {
        let (image, colour, place) = (i / (3 * 50176), i / 50176 % 3, i % 50176);
        (f32::from(pixels[(image * 50176 + place) * 3 + colour]) / 255.0 - mean[colour]) / std[colour]
    };
    (0..count * 3 * 50176).map(value).collect()
}

fn expected(pixels: &[u8], count: usize) -> Vec<f32> {
    let (mut x, mut side, mut channels) = (normalised(pixels, count), 224, 3);
    for Layer { weight, bias, pool } in convs() {
        x = common::conv(&x, [count, channels, side, side], &weight, &bias, pool);
        channels = bias.len();
        side /= if pool { 2 } else { 1 };
    }
    for (i, Layer { weight, bias, .. }) in linears().into_iter().enumerate() {
        x = common::linear(&x, &weight, &bias, i < 2);
    }
    x
}

fn computed(pixels: &[u8], precision: Precision, isa: Isa) -> Vec<f32> {
    let mut engine = Engine::with_isa(2, isa);
    let (mut maps, mut next) = (Maps::default(), Maps::default());
    Normalisation::new(224, MEAN, STD).apply(pixels, &mut maps, &mut engine);
    for Layer { weight, bias, pool } in convs() {
        let conv = PackedConv::new(&weight, bias.len(), precision);
        conv.forward(&maps, &Bias::new(&bias), pool, &mut next, &mut engine);
        std::mem::swap(&mut maps, &mut next);
    }
    let (mut rows, mut results) = (Vec::new(), Vec::new());
    maps.flatten(&mut rows);
    for (i, Layer { weight, bias, .. }) in linears().into_iter().enumerate() {
        let linear = PackedLinear::new(&weight, bias.len(), precision);
        linear.forward(&rows, &Bias::new(&bias), i < 2, &mut results, &mut engine);
        std::mem::swap(&mut rows, &mut results);
    }
    rows
}

#[test]
fn logits_are_right() {
    let count = 2;
    let pixels: Vec<u8> = numbers(9, count * 50176 * 3, 128.0)
        .iter()
        .map(|x| (x + 128.0) as u8)
        .collect();
    let expected = expected(&pixels, count);
    for isa in Isa::all() {
        for (precision, bound) in [(Precision::Float, 1e-5), (Precision::Integer, 2e-3)] {
            let error = relative_error(&computed(&pixels, precision, isa), &expected);
            assert!(error < bound, "{precision:?}, {isa:?}: {error:e}");
        }
    }
}

#[test]
fn normalisation_is_exact() {
    let pixels: Vec<u8> = (0..50176 * 3).map(|i| (i * 31 % 256) as u8).collect();
    let (mut maps, mut rows) = (Maps::default(), Vec::new());
    Normalisation::new(224, MEAN, STD).apply(&pixels, &mut maps, &mut Engine::new(2));
    maps.flatten(&mut rows);
    assert_eq!(rows, normalised(&pixels, 1));
}
