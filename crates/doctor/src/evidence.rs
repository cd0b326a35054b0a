//! How well recipes fit what is known of the pictures.

use std::collections::BTreeMap;

use headswap_spec::Output;

use crate::space::{Recipe, Space};
use crate::truth::{Order, Truth, answers, difference, of_class};

/// The logits of one picture, by the reading of the file.
pub type Logits = Vec<Vec<f32>>;

/// The worth of a right answer, in logarithms of odds. Most wrong recipes differ from the right one in an answer now and
/// then; a right answer that is luck is rarer.
const HIT: f64 = 2.0;
/// The worth of a picture's log-likelihood. It is small: a network's confidence is not calibrated, and other scales of the values
/// raise it.
const CONFIDENCE: f64 = 0.3;
/// The part of labels that may be wrong.
const WRONG: f64 = 0.1;
/// Weight of how usual a recipe is while others are sought, so that a rare one is found.
const SEARCHING: f64 = 0.4;
/// The worth of a difference of 1 from the framework's numbers in one picture: it settles between recipes.
const DIFFERENCE: f64 = 200.0;
/// The same while others are sought: a recipe that differs in two parts is as far off as one that differs in one.
const SEARCHED_DIFFERENCE: f64 = 3.0;
/// A single number that differs by less counts as the same answer while others are sought.
const NEAR: f64 = 0.1;

/// What is known of the pictures, and what the network answered to them.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// What is known, a picture each.
    pub truths: Vec<Truth>,
    /// The possible orders of the classes; one without rows if no class is named.
    pub orders: Vec<Order>,
    /// What the logits may mean.
    pub outputs: Vec<Output>,
    /// The answers to each recipe, for the pictures that it was tried on, from the first on.
    logits: BTreeMap<Recipe, Vec<Logits>>,
}

/// How a recipe fits, with the reading, the output and the order with which it fits best.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// The recipe.
    pub recipe: Recipe,
    /// The index of the file's reading.
    pub reading: usize,
    /// What the logits mean.
    pub output: Output,
    /// The index of the classes' order.
    pub order: usize,
    /// Whether each picture got the right class; with numbers, whether they agree with it.
    pub hits: Vec<bool>,
    /// The logarithm of each picture's probability of its class; with numbers, the difference from them.
    pub each: Vec<f64>,
    /// How much speaks for it besides how usual it is, in logarithms of odds.
    pub evidence: f64,
    /// The same while others are sought.
    promise: f64,
}

impl Fit {
    /// Pictures with the right class.
    pub fn count(&self) -> usize {
        self.hits.iter().filter(|hit| **hit).count()
    }

    /// The mean of [`Fit::each`].
    pub fn mean(&self) -> f64 {
        self.each.iter().sum::<f64>() / self.each.len().max(1) as f64
    }

    /// The largest of [`Fit::each`].
    pub fn largest(&self) -> f64 {
        self.each.iter().copied().fold(0.0, f64::max)
    }
}

impl Evidence {
    /// Begins with nothing tried.
    pub fn new(truths: Vec<Truth>, orders: Vec<Order>, outputs: Vec<Output>) -> Self {
        Self {
            truths,
            orders,
            outputs,
            logits: BTreeMap::new(),
        }
    }

    /// True if the training framework's numbers are known, not only classes.
    pub fn has_numbers(&self) -> bool {
        self.truths.iter().any(|truth| matches!(truth, Truth::Numbers(_)))
    }

    /// Adds the answers to a recipe for further pictures.
    pub fn add(&mut self, recipe: Recipe, logits: impl IntoIterator<Item = Logits>) {
        self.logits.entry(recipe).or_default().extend(logits);
    }

    /// Returns the answers of a fit to each picture.
    pub fn answers(&self, fit: &Fit) -> Vec<Vec<f64>> {
        let logits = self.logits.get(&fit.recipe).map_or(&[][..], Vec::as_slice);
        let own = logits.iter().filter_map(|picture| picture.get(fit.reading));
        own.map(|logits| answers(logits, fit.output)).collect()
    }

    /// Returns how a recipe fits the first pictures, as well as it can; none if it was not tried on them.
    pub fn fit(&self, recipe: Recipe, pictures: usize) -> Option<Fit> {
        let logits = self.logits.get(&recipe)?.get(..pictures)?;
        let readings = logits.first().map_or(0, Vec::len);
        let mut best: Option<Fit> = None;
        for reading in 0..readings {
            for output in &self.outputs {
                for order in 0..self.orders.len() {
                    let fit = self.fit_as(recipe, logits, (reading, *output, order));
                    let rank = |fit: &Fit| (fit.evidence, fit.promise);
                    if best.as_ref().is_none_or(|best| rank(best) < rank(&fit)) {
                        best = Some(fit);
                    }
                }
            }
        }
        best
    }

    /// Returns how promising a recipe is while others are sought.
    pub fn promise(&self, space: &Space, recipe: Recipe, pictures: usize) -> f64 {
        let fit = self.fit(recipe, pictures);
        fit.map_or(f64::MIN, |fit| fit.promise + SEARCHING * space.usual(recipe))
    }

    fn fit_as(&self, recipe: Recipe, logits: &[Logits], (reading, output, order): (usize, Output, usize)) -> Fit {
        let (mut hits, mut each, mut evidence, mut promise) = (Vec::new(), Vec::new(), 0.0, 0.0);
        for (picture, truth) in logits.iter().zip(&self.truths) {
            let own = answers(&picture[reading], output);
            match truth {
                Truth::Class(name) => {
                    let row = self.orders[order].rows.get(*name).copied().unwrap_or(usize::MAX);
                    let (probability, hit) = of_class(&own, row);
                    let probability = match output {
                        Output::Linear => f64::from(u8::from(hit)),
                        _ => probability,
                    };
                    let log = ((1.0 - WRONG) * probability + WRONG / 10.0).ln();
                    evidence += CONFIDENCE * log + if hit { HIT } else { 0.0 };
                    promise = evidence;
                    hits.push(hit);
                    each.push(log);
                }
                Truth::Numbers(numbers) => {
                    let difference = difference(numbers, &own) / self.unit(output);
                    evidence -= DIFFERENCE * difference.min(1.0);
                    let is_same = match numbers.len() {
                        1 => difference <= NEAR,
                        _ => largest(numbers) == largest(&own),
                    };
                    promise += if is_same { HIT } else { 0.0 } - SEARCHED_DIFFERENCE * difference.min(1.0);
                    hits.push(difference <= AGREES);
                    each.push(difference);
                }
            }
        }
        Fit {
            recipe,
            reading,
            output,
            order,
            hits,
            each,
            evidence,
            promise,
        }
    }

    /// What differences of numbers are measured in: probabilities in 1, values in the largest of them, if that is more.
    fn unit(&self, output: Output) -> f64 {
        if output != Output::Linear {
            return 1.0;
        }
        let mut largest = 1.0f64;
        for truth in &self.truths {
            if let Truth::Numbers(numbers) = truth {
                largest = numbers
                    .iter()
                    .fold(largest, |largest, number| largest.max(number.abs()));
            }
        }
        largest
    }
}

/// The index of the largest number.
fn largest(numbers: &[f64]) -> usize {
    let largest = numbers.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    largest.map_or(0, |(index, _)| index)
}

/// Answers that differ by less are alike: filters of one name differ by as much between libraries.
pub const AGREES: f64 = 2e-2;
