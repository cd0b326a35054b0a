//! The narrow VGG16 (2 to 16 channels, 128 features) from pixels to logits against a reference implementation.
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

fn computed(pixels: &[u8], precision: Precision, engine: &mut Engine) -> Vec<f32> {
    let (mut maps, mut next) = (Maps::default(), Maps::default());
    Normalisation::new(224, MEAN, STD).apply(pixels, &mut maps, engine);
    for Layer { weight, bias, pool } in convs() {
        let conv = PackedConv::new(&weight, bias.len(), precision);
        conv.forward(&maps, &Bias::new(&bias), pool, &mut next, engine);
        std::mem::swap(&mut maps, &mut next);
    }
    let (mut rows, mut results) = (Vec::new(), Vec::new());
    maps.flatten(&mut rows);
    for (i, Layer { weight, bias, .. }) in linears().into_iter().enumerate() {
        let linear = PackedLinear::new(&weight, bias.len(), precision);
        linear.forward(&rows, &Bias::new(&bias), i < 2, &mut results, engine);
        std::mem::swap(&mut rows, &mut results);
    }
    rows
}

fn pixels(count: usize) -> Vec<u8> {
    let numbers = numbers(9, count * 50176 * 3, 128.0);
    numbers.iter().map(|x| (x + 128.0) as u8).collect()
}

#[test]
fn logits_are_right() {
    let count = 2;
    let pixels = pixels(count);
    let expected = expected(&pixels, count);
    for isa in Isa::all() {
        for (precision, bound) in [(Precision::Float, 1e-5), (Precision::Integer, 2e-3)] {
            let error = relative_error(&computed(&pixels, precision, &mut Engine::with_isa(2, isa)), &expected);
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

/// The numbers of threads to compare with one.
const THREADS: [usize; 4] = [2, 3, 5, 8];

#[test]
fn logits_have_the_same_bits_by_any_number_of_threads() {
    let pixels = pixels(1);
    for isa in Isa::all() {
        for precision in [Precision::Float, Precision::Integer] {
            let expected = computed(&pixels, precision, &mut Engine::with_isa(1, isa));
            assert!(expected.iter().any(|&logit| logit != 0.0));
            for threads in THREADS {
                let got = computed(&pixels, precision, &mut Engine::with_isa(threads, isa));
                assert_eq!(bits(&got), bits(&expected), "{precision:?}, {isa:?}, {threads} threads");
            }
        }
    }
}

/// Filters so large that all threads share each step, unlike the narrow network's, and a direct convolution, whose
/// pooling is a separate step.
#[test]
fn large_layers_have_the_same_bits_by_any_number_of_threads() {
    let shape = [2, 256, 10, 10];
    let maps = Maps::from_planes(&numbers(1, shape.iter().product(), 1.0), shape);
    let bias = Bias::new(&numbers(3, 512, 0.5));
    let weight = numbers(2, 512 * 256 * 9, 0.1);
    let (rows, last) = (numbers(4, 3 * 800, 1.0), numbers(5, 500 * 800, 0.1));
    let last_bias = Bias::new(&numbers(6, 500, 0.5));
    for precision in [Precision::Float, Precision::Integer] {
        let convs = [
            PackedConv::new(&weight, 512, precision),
            PackedConv::direct(&weight[..64 * 256 * 9], 64),
        ];
        let narrow_bias = Bias::new(&numbers(3, 64, 0.5));
        let linear = PackedLinear::new(&last, 500, precision);
        for isa in Isa::all() {
            let run = |threads: usize| {
                let mut engine = Engine::with_isa(threads, isa);
                let (mut output, mut results) = (Maps::default(), Vec::new());
                linear.forward(&rows, &last_bias, true, &mut results, &mut engine);
                for (conv, bias) in convs.iter().zip([&bias, &narrow_bias]) {
                    for pool in [false, true] {
                        conv.forward(&maps, bias, pool, &mut output, &mut engine);
                        output.flatten(&mut results);
                    }
                }
                bits(&results)
            };
            let expected = run(1);
            for threads in THREADS {
                assert!(run(threads) == expected, "{precision:?}, {isa:?}, {threads} threads");
            }
        }
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}
