//! Linears of heads on the CPU, with weights as they were read: one pass over each head's weights, whatever the mix.
//!
//! A result is a sum of products in one fixed order, so it has the same bits whichever rows and heads it is computed
//! beside. That is what lets features be kept and asked again.

use super::tensor::HostTensor;

/// Products of one thread below which starting another costs more than it saves: about 100 µs of work.
const PRODUCTS_PER_THREAD_MIN: usize = 1 << 20;

/// Sums that run side by side: four registers of 16, so that additions need not wait for one another.
const LANES: usize = 64;

/// One head's Linear and the rows it is asked for.
pub(super) struct HeadProduct<'a> {
    /// `[K, width]`.
    pub weight: &'a HostTensor,
    /// `[K]`.
    pub bias: &'a [f32],
    /// Rows of features, each of `width` numbers.
    pub rows: Vec<&'a [f32]>,
}

impl HeadProduct<'_> {
    fn classes(&self) -> usize {
        self.bias.len()
    }

    fn multiplications(&self) -> usize {
        self.weight.values.len() * self.rows.len()
    }

    /// The logits of some classes, from `first` on: for each class, every row's.
    fn compute(&self, first: usize, logits: &mut [f32], dot: Dot) {
        let width = self.weight.values.len() / self.classes();
        let weights = self.weight.values.chunks_exact(width).zip(self.bias).skip(first);
        for ((weight, bias), logits) in weights.zip(logits.chunks_exact_mut(self.rows.len())) {
            for (row, logit) in self.rows.iter().zip(logits) {
                *logit = dot(weight, row) + bias;
            }
        }
    }
}

/// For each product, its rows' results one after the other: rows x K.
pub(super) fn host_linear(products: &[HeadProduct<'_>]) -> Vec<Vec<f32>> {
    let work: usize = products.iter().map(HeadProduct::multiplications).sum();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads = (work / PRODUCTS_PER_THREAD_MIN).clamp(1, cores);

    let mut by_class: Vec<Vec<f32>> = products
        .iter()
        .map(|product| vec![0.0; product.classes() * product.rows.len()])
        .collect();
    let mut shares: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
    for (product, logits) in products.iter().zip(&mut by_class) {
        let part = product.classes().div_ceil(threads);
        let chunks = logits.chunks_mut((part * product.rows.len()).max(1));
        for (index, (chunk, share)) in chunks.zip(&mut shares).enumerate() {
            share.push((product, index * part, chunk));
        }
    }
    let dot = fastest_dot();
    let run = |share: Vec<(&HeadProduct<'_>, usize, &mut [f32])>| {
        for (product, first, logits) in share {
            product.compute(first, logits, dot);
        }
    };
    std::thread::scope(|scope| {
        let own = shares.pop();
        for share in shares {
            scope.spawn(|| run(share));
        }
        own.map(run);
    });
    let transposed = products.iter().zip(by_class);
    transposed
        .map(|(product, logits)| by_row(&logits, product.rows.len()))
        .collect()
}

/// From each class's rows to each row's classes.
fn by_row(by_class: &[f32], rows: usize) -> Vec<f32> {
    (0..rows)
        .flat_map(|row| by_class.iter().skip(row).step_by(rows.max(1)))
        .copied()
        .collect()
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
        /// The sums are right, and bit for bit the same alone and in any company.
        #[test]
        fn a_logit_does_not_depend_on_its_company(
            width in prop::sample::select(vec![1usize, 63, 64, 128, 4096]),
            asked in prop::collection::vec((1usize..40, prop::collection::vec(0usize..6, 1..5)), 1..6),
        ) {
            let features = tensor(vec![6, width], 99);
            let rows: Vec<&[f32]> = features.values.chunks_exact(width).collect();
            let heads: Vec<(HostTensor, HostTensor)> = asked
                .iter()
                .enumerate()
                .map(|(seed, (classes, _))| (tensor(vec![*classes, width], seed), tensor(vec![*classes], seed + 50)))
                .collect();
            let product = |head: usize, rows| HeadProduct { weight: &heads[head].0, bias: &heads[head].1.values, rows };
            let together: Vec<HeadProduct<'_>> = asked
                .iter()
                .enumerate()
                .map(|(head, (_, asked))| product(head, asked.iter().map(|&row| rows[row]).collect()))
                .collect();
            let logits = host_linear(&together);
            for (head, (classes, asked)) in asked.iter().enumerate() {
                for (position, &row) in asked.iter().enumerate() {
                    let alone = host_linear(&[product(head, vec![rows[row]])]);
                    let got = &logits[head][position * classes..(position + 1) * classes];
                    prop_assert_eq!(got, &alone[0][..]);
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
