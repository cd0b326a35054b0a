//! Reference implementations in f64, and numbers to test with.
#![allow(dead_code, reason = "each test file uses its part")]

/// max(conv(x) + bias, 0) with 3x3, stride 1, padding 1, then 2x2 max pooling if `pool`; `x` is N x C x H x W.
pub fn conv(x: &[f32], [n, c, h, w]: [usize; 4], weight: &[f32], bias: &[f32], pool: bool) -> Vec<f32> {
    let outputs = bias.len();
    let mut result = Vec::new();
    for image in 0..n {
        for o in 0..outputs {
            let plane: Vec<f64> = (0..h * w)
                .map(|at| {
                    let (y, x0) = (at / w, at % w);
                    let mut sum = f64::from(bias[o]);
                    for i in 0..c {
                        for k in 0..9 {
                            let (y, x0) = (y + k / 3, x0 + k % 3);
                            if (1..=h).contains(&y) && (1..=w).contains(&x0) {
                                let value = x[((image * c + i) * h + y - 1) * w + x0 - 1];
                                sum += f64::from(value) * f64::from(weight[(o * c + i) * 9 + k]);
                            }
                        }
                    }
                    sum.max(0.0)
                })
                .collect();
            if pool {
                for y in 0..h / 2 {
                    for x in 0..w / 2 {
                        let at = |dy: usize, dx: usize| plane[(2 * y + dy) * w + 2 * x + dx];
                        result.push(at(0, 0).max(at(0, 1)).max(at(1, 0)).max(at(1, 1)) as f32);
                    }
                }
            } else {
                result.extend(plane.iter().map(|&value| value as f32));
            }
        }
    }
    result
}

/// weight x + bias for each row, then max(_, 0) if `relu`.
pub fn linear(rows: &[f32], weight: &[f32], bias: &[f32], relu: bool) -> Vec<f32> {
    let inputs = weight.len() / bias.len();
    let mut result = Vec::new();
    for row in rows.chunks_exact(inputs) {
        for (weight, &bias) in weight.chunks_exact(inputs).zip(bias) {
            let sum: f64 = row.iter().zip(weight).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let sum = sum + f64::from(bias);
            result.push(if relu { sum.max(0.0) } else { sum } as f32);
        }
    }
    result
}

/// `count` numbers in [-bound, bound), different for each seed.
pub fn numbers(seed: u64, count: usize, bound: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * bound
        })
        .collect()
}

/// ||a - b|| / ||b||
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32, y: f32| (f64::from(x) - f64::from(y)).powi(2);
    let error: f64 = a.iter().zip(b).map(|(&a, &b)| square(a, b)).sum();
    let norm: f64 = b.iter().map(|&b| square(b, 0.0)).sum();
    (error / norm.max(1e-30)).sqrt()
}
