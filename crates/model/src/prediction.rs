//! Converts logits to what a head answers.

use std::cmp::Ordering;

use headswap_spec::Output;

/// One class and what the head says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prediction {
    /// The class's index, from 0.
    pub index: usize,
    /// Its probability; 0 if the output is [`Output::Linear`].
    pub probability: f32,
    /// Its value, if the output is [`Output::Linear`]; else 0.
    pub value: f32,
    /// Its group, if the output is [`Output::Groups`]; else 0.
    pub group: usize,
}

/// What is returned of a head's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What the logits mean.
    pub output: Output,
    /// The number of logits that are classes, from the first on.
    pub classes: usize,
    /// True if a single sigmoid's answers no and yes are two classes.
    pub is_binary: bool,
    /// The most classes to return, of each group; of values if the output is [`Output::Linear`].
    pub top_k: usize,
}

impl Answered {
    /// Returns the most probable classes, the most probable first, ties by index; of values the first ones. Probabilities
    /// are computed in f64.
    pub fn predictions(&self, logits: &[f32]) -> Vec<Prediction> {
        let classes = &logits[..self.classes.min(logits.len())];
        match self.output {
            Output::Softmax => top_of_softmax(classes, logits, self.top_k),
            Output::Sigmoid if self.is_binary => self.binary(classes),
            Output::Sigmoid => sorted(classes, self.top_k, |index| sigmoid(classes[index])),
            Output::Linear => {
                let mut values = Vec::with_capacity(self.top_k.min(classes.len()));
                for (index, &value) in classes.iter().enumerate().take(self.top_k) {
                    values.push(Prediction {
                        index,
                        value,
                        ..Prediction::default()
                    });
                }
                values
            }
            Output::Groups(groups) => self.of_groups(classes, groups),
        }
    }

    fn binary(&self, classes: &[f32]) -> Vec<Prediction> {
        let yes = sigmoid(classes.first().copied().unwrap_or_default());
        let probabilities = [1.0 - yes, yes];
        sorted(
            &probabilities.map(|probability| probability as f32),
            self.top_k,
            |index| probabilities[index],
        )
    }

    fn of_groups(&self, classes: &[f32], groups: usize) -> Vec<Prediction> {
        let size = (classes.len() / groups.max(1)).max(1);
        let mut predictions = Vec::new();
        for (group, logits) in classes.chunks_exact(size).enumerate() {
            for prediction in top_of_softmax(logits, logits, self.top_k) {
                predictions.push(Prediction {
                    index: group * size + prediction.index,
                    group,
                    ..prediction
                });
            }
        }
        predictions
    }
}

/// Returns the `k` most probable of `classes` by a softmax over `logits`, shifted by the largest so that nothing overflows.
fn top_of_softmax(classes: &[f32], logits: &[f32], k: usize) -> Vec<Prediction> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| exponential(logit, largest)).sum();
    sorted(classes, k, |index| exponential(classes[index], largest) / total)
}

/// Returns the `k` classes with the largest scores, the largest first, ties by index.
fn sorted(scores: &[f32], k: usize, probability: impl Fn(usize) -> f64) -> Vec<Prediction> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let k = k.min(order.len());
    if k < order.len() {
        order.select_nth_unstable_by(k, |&a, &b| compare(scores, a, b));
        order.truncate(k);
    }
    order.sort_unstable_by(|&a, &b| compare(scores, a, b));
    let mut predictions = Vec::with_capacity(k);
    for index in order {
        predictions.push(Prediction {
            index,
            probability: probability(index) as f32,
            ..Prediction::default()
        });
    }
    predictions
}

fn exponential(logit: f32, largest: f32) -> f64 {
    f64::from(logit - largest).exp()
}

fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

/// Orders two classes by descending score, ties by ascending index.
fn compare(scores: &[f32], a: usize, b: usize) -> Ordering {
    scores[b].total_cmp(&scores[a]).then(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn top_k(logits: &[f32], k: usize) -> Vec<Prediction> {
        top_of_softmax(logits, logits, k)
    }

    fn answered(output: Output, classes: usize) -> Answered {
        Answered {
            output,
            classes,
            is_binary: false,
            top_k: 5,
        }
    }

    fn indices(predictions: &[Prediction]) -> Vec<usize> {
        predictions.iter().map(|prediction| prediction.index).collect()
    }

    #[test]
    fn unused_rows_count_in_the_softmax_and_not_among_the_classes() {
        let predictions = answered(Output::Softmax, 2).predictions(&[0.0, 0.0, 0.0, 0.0]);
        assert_eq!(indices(&predictions), [0, 1]);
        assert!(predictions.iter().all(|prediction| prediction.probability == 0.25));
    }

    #[test]
    fn each_sigmoid_is_for_itself() {
        let predictions = answered(Output::Sigmoid, 3).predictions(&[0.0, 100.0, -100.0]);
        assert_eq!(indices(&predictions), [1, 0, 2]);
        assert_eq!(predictions[1].probability, 0.5);
        let single = answered(Output::Sigmoid, 1).predictions(&[-0.5]);
        assert!((single[0].probability - 0.377_540_67).abs() < 1e-6);
        let binary = Answered {
            is_binary: true,
            ..answered(Output::Sigmoid, 1)
        };
        let answers = binary.predictions(&[-0.5]);
        assert_eq!(indices(&answers), [0, 1]);
        assert!((answers[0].probability - 0.622_459_35).abs() < 1e-6);
        assert_eq!(answers[1].probability, single[0].probability);
    }

    #[test]
    fn values_are_in_order_and_no_probabilities() {
        let predictions = answered(Output::Linear, 2).predictions(&[-3.5, 7.0]);
        assert_eq!(
            predictions
                .iter()
                .map(|prediction| prediction.value)
                .collect::<Vec<_>>(),
            [-3.5, 7.0]
        );
        assert!(predictions.iter().all(|prediction| prediction.probability == 0.0));
    }

    #[test]
    fn each_group_has_its_own_softmax() {
        let groups = Answered {
            top_k: 1,
            ..answered(Output::Groups(2), 6)
        };
        let predictions = groups.predictions(&[1.0, 3.0, 2.0, 5.0, 5.0, 5.0]);
        assert_eq!(indices(&predictions), [1, 3]);
        assert_eq!(
            predictions
                .iter()
                .map(|prediction| prediction.group)
                .collect::<Vec<_>>(),
            [0, 1]
        );
        assert!((predictions[1].probability - 1.0 / 3.0).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn the_top_are_sorted_and_their_probabilities_sum_to_at_most_one(
            logits in prop::collection::vec(-50f32..50.0, 1..200),
            k in 0usize..210,
        ) {
            let top = top_k(&logits, k);
            prop_assert_eq!(top.len(), k.min(logits.len()));
            for pair in top.windows(2) {
                let (a, b) = (pair[0], pair[1]);
                prop_assert!(logits[a.index] > logits[b.index] || (logits[a.index] == logits[b.index] && a.index < b.index));
            }
            for class in 0..logits.len() {
                let is_in = top.iter().any(|prediction| prediction.index == class);
                prop_assert!(is_in || top.iter().all(|prediction| logits[prediction.index] >= logits[class]));
            }
            let sum: f32 = top.iter().map(|prediction| prediction.probability).sum();
            prop_assert!(sum <= 1.0 + 1e-5);
        }

        #[test]
        fn large_logits_do_not_overflow(large in 1e30f32..f32::MAX) {
            let top = top_k(&[large, -large, 0.0], 3);
            prop_assert_eq!(top[0].index, 0);
            prop_assert_eq!(top[0].probability, 1.0);
        }
    }
}
