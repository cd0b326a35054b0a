//! Linears of heads on the CPU, with unpacked weights: one pass over a head's weights for any number of rows.
//!
//! A result is a sum of products in one fixed order, so it has the same bits in every batch and for any number of
//! threads. That is why features can be cached.

use headswap_checkpoint::HostTensor;
use winograd::Pool;

/// Products that a thread takes at a time: about 20 µs of work, so that the overhead is negligible.
const PRODUCTS_AT_A_TIME: usize = 1 << 18;

/// Sums that run side by side: four registers of 16, so that additions need not wait for one another.
const LANES: usize = 64;

/// One head's Linear and its rows.
pub struct HeadProduct<'a, R> {
    /// `[K, width]`.
    pub weight: &'a HostTensor,
    /// `[K]`.
    pub bias: &'a [f32],
    /// The number of rows.
    pub rows: usize,
    /// Returns the features of a row, `width` numbers.
    pub row: R,
}

impl<'a, R: Fn(usize) -> &'a [f32] + Sync> HeadProduct<'_, R> {
    fn width(&self) -> usize {
        self.weight.values.len() / self.bias.len()
    }

    /// Computes the logits of the classes from `first` on that fit `logits`: for each class, every row's.
    fn compute(&self, first: usize, logits: &mut [f32], dot: Dot) {
        let weights = self.weight.values.chunks_exact(self.width());
        let weights = weights.zip(self.bias).skip(first);
        for ((weight, bias), logits) in weights.zip(logits.chunks_exact_mut(self.rows)) {
            for (row, logit) in logits.iter_mut().enumerate() {
                *logit = dot(weight, (self.row)(row)) + bias;
            }
        }
    }
}

/// Computes Linears in a reused buffer.
#[derive(Default)]
pub struct HostLinear {
    by_class: Vec<f32>,
}

impl HostLinear {
    /// Appends the rows' results to `results`, one row's after the other: rows x K.
    pub fn compute<'a, R: Fn(usize) -> &'a [f32] + Sync>(
        &mut self,
        product: &HeadProduct<'_, R>,
        results: &mut Vec<f32>,
        pool: &mut Pool,
    ) {
        let (rows, count) = (product.rows, product.rows * product.bias.len());
        if count == 0 {
            return;
        }
        self.by_class.clear();
        self.by_class.resize(count, 0.0);
        let classes = (PRODUCTS_AT_A_TIME / (product.width() * rows)).max(1);
        let dot = fastest_dot();
        pool.each(
            self.by_class.chunks_mut(classes * rows).enumerate(),
            |(part, logits)| {
                product.compute(part * classes, logits, dot);
            },
        );
        results.reserve_exact(count);
        for row in 0..rows {
            results.extend(self.by_class.iter().skip(row).step_by(rows));
        }
    }
}

type Dot = fn(&[f32], &[f32]) -> f32;

fn fastest_dot() -> Dot {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, which includes FMA's operations.
            return |a, b| unsafe { dot_avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both.
            return |a, b| unsafe { dot_avx2(a, b) };
        }
    }
    |a, b| dot(a, b, |a, b, sum| a * b + sum)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn dot_avx512(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b, f32::mul_add)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b, f32::mul_add)
}

/// The sum of the products, in an order that depends on the length alone.
#[inline(always)]
fn dot(a: &[f32], b: &[f32], multiply_add: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = multiply_add(*a, *b, *sum);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = multiply_add(*a, *b, *sum);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensor(shape: Vec<usize>, seed: usize) -> HostTensor {
        let count: usize = shape.iter().product();
        let value = |index: usize| ((index * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
        HostTensor::new(shape, (0..count).map(value).collect())
    }

    proptest! {
        /// The sums are right, and have the same bits alone and in any batch, with one thread and with three.
        #[test]
        fn a_logit_does_not_depend_on_its_company(
            width in prop::sample::select(vec![1usize, 63, 64, 128, 4096]),
            asked in prop::collection::vec((1usize..140, prop::collection::vec(0usize..6, 1..5)), 1..6),
        ) {
            let features = tensor(vec![6, width], 99);
            let rows: Vec<&[f32]> = features.values.chunks_exact(width).collect();
            let heads: Vec<(HostTensor, HostTensor)> = asked
                .iter()
                .enumerate()
                .map(|(seed, (classes, _))| (tensor(vec![*classes, width], seed), tensor(vec![*classes], seed + 50)))
                .collect();
            let compute = |head: usize, asked: &[usize], linear: &mut HostLinear, pool: &mut Pool| {
                let (weight, bias) = (&heads[head].0, &heads[head].1.values[..]);
                let mut results = vec![0.5];
                let product = HeadProduct { weight, bias, rows: asked.len(), row: |row| rows[asked[row]] };
                linear.compute(&product, &mut results, pool);
                prop_assert_eq!(results.remove(0), 0.5, "what was there stays");
                Ok(results)
            };
            let (mut linear, mut pool) = (HostLinear::default(), Pool::new(3));
            for (head, (classes, asked)) in asked.iter().enumerate() {
                let logits = compute(head, asked, &mut linear, &mut pool)?;
                prop_assert_eq!(logits.len(), classes * asked.len());
                for (&row, got) in asked.iter().zip(logits.chunks_exact(*classes)) {
                    let alone = compute(head, &[row], &mut HostLinear::default(), &mut Pool::new(1))?;
                    prop_assert_eq!(got, &alone[..]);
                    for (class, logit) in got.iter().enumerate() {
                        let weight = &heads[head].0.values[class * width..(class + 1) * width];
                        let exact: f64 = weight.iter().zip(rows[row]).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        let exact = exact + f64::from(heads[head].1.values[class]);
                        prop_assert!((f64::from(*logit) - exact).abs() < 1e-6 * width as f64 + 1e-5);
                    }
                }
            }
        }
    }
}
