//! What pictures are known to answer, and what a network's logits say beside it.

use headswap_spec::Output;

/// What is known of one picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Truth {
    /// Its class, by the index of the class's name.
    Class(usize),
    /// What the training framework answered: a number for each row, or fewer.
    Numbers(Vec<f64>),
}

/// An order of the classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Where it comes from, for people.
    pub name: String,
    /// For each name of a class, the row of the last Linear that it is; for a single unit, 0 for no and 1 for yes.
    pub rows: Vec<usize>,
}

/// Returns what logits mean: probabilities, or values. Computed in f64; `logits` are not empty.
pub fn answers(logits: &[f32], output: Output) -> Vec<f64> {
    match output {
        Output::Softmax => softmax(logits),
        Output::Sigmoid => logits.iter().map(|logit| sigmoid(f64::from(*logit))).collect(),
        Output::Linear => logits.iter().map(|logit| f64::from(*logit)).collect(),
        Output::Groups(groups) => {
            let size = (logits.len() / groups.max(1)).max(1);
            logits.chunks(size).flat_map(softmax).collect()
        }
    }
}

/// Returns the probability of a class, and whether it is the answer. A single unit answers no and yes.
pub(crate) fn of_class(answers: &[f64], row: usize) -> (f64, bool) {
    if let [yes] = answers {
        let own = if row == 0 { 1.0 - yes } else { *yes };
        return (own, own > 0.5);
    }
    let Some(own) = answers.get(row) else {
        return (0.0, false);
    };
    let best = answers.iter().copied().fold(f64::MIN, f64::max);
    (*own, *own >= best)
}

/// Returns the largest difference of a framework's numbers from a network's answers.
pub(crate) fn difference(numbers: &[f64], answers: &[f64]) -> f64 {
    // A framework may answer no and yes where the network has one unit.
    if let ([no, yes], [own]) = (numbers, answers) {
        return (yes - own).abs().max((no - (1.0 - own)).abs());
    }
    if numbers.len() > answers.len() {
        return f64::INFINITY;
    }
    let pairs = numbers.iter().zip(answers);
    pairs.map(|(number, own)| (number - own).abs()).fold(0.0, f64::max)
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut powers: Vec<f64> = logits.iter().map(|logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter_mut().for_each(|power| *power /= sum);
    powers
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}
