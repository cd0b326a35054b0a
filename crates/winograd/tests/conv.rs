//! Convolutions against a reference implementation, in all instruction sets of this CPU.
#![allow(missing_docs)]

mod common;

use common::{numbers, relative_error};
use winograd::{Bias, Engine, Isa, Maps, PackedConv, Precision};

struct Case {
    shape: [usize; 4],
    outputs: usize,
    pool: bool,
}

fn case(shape: [usize; 4], outputs: usize, pool: bool) -> Case {
    Case { shape, outputs, pool }
}

/// How a convolution is packed, and how far its results may be off.
#[derive(Clone, Copy, Debug)]
enum Packing {
    Float,
    Integer,
    Direct,
}

const PACKINGS: [Packing; 3] = [Packing::Float, Packing::Integer, Packing::Direct];

impl Packing {
    fn pack(self, weight: &[f32], outputs: usize) -> PackedConv {
        match self {
            Self::Float => PackedConv::new(weight, outputs, Precision::Float),
            Self::Integer => PackedConv::new(weight, outputs, Precision::Integer),
            Self::Direct => PackedConv::direct(weight, outputs),
        }
    }

    fn bound(self) -> f64 {
        match self {
            Self::Float | Self::Direct => 2e-6,
            Self::Integer => 1e-3,
        }
    }
}

fn check(case: &Case, packing: Packing, isa: Isa, threads: usize) {
    let Case { shape, outputs, pool } = *case;
    let inputs = shape[1];
    let x: Vec<f32> = numbers(1, shape.iter().product(), 1.0);
    let weight = numbers(2, outputs * inputs * 9, 1.0);
    let bias = numbers(3, outputs, 0.5);
    let conv = packing.pack(&weight, outputs);
    let mut engine = Engine::with_isa(threads, isa);
    let mut output = Maps::default();
    conv.forward(
        &Maps::from_planes(&x, shape),
        &Bias::new(&bias),
        pool,
        &mut output,
        &mut engine,
    );
    let mut rows = Vec::new();
    output.flatten(&mut rows);
    let error = relative_error(&rows, &common::conv(&x, shape, &weight, &bias, pool));
    assert!(
        error < packing.bound(),
        "{shape:?} -> {outputs}, pool {pool}, {packing:?}, {isa:?}, {threads} threads: {error:e}"
    );
}

#[test]
fn convolutions_are_right() {
    let cases = [
        case([1, 16, 4, 4], 16, false),
        case([2, 16, 8, 8], 32, true),
        case([1, 2, 7, 5], 2, false),
        case([3, 4, 14, 14], 8, true),
        case([2, 33, 5, 9], 49, true),
        case([1, 64, 28, 28], 64, true),
        case([1, 3, 9, 30], 64, false),
        case([2, 3, 10, 6], 48, true),
        case([2, 3, 5, 7], 2, false),
        case([1, 16, 1, 1], 17, false),
    ];
    for isa in Isa::all() {
        for case in &cases {
            for threads in [1, 3] {
                PACKINGS.iter().for_each(|&packing| check(case, packing, isa, threads));
            }
        }
    }
}

fn forward(conv: &PackedConv, bias: &[f32], maps: &Maps, engine: &mut Engine) -> Vec<f32> {
    let (mut output, mut rows) = (Maps::default(), Vec::new());
    conv.forward(maps, &Bias::new(bias), false, &mut output, engine);
    output.flatten(&mut rows);
    rows
}

#[test]
fn an_image_is_the_same_in_every_batch() {
    // In blocks, and in stages of several images.
    for (inputs, outputs, side) in [(16, 32, 9), (256, 512, 14)] {
        let (weight, bias) = (numbers(2, outputs * inputs * 9, 0.1), numbers(3, outputs, 0.5));
        let shape = [9, inputs, side, side];
        let maps = Maps::from_planes(&numbers(1, shape.iter().product(), 1.0), shape);
        for packing in PACKINGS {
            let conv = packing.pack(&weight, outputs);
            let mut engine = Engine::new(2);
            let all = forward(&conv, &bias, &maps, &mut engine);
            let len = outputs * side * side;
            for image in [0, 4, 8] {
                let alone = forward(&conv, &bias, &maps.select_rows(&[image]), &mut engine);
                assert!(
                    alone == all[image * len..][..len],
                    "{inputs} -> {outputs}, {packing:?}, image {image}"
                );
            }
        }
    }
}

#[test]
fn images_written_one_by_one_are_those_of_the_batch() {
    let (weight, bias) = (numbers(2, 32 * 16 * 9, 0.1), Bias::new(&numbers(3, 32, 0.5)));
    let shape = [3, 16, 9, 9];
    let maps = Maps::from_planes(&numbers(1, shape.iter().product(), 1.0), shape);
    for packing in PACKINGS {
        let (first, second) = (
            packing.pack(&weight, 32),
            packing.pack(&numbers(4, 16 * 32 * 9, 0.1), 16),
        );
        let second_bias = Bias::new(&[0.1; 16]);
        for pool in [false, true] {
            let mut engine = Engine::new(2);
            // Filled with larger maps first, so that no border is zero by chance.
            let mut joint = Maps::from_planes(&[1.0; 3 * 32 * 20 * 20], [3, 32, 20, 20]);
            first.shape_output(3, &maps, pool, &mut joint);
            for place in [2, 0, 1] {
                first.forward_at(
                    &maps.select_rows(&[place]),
                    &bias,
                    pool,
                    (&mut joint, place),
                    &mut engine,
                );
            }
            let mut batch = Maps::default();
            first.forward(&maps, &bias, pool, &mut batch, &mut engine);
            // The next layer sees the border, too.
            let rows = [joint, batch].map(|maps| {
                let (mut output, mut rows) = (Maps::default(), Vec::new());
                second.forward(&maps, &second_bias, false, &mut output, &mut engine);
                output.flatten(&mut rows);
                rows
            });
            assert!(rows[0] == rows[1], "{packing:?}, pool {pool}");
        }
    }
}

