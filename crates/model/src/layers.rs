//! Layers without parameters, on the CPU.

use headswap_spec::{GeluKind, HeadLayer};

/// PyTorch's smallest divisor of `normalize`.
const LENGTH_MIN: f32 = 1e-12;

/// Applies a layer to rows of `width` numbers each. A layer with parameters changes nothing.
pub fn apply_layer(layer: HeadLayer, rows: &mut [f32], width: usize) {
    match layer {
        HeadLayer::Linear | HeadLayer::BatchNorm(_) | HeadLayer::Affine => {}
        HeadLayer::Relu => each(rows, relu),
        HeadLayer::LeakyRelu(slope) => {
            let slope = slope.unwrap_or_default();
            each(rows, |x| if x < 0.0 { x * slope } else { x });
        }
        HeadLayer::Elu(alpha) => {
            let alpha = alpha.unwrap_or_default();
            each(rows, |x| if x < 0.0 { alpha * x.exp_m1() } else { x });
        }
        HeadLayer::Gelu(Some(GeluKind::Tanh)) => each(rows, gelu_by_tanh),
        HeadLayer::Gelu(_) => each(rows, gelu),
        HeadLayer::Silu => each(rows, |x| x * sigmoid(x)),
        HeadLayer::Tanh => each(rows, f32::tanh),
        HeadLayer::Sigmoid => each(rows, sigmoid),
        HeadLayer::L2Normalise => {
            for row in rows.chunks_exact_mut(width.max(1)) {
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(LENGTH_MIN);
                each(row, |x| x / length);
            }
        }
    }
}

/// Multiplies rows by a weight and adds a bias, number by number.
pub fn apply_affine(weight: &[f32], bias: &[f32], rows: &mut [f32]) {
    for row in rows.chunks_exact_mut(weight.len().max(1)) {
        for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
            *x = *x * weight + bias;
        }
    }
}

fn each(numbers: &mut [f32], function: impl Fn(f32) -> f32) {
    for number in numbers {
        *number = function(*number);
    }
}

/// NaN is kept.
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

fn gelu_by_tanh(x: f32) -> f32 {
    const ROOT: f32 = 0.797_884_6; // √(2/π)
    0.5 * x * (1.0 + (ROOT * (x + 0.044_715 * x * x * x)).tanh())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `torch.tensor([-2., 0., 1.5])`, to PyTorch's digits.
    fn check(layer: HeadLayer, expected: [f32; 3]) {
        let mut rows = [-2.0, 0.0, 1.5];
        apply_layer(layer, &mut rows, 3);
        for (got, expected) in rows.into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{layer:?}: {got} {expected}");
        }
    }

    #[test]
    fn each_layer_is_pytorchs() {
        check(HeadLayer::Relu, [0.0, 0.0, 1.5]);
        check(HeadLayer::LeakyRelu(Some(0.01)), [-0.02, 0.0, 1.5]);
        check(HeadLayer::Elu(Some(1.0)), [-0.864_664_73, 0.0, 1.5]);
        check(
            HeadLayer::Gelu(Some(GeluKind::Exact)),
            [-0.045_500_26, 0.0, 1.399_789_2],
        );
        check(HeadLayer::Gelu(Some(GeluKind::Tanh)), [-0.045_402_3, 0.0, 1.399_571_5]);
        check(HeadLayer::Silu, [-0.238_405_85, 0.0, 1.226_361_7]);
        check(HeadLayer::Tanh, [-0.964_027_6, 0.0, 0.905_148_27]);
        check(HeadLayer::Sigmoid, [0.119_202_92, 0.5, 0.817_574_5]);
        check(HeadLayer::L2Normalise, [-0.8, 0.0, 0.6]);
    }

    #[test]
    fn an_affine_layer_is_by_channel() {
        let mut rows = [1.0, 2.0, 3.0, 4.0];
        apply_affine(&[2.0, -1.0], &[0.5, 0.0], &mut rows);
        assert_eq!(rows, [2.5, -2.0, 6.5, -4.0]);
    }

    #[test]
    fn zeros_have_no_length() {
        let mut rows = [0.0, 0.0];
        apply_layer(HeadLayer::L2Normalise, &mut rows, 2);
        assert_eq!(rows, [0.0, 0.0]);
    }
}
