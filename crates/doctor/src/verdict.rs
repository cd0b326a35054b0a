//! What the evidence allows to say.

use crate::evidence::{AGREES, Evidence, Fit};
use crate::space::{Recipe, Space};

/// The significance level of the sign test.
const CHANCE: f64 = 0.05;
/// The probability from which on one recipe is named.
const LIKELY: f64 = 0.5;
/// The probability from which on it is sure, if the others are significantly worse, too.
const SURE: f64 = 0.95;
/// 95 % of a normal distribution lie within so many deviations.
const DEVIATIONS: f64 = 1.96;

/// How sure the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One recipe fits, and all that answer otherwise are significantly worse.
    Sure,
    /// One recipe is likelier than all others together.
    Likely,
    /// Several recipes fit as well.
    CannotTell,
    /// None of the recipes fits.
    NoneFits,
}

/// A recipe beside the best one.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// How it fits.
    pub fit: Fit,
    /// Its probability, by the evidence and by how usual it is.
    pub probability: f64,
    /// True if it answers as the best one does.
    pub alike: bool,
    /// True if it is significantly worse than the best one.
    pub excluded: bool,
}

/// What is known in the end.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// How sure it is.
    pub verdict: Verdict,
    /// The recipes that were tried on all pictures, the best first, and those that answer alike right after it.
    pub candidates: Vec<Candidate>,
    /// The probability of the best recipe and of those that answer alike.
    pub probability: f64,
}

/// Judges the recipes that were tried on all pictures. `accuracy` is the least that the right recipe is expected to have.
pub fn diagnose(evidence: &Evidence, space: &Space, tried: impl Iterator<Item = Recipe>, accuracy: f64) -> Diagnosis {
    let pictures = evidence.truths.len();
    let mut scored: Vec<(f64, Fit)> = Vec::new();
    for recipe in tried {
        if let Some(fit) = evidence.fit(recipe, pictures) {
            scored.push((fit.evidence + space.usual(recipe), fit));
        }
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let Some((highest, best)) = scored.first().cloned() else {
        return Diagnosis {
            verdict: Verdict::NoneFits,
            candidates: Vec::new(),
            probability: 0.0,
        };
    };
    let sum: f64 = scored.iter().map(|(score, _)| (score - highest).exp()).sum();
    let best_answers = evidence.answers(&best);
    let mut candidates = Vec::new();
    for (score, fit) in scored {
        candidates.push(Candidate {
            probability: (score - highest).exp() / sum,
            alike: fit.output == best.output && are_alike(&best_answers, &evidence.answers(&fit)),
            excluded: is_worse(evidence, &fit, &best),
            fit,
        });
    }
    candidates.sort_by_key(|candidate| !candidate.alike);
    let alike = candidates.iter().filter(|candidate| candidate.alike);
    let probability: f64 = alike.map(|candidate| candidate.probability).sum();
    let others_excluded = candidates.iter().all(|candidate| candidate.alike || candidate.excluded);
    let verdict = match evidence.has_numbers() {
        true if best.hits.iter().all(|hit| *hit) => Verdict::Sure,
        true => Verdict::NoneFits,
        false if (best.count() as f64) < accuracy * pictures as f64 => Verdict::NoneFits,
        false if others_excluded && probability >= SURE => Verdict::Sure,
        false if probability >= LIKELY => Verdict::Likely,
        false => Verdict::CannotTell,
    };
    Diagnosis {
        verdict,
        candidates,
        probability,
    }
}

/// True if the answers to no picture differ by more than [`AGREES`].
fn are_alike(some: &[Vec<f64>], others: &[Vec<f64>]) -> bool {
    some.len() == others.len()
        && some.iter().zip(others).all(|(some, others)| {
            let pairs = some.iter().zip(others);
            some.len() == others.len() && pairs.into_iter().all(|(one, other)| (one - other).abs() <= AGREES)
        })
}

/// True if a recipe is worse by more than chance: for classes by the sign test on the pictures that only one of them gets
/// right, for numbers if it does not agree with them.
fn is_worse(evidence: &Evidence, fit: &Fit, best: &Fit) -> bool {
    if evidence.has_numbers() {
        return fit.hits.iter().any(|hit| !hit);
    }
    let (mut lost, mut won) = (0, 0);
    for (own, other) in fit.hits.iter().zip(&best.hits) {
        lost += u32::from(!own && *other);
        won += u32::from(*own && !other);
    }
    sign_test(lost, won) <= CHANCE
}

/// Returns the probability that a fair coin falls on one side `lost` times or more, of `lost` + `won` throws.
fn sign_test(lost: u32, won: u32) -> f64 {
    let throws = lost + won;
    let (mut term, mut sum) = (0.5f64.powi(throws as i32), 0.0);
    for times in 0..=throws {
        if times >= lost {
            sum += term;
        }
        term *= f64::from(throws - times) / f64::from(times + 1);
    }
    sum
}

/// Returns the interval of 95 % of a proportion (Wilson 1927, <https://doi.org/10.1080/01621459.1927.10502953>).
pub fn interval(count: usize, of: usize) -> [f64; 2] {
    if of == 0 {
        return [0.0, 1.0];
    }
    let (n, p, z) = (of as f64, count as f64 / of as f64, DEVIATIONS);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    [(middle - half).max(0.0), (middle + half).min(1.0)]
}

/// Returns half the width of the interval of 95 % of a mean.
pub fn half_width(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if n < 2.0 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    DEVIATIONS * (variance / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_of_five_are_no_chance() {
        assert!((sign_test(5, 0) - 1.0 / 32.0).abs() < 1e-12);
        assert!((sign_test(4, 0) - 1.0 / 16.0).abs() < 1e-12);
        assert!((sign_test(0, 7) - 1.0).abs() < 1e-12);
        assert!((sign_test(6, 1) - 8.0 / 128.0).abs() < 1e-12);
    }

    #[test]
    fn intervals_are_wilsons() {
        let [low, high] = interval(17, 20);
        assert!(
            (low - 0.6396).abs() < 1e-3 && (high - 0.9476).abs() < 1e-3,
            "{low} {high}"
        );
        assert_eq!(interval(20, 20)[1], 1.0);
        assert!(half_width(&[1.0, 1.0, 1.0]).abs() < 1e-12);
    }
}
