//! Linears against a reference implementation, in all instruction sets of this CPU.
#![allow(missing_docs)]

mod common;

use common::{numbers, relative_error};
use winograd::{Bias, Engine, Isa, PackedLinear, Precision};

fn check(rows: usize, (inputs, outputs): (usize, usize), relu: bool, precision: Precision, isa: Isa) {
    let x = numbers(1, rows * inputs, 1.0);
    let (weight, bias) = (numbers(2, outputs * inputs, 1.0), numbers(3, outputs, 0.5));
    let linear = PackedLinear::new(&weight, outputs, precision);
    let mut got = Vec::new();
    linear.forward(&x, &Bias::new(&bias), relu, &mut got, &mut Engine::with_isa(2, isa));
    let error = relative_error(&got, &common::linear(&x, &weight, &bias, relu));
    let bound = match precision {
        Precision::Float => 2e-6,
        Precision::Integer => 1e-4,
    };
    assert!(
        error < bound,
        "{rows} x {inputs} -> {outputs}, {precision:?}, {isa:?}: {error:e}"
    );
}

#[test]
fn linears_are_right() {
    for isa in Isa::all() {
        for precision in [Precision::Float, Precision::Integer] {
            check(1, (784, 128), true, precision, isa);
            check(3, (100, 1000), false, precision, isa);
            check(33, (16, 17), true, precision, isa);
            check(2, (7, 1), false, precision, isa);
            check(15, (4096, 40), false, precision, isa);
        }
    }
}

#[test]
fn a_row_is_the_same_in_every_batch() {
    let (inputs, outputs) = (300, 50);
    let x = numbers(1, 40 * inputs, 1.0);
    let (weight, bias) = (numbers(2, outputs * inputs, 1.0), Bias::new(&numbers(3, outputs, 0.5)));
    for isa in Isa::all() {
        for precision in [Precision::Float, Precision::Integer] {
            let linear = PackedLinear::new(&weight, outputs, precision);
            let mut engine = Engine::with_isa(3, isa);
            let (mut alone, mut together) = (Vec::new(), Vec::new());
            linear.forward(&x[..inputs], &bias, true, &mut alone, &mut engine);
            for rows in 1..=40 {
                // The row comes last, so that it takes every place in a group.
                let mut batch = x[inputs..][..(rows - 1) * inputs].to_vec();
                batch.extend(&x[..inputs]);
                linear.forward(&batch, &bias, true, &mut together, &mut engine);
                assert_eq!(
                    together[(rows - 1) * outputs..],
                    alone[..],
                    "{rows} rows, {precision:?}, {isa:?}"
                );
            }
        }
    }
}

#[test]
fn subnormal_weights_change_nothing() {
    let x = numbers(1, 2 * 100, 1.0);
    let mut weight = numbers(2, 20 * 100, 1.0);
    weight.iter_mut().step_by(3).for_each(|weight| *weight = 1e-39);
    // A row of subnormal weights only.
    weight[..100].fill(-1e-40);
    let expected = common::linear(&x, &weight, &[0.1; 20], false);
    for (precision, bound) in [(Precision::Float, 2e-6), (Precision::Integer, 1e-4)] {
        let linear = PackedLinear::new(&weight, 20, precision);
        let mut got = Vec::new();
        linear.forward(&x, &Bias::new(&[0.1; 20]), false, &mut got, &mut Engine::new(1));
        assert!(relative_error(&got, &expected) < bound, "{precision:?}");
    }
}

#[test]
fn no_rows_give_no_results() {
    let linear = PackedLinear::new(&[1.0; 32], 2, Precision::Float);
    let mut got = vec![1.0];
    linear.forward(&[], &Bias::new(&[0.0; 2]), false, &mut got, &mut Engine::new(2));
    assert!(got.is_empty());
}
