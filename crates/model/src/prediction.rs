//! Converts logits to probabilities.

use std::cmp::Ordering;

/// One class and its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The class's index, from 0.
    pub index: usize,
    /// Its softmax over all classes.
    pub probability: f32,
}

/// Returns the `k` most probable classes, the most probable first, ties by index; all classes if there are fewer.
///
/// The softmax is over all logits, in f64, shifted by the largest so that nothing overflows.
pub fn top_k(logits: &[f32], k: usize) -> Vec<Prediction> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| exponential(logit, largest)).sum();

    let mut order: Vec<usize> = (0..logits.len()).collect();
    let k = k.min(order.len());
    if k < order.len() {
        order.select_nth_unstable_by(k, |&a, &b| compare(logits, a, b));
        order.truncate(k);
    }
    order.sort_unstable_by(|&a, &b| compare(logits, a, b));
    order
        .into_iter()
        .map(|index| Prediction {
            index,
            probability: (exponential(logits[index], largest) / total) as f32,
        })
        .collect()
}

fn exponential(logit: f32, largest: f32) -> f64 {
    f64::from(logit - largest).exp()
}

/// Orders two classes by descending probability, ties by ascending index.
fn compare(logits: &[f32], a: usize, b: usize) -> Ordering {
    logits[b].total_cmp(&logits[a]).then(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn top_k_is_the_head_of_a_full_sort(
            logits in prop::collection::vec(-50f32..50.0, 1..200), k in 0usize..250,
        ) {
            let mut expected: Vec<usize> = (0..logits.len()).collect();
            expected.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            expected.truncate(k);
            let got = top_k(&logits, k);
            prop_assert_eq!(got.iter().map(|p| p.index).collect::<Vec<_>>(), expected);
            let all: f32 = top_k(&logits, logits.len()).iter().map(|p| p.probability).sum();
            prop_assert!((all - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        assert_eq!(
            top_k(&[3e38, -3e38], 2)[0],
            Prediction {
                index: 0,
                probability: 1.0
            }
        );
    }
}