#[test]
fn what_is_not_finite_reaches_the_result() {
    let mut x = numbers(1, 16 * 64, 1.0);
    let (weight, bias) = (numbers(2, 16 * 16 * 9, 1.0), Bias::new(&[0.0; 16]));
    for isa in Isa::all() {
        for packing in PACKINGS {
            for bad in [f32::NAN, f32::INFINITY] {
                x[5] = bad;
                let conv = packing.pack(&weight, 16);
                let maps = Maps::from_planes(&x, [1, 16, 8, 8]);
                for pool in [false, true] {
                    let (mut output, mut rows) = (Maps::default(), Vec::new());
                    conv.forward(&maps, &bias, pool, &mut output, &mut Engine::with_isa(1, isa));
                    output.flatten(&mut rows);
                    assert!(
                        rows.iter().any(|value| !value.is_finite()),
                        "{bad}, {packing:?}, pool {pool}, {isa:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn integer_sums_do_not_overflow() {
    // Parallel rows and filters reach the Cauchy–Schwarz bound: 512 equal numbers in each.
    let shape = [1, 512, 12, 12];
    let (x, weight) = (vec![3.0; 512 * 144], vec![2.0; 512 * 16 * 9]);
    let expected = common::conv(&x, shape, &weight, &[0.0; 16], false);
    for isa in Isa::all() {
        let conv = PackedConv::new(&weight, 16, Precision::Integer);
        let rows = forward(
            &conv,
            &[0.0; 16],
            &Maps::from_planes(&x, shape),
            &mut Engine::with_isa(2, isa),
        );
        assert!(relative_error(&rows, &expected) < 1e-3, "{isa:?}");
    }
}

#[test]
fn tables_are_reused_between_layers_of_any_size() {
    let mut engine = Engine::new(2);
    let mut output = Maps::default();
    for (inputs, outputs, side) in [(64, 64, 20), (16, 128, 9), (256, 512, 6), (32, 16, 33)] {
        let (weight, bias) = (numbers(2, outputs * inputs * 9, 0.1), numbers(3, outputs, 0.5));
        let shape = [2, inputs, side, side];
        let x = numbers(1, shape.iter().product(), 1.0);
        let expected = common::conv(&x, shape, &weight, &bias, true);
        for packing in PACKINGS {
            let conv = packing.pack(&weight, outputs);
            conv.forward(
                &Maps::from_planes(&x, shape),
                &Bias::new(&bias),
                true,
                &mut output,
                &mut engine,
            );
            let mut rows = Vec::new();
            output.flatten(&mut rows);
            assert!(relative_error(&rows, &expected) < packing.bound());
        }
    }
}

#[test]
fn large_filters_go_by_stages() {
    for isa in Isa::all().into_iter().filter(|isa| !matches!(isa, Isa::Portable)) {
        for packing in [Packing::Float, Packing::Integer] {
            check(&case([2, 256, 14, 14], 512, true), packing, isa, 2);
        }
    }
}

#[test]
fn a_direct_convolution_is_as_large_as_its_weight() {
    let weight = numbers(1, 64 * 128 * 9, 1.0);
    assert_eq!(PackedConv::direct(&weight, 64).bytes(), weight.len() * 4);
}

#[test]
fn integers_are_multiplied_alike_with_vnni_and_without() {
    let (weight, shape) = (numbers(2, 48 * 40 * 9, 0.1), [2, 40, 9, 9]);
    let maps = Maps::from_planes(&numbers(1, shape.iter().product(), 1.0), shape);
    let conv = PackedConv::new(&weight, 48, Precision::Integer);
    let of_avx512 = |isa: &Isa| format!("{isa:?}").starts_with("avx512");
    let mut all = Isa::all().into_iter().filter(of_avx512);
    let results = |isa| forward(&conv, &[0.1; 48], &maps, &mut Engine::with_isa(2, isa));
    if let (Some(vnni), Some(plain)) = (all.next(), all.next()) {
        assert!(results(vnni) == results(plain));
    }
}

#[test]
fn subnormal_weights_change_nothing() {
    let shape = [1, 16, 8, 8];
    let x = numbers(1, shape.iter().product(), 1.0);
    let mut weight = numbers(2, 16 * 16 * 9, 1.0);
    weight.iter_mut().step_by(3).for_each(|weight| *weight = 1e-39);
    // A filter of subnormal weights only.
    weight[..16 * 9].fill(-1e-40);
    let expected = common::conv(&x, shape, &weight, &[0.1; 16], false);
    for isa in Isa::all() {
        for packing in PACKINGS {
            let conv = packing.pack(&weight, 16);
            let maps = Maps::from_planes(&x, shape);
            let rows = forward(&conv, &[0.1; 16], &maps, &mut Engine::with_isa(1, isa));
            assert!(
                relative_error(&rows, &expected) < packing.bound(),
                "{packing:?}, {isa:?}"
            );
        }
    }
}
