//! Replaces subnormal weights, with which many CPUs multiply a hundred times slower, by 0.

/// Returns `value`, or 0 if it is subnormal (its magnitude is less than 1.2e-38).
pub fn flush_subnormal(value: f32) -> f32 {
    if value.is_subnormal() { 0.0 } else { value }
}

/// Returns the scale with which `largest` becomes `to`. It is never subnormal, so that smaller weights become 0.
pub(crate) fn scale_of(largest: f32, to: f32) -> f32 {
    (largest / to).max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use crate::bias::Bias;
    use crate::buffer::Buffer;
    use crate::conv::Precision;
    use crate::direct::Direct;
    use crate::filters::Filters;
    use crate::linear::{PackedLinear, Weights};

    /// Small numbers of each kind; if `large`, every fifth is large.
    fn weights(count: usize, large: bool) -> Vec<f32> {
        let small = [f32::from_bits(1), -1e-39, 1.1e-38, 2e-38, -3e-37, 1e-34, 0.0];
        let mut weights: Vec<f32> = (0..count).map(|at| small[at % small.len()]).collect();
        if large {
            weights.iter_mut().step_by(5).for_each(|weight| *weight = 0.5);
        }
        weights
    }

    fn has_none(numbers: &[f32]) -> bool {
        !numbers.iter().any(|number| number.is_subnormal())
    }

    #[test]
    fn no_packed_weight_is_subnormal() {
        for large in [false, true] {
            let weight = weights(32 * 16 * 9, large);
            assert!(has_none(&Bias::new(&weight)));
            assert!(has_none(Direct::new(&weight, 16).numbers()));
            for precision in [Precision::Float, Precision::Integer] {
                let scaled = |numbers: &Buffer<f32>| assert!(has_none(numbers), "{precision:?}, {large}");
                match Filters::new(&weight, 16, 2, precision) {
                    Filters::Float(numbers) | Filters::Integer { scales: numbers, .. } => scaled(&numbers),
                }
                match PackedLinear::new(&weight, 32, precision).weights() {
                    Weights::Float(numbers) | Weights::Integer { scales: numbers, .. } => scaled(numbers),
                }
            }
        }
    }
}
