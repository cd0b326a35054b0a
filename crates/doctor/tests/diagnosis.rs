//! Searches with networks whose answers are drawn: a recipe's logits are those of the right recipe, moved by each part in
//! which it differs.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use headswap_doctor::{Diagnosis, Evidence, Order, Recipe, Search, Space, Truth, Verdict, diagnose};
use headswap_spec::{Framework, Output, Preprocessing};
use proptest::prelude::*;

const CLASSES: usize = 6;
const PICTURES: usize = 20;

/// A number of about a normal distribution, the same for the same numbers.
fn drawn(seed: u64, numbers: &[usize]) -> f32 {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut sum = 0.0;
    for round in 0..6 {
        for number in numbers.iter().copied().chain([round]) {
            state = (state ^ number as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            state ^= state >> 29;
        }
        sum += (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
    }
    sum * 1.4
}

/// The logits of a recipe whose parts differ from the right one's, which move them: a colour or a geometry more than a filter.
fn logits(seed: u64, right: Recipe, recipe: Recipe, picture: usize) -> Vec<f32> {
    let mut logits = Vec::with_capacity(CLASSES);
    for class in 0..CLASSES {
        let mut logit = 2.0 * drawn(seed, &[picture, class]);
        for (part, own, other, weight) in [
            (1, recipe.size, right.size, 2.0),
            (2, recipe.geometry, right.geometry, 1.5),
            (3, recipe.filter, right.filter, 0.8),
            (4, recipe.colour, right.colour, 1.5),
        ] {
            if own != other {
                logit += weight * drawn(seed, &[part, own, picture, class]);
            }
        }
        logits.push(logit);
    }
    logits
}

struct Case {
    space: Space,
    right: Recipe,
    evidence: Evidence,
    diagnosis: Diagnosis,
    tried: usize,
}

/// Searches for `right` with the first `wrong` of the labels wrong; `numbers` gives probabilities in place of classes.
fn search(seed: u64, framework: Framework, right: Recipe, wrong: usize, numbers: bool) -> Case {
    let space = Space::new(framework, Some([224, 224]), false, |_| true);
    let mut truths = Vec::new();
    for picture in 0..PICTURES {
        let own = logits(seed, right, right, picture);
        let answers = headswap_doctor::answers(&own, Output::Softmax);
        let class = (0..CLASSES).max_by(|a, b| own[*a].total_cmp(&own[*b])).unwrap();
        truths.push(match numbers {
            true => Truth::Numbers(answers),
            false if picture * 7 % PICTURES < wrong => Truth::Class((class + 1 + picture % (CLASSES - 1)) % CLASSES),
            false => Truth::Class(class),
        });
    }
    let order = Order {
        name: "text".into(),
        rows: (0..CLASSES).collect(),
    };
    let mut evidence = Evidence::new(truths, vec![order], vec![Output::Softmax]);
    let mut search = Search::new(PICTURES);
    loop {
        let trials = search.next(
            &space,
            |recipe, pictures| evidence.promise(&space, recipe, pictures),
            |_| true,
        );
        if trials.is_empty() {
            break;
        }
        for trial in trials {
            let pictures = trial.from..trial.to;
            evidence.add(
                trial.recipe,
                pictures.map(|picture| vec![logits(seed, right, trial.recipe, picture)]),
            );
        }
    }
    let diagnosis = diagnose(&evidence, &space, search.tried(), 0.8);
    Case {
        space,
        right,
        evidence,
        diagnosis,
        tried: search.count(),
    }
}

impl Case {
    /// True if the best recipe is the right one, or answers as it does.
    fn is_right(&self) -> bool {
        let found = self
            .diagnosis
            .candidates
            .iter()
            .find(|candidate| candidate.fit.recipe == self.right);
        found.is_some_and(|found| found.alike)
    }

    fn is_tried(&self) -> bool {
        let mut candidates = self.diagnosis.candidates.iter();
        candidates.any(|candidate| candidate.fit.recipe == self.right)
    }

    fn is_excluded(&self) -> bool {
        let found = self
            .diagnosis
            .candidates
            .iter()
            .find(|candidate| candidate.fit.recipe == self.right);
        found.is_some_and(|found| found.excluded)
    }
}

fn recipes() -> impl Strategy<Value = (Framework, Recipe)> {
    let frameworks = prop_oneof![Just(Framework::PyTorch), Just(Framework::Keras)];
    (frameworks, 0usize..4, 0usize..6, 0usize..30).prop_map(|(framework, geometry, filter, colour)| {
        (
            framework,
            Recipe {
                size: 0,
                geometry,
                filter,
                colour,
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Whatever is right, and with three labels of twenty wrong: the right recipe is not excluded once it was tried, and nothing
    /// else is called sure beside it.
    #[test]
    fn what_is_right_is_not_excluded((framework, right) in recipes(), wrong in 0usize..4, seed in any::<u64>()) {
        let case = search(seed, framework, right, wrong, false);
        prop_assert!(!case.is_excluded());
        prop_assert!(case.diagnosis.verdict != Verdict::Sure || case.is_right() || !case.is_tried());
    }

    /// The framework's own numbers single out the right recipe once it is tried, and nothing else.
    #[test]
    fn numbers_agree_with_the_right_recipe_alone((framework, right) in recipes(), seed in any::<u64>()) {
        let case = search(seed, framework, right, 0, true);
        let sure = case.diagnosis.verdict == Verdict::Sure;
        prop_assert_eq!(sure, case.is_right());
        prop_assert!(sure || case.diagnosis.verdict == Verdict::NoneFits);
    }

    /// The search ends after a part of all recipes, with each recipe's pictures asked for once.
    #[test]
    fn a_search_tries_a_part_of_the_recipes((framework, right) in recipes(), seed in any::<u64>()) {
        let case = search(seed, framework, right, 0, false);
        prop_assert!(case.tried * 10 < case.space.count() * 7, "{} of {}", case.tried, case.space.count());
        for candidate in &case.diagnosis.candidates {
            prop_assert_eq!(candidate.fit.hits.len(), PICTURES);
            prop_assert_eq!(case.evidence.answers(&candidate.fit).len(), PICTURES);
        }
    }
}

/// The usual recipes are found in most cases by twenty labels, and with three of them wrong nothing wrong is called sure.
#[test]
fn usual_recipes_are_found() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..60 {
        let space = Space::new(Framework::PyTorch, Some([224, 224]), false, |_| true);
        let recipe = Recipe {
            size: 0,
            geometry: seed as usize % space.geometries.len(),
            filter: seed as usize / 4 % 3,
            colour: seed as usize / 12 % 8,
        };
        let case = search(seed, Framework::PyTorch, recipe, 0, false);
        let is_named = matches!(case.diagnosis.verdict, Verdict::Sure | Verdict::Likely);
        right += usize::from(is_named && case.is_right());
        wrong += usize::from(is_named && !case.is_right());
        let noisy = search(seed, Framework::PyTorch, recipe, 3, false);
        assert!(
            noisy.diagnosis.verdict != Verdict::Sure || noisy.is_right(),
            "seed {seed}"
        );
    }
    assert!(right >= 50 && wrong <= 4, "{right} of 60 are right, {wrong} wrong");
}

/// A preprocessing that the user gives is tried, though no product of parts is equal to it.
#[test]
fn a_given_preprocessing_is_tried() {
    let mut space = Space::new(Framework::PyTorch, Some([224, 224]), false, |_| true);
    let given = Preprocessing {
        crop: Some([100, 100]),
        ..space.first().unwrap()
    };
    space.declare(given);
    let mut search = Search::new(PICTURES);
    let promise = |recipe, _| if recipe == Recipe::DECLARED { 1.0 } else { -100.0 };
    let first = search.next(&space, promise, |_| true);
    assert!(first.iter().any(|trial| space.preprocessing(trial.recipe) == given));
    let others = search.next(&space, promise, |_| true);
    assert_eq!(others.len(), 1, "the others are hopeless");
    assert_eq!((others[0].recipe, others[0].to), (Recipe::DECLARED, PICTURES));
}

/// A network that answers by chance has no recipe.
#[test]
fn answers_of_another_network_fit_no_recipe() {
    let right = Recipe {
        size: 0,
        geometry: 0,
        filter: 0,
        colour: 0,
    };
    for seed in 0..20 {
        let case = search(seed, Framework::Keras, right, PICTURES, false);
        assert_eq!(case.diagnosis.verdict, Verdict::NoneFits, "seed {seed}");
    }
}
