//! How a batch walks the network: as a trie, so that rows part only where their heads do.
//!
//! Pure: it knows of a head only which parameters each step uses, as a key. Rows whose heads use the same parameters up
//! to a step have passed that step together, once.

use std::ops::Range;

/// What tells the parameters of one step apart: equal keys, equal parameters. The backbone's are [`StepKey::default`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey {
    /// Of the weight; 0 is the backbone's.
    pub weight: usize,
    /// Of the bias; 0 is the backbone's.
    pub bias: usize,
}

/// Rows that want the same thing.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The parameters of each step, from the first on; steps beyond its end use the backbone's.
    pub keys: &'a [StepKey],
    /// Indices into the batch, ascending, each once.
    pub rows: &'a [usize],
}

impl Wish<'_> {
    fn key(&self, step: usize) -> StepKey {
        self.keys.get(step).copied().unwrap_or_default()
    }
}

/// The trie of a batch's wishes. Made anew for each batch, in the memory of the one before.
#[derive(Debug, Default)]
pub struct Plan {
    /// The wishes in the order of their keys, so that those of one pass lie side by side.
    wishes: Vec<usize>,
    /// The rows of all passes, one pass after the other.
    rows: Vec<usize>,
    /// Each before its branches.
    passes: Vec<Pass>,
}

/// Steps that the same rows pass with the same parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The steps; empty if the rows part before the first one.
    pub steps: Range<usize>,
    /// Its part of [`Plan::wishes`].
    wishes: Range<usize>,
    /// Its part of [`Plan::rows`].
    rows: Range<usize>,
    /// The first pass that is neither this one nor one of its branches'.
    after: usize,
}

impl Plan {
    /// Makes the trie of wishes 0 to `count` over `steps` steps. Its root is pass 0.
    pub fn make<'a>(&mut self, count: usize, steps: usize, wish: impl Fn(usize) -> Wish<'a>) {
        let wish = &wish;
        let keys = |index: usize| (0..steps).map(move |step| wish(index).key(step));
        self.wishes.clear();
        self.wishes.extend(0..count);
        self.wishes
            .sort_unstable_by(|&a, &b| keys(a).cmp(keys(b)).then(a.cmp(&b)));
        self.rows.clear();
        self.passes.clear();
        self.add(0..count, 0, steps, wish);
    }

    /// Adds the pass of some wishes from a step on, and its branches.
    fn add<'a>(&mut self, wishes: Range<usize>, start: usize, steps: usize, wish: &impl Fn(usize) -> Wish<'a>) {
        let key = |plan: &Self, place: usize, step: usize| wish(plan.wishes[place]).key(step);
        // In order, and of one mind before `start`: all agree on a step if the first and the last do.
        let agree = |step: usize| wishes.is_empty() || key(self, wishes.start, step) == key(self, wishes.end - 1, step);
        let end = (start..steps).find(|&step| !agree(step)).unwrap_or(steps);

        let first_row = self.rows.len();
        for place in wishes.clone() {
            for row in wish(self.wishes[place]).rows {
                if let Err(place) = self.rows[first_row..].binary_search(row) {
                    self.rows.insert(first_row + place, *row);
                }
            }
        }
        let index = self.passes.len();
        self.passes.push(Pass {
            steps: start..end,
            wishes: wishes.clone(),
            rows: first_row..self.rows.len(),
            after: 0,
        });
        let mut branch = wishes.start;
        while end < steps && branch < wishes.end {
            let own = key(self, branch, end);
            let others = (branch..wishes.end).find(|&place| key(self, place, end) != own);
            let next = others.unwrap_or(wishes.end);
            self.add(branch..next, end, steps, wish);
            branch = next;
        }
        self.passes[index].after = self.passes.len();
    }

    /// A pass.
    pub fn pass(&self, pass: usize) -> &Pass {
        &self.passes[pass]
    }

    /// The wishes that go this way, all with the same parameters.
    pub fn wishes(&self, pass: usize) -> &[usize] {
        &self.wishes[self.passes[pass].wishes.clone()]
    }

    /// The rows that go this way: indices into the batch, ascending, each once.
    pub fn rows(&self, pass: usize) -> &[usize] {
        &self.rows[self.passes[pass].rows.clone()]
    }

    /// Where the rows part; none at the end of the network.
    pub fn branches(&self, pass: usize) -> impl Iterator<Item = usize> {
        let end = self.passes[pass].after;
        let next = move |branch: usize| Some(branch).filter(|&branch| branch < end);
        std::iter::successors(next(pass + 1), move |&branch| next(self.passes[branch].after))
    }

    /// Where these rows, all of which go this way, lie among the pass's.
    pub fn positions(&self, pass: usize, rows: &[usize]) -> impl Iterator<Item = usize> {
        let own = self.rows(pass);
        rows.iter().filter_map(|row| own.binary_search(row).ok())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    const STEPS: usize = 5;

    fn key(number: usize) -> StepKey {
        StepKey {
            weight: number,
            bias: 0,
        }
    }

    /// Every pass from the root to a leaf, each step with the wish whose parameters it uses.
    fn walk(
        plan: &Plan,
        pass: usize,
        path: &mut Vec<(usize, usize)>,
        visit: &mut impl FnMut(usize, &[(usize, usize)]),
    ) {
        let before = path.len();
        path.extend(plan.pass(pass).steps.clone().map(|step| (step, plan.wishes(pass)[0])));
        visit(pass, path);
        for branch in plan.branches(pass) {
            walk(plan, branch, path, visit);
        }
        path.truncate(before);
    }

    proptest! {
        /// Each wish reaches one leaf through exactly its own keys with all of its rows, and no key path is walked twice.
        #[test]
        fn every_wish_is_computed_with_its_own_parameters_and_no_prefix_twice(
            wishes in prop::collection::vec(
                (prop::collection::vec(0usize..3, 0..=STEPS), prop::collection::btree_set(0usize..12, 1..6)),
                1..9,
            ),
        ) {
            let keys: Vec<Vec<StepKey>> =
                wishes.iter().map(|(keys, _)| keys.iter().map(|&number| key(number)).collect()).collect();
            let rows: Vec<Vec<usize>> = wishes.iter().map(|(_, rows)| rows.iter().copied().collect()).collect();
            let asked: Vec<Wish<'_>> =
                keys.iter().zip(&rows).map(|(keys, rows)| Wish { keys, rows }).collect();
            // In the memory of another batch.
            let mut plan = Plan::default();
            plan.make(1, STEPS, |_| Wish { keys: &[], rows: &[7] });
            plan.make(asked.len(), STEPS, |wish| asked[wish]);

            let full = |wish: usize| -> Vec<StepKey> {
                (0..STEPS).map(|step| keys[wish].get(step).copied().unwrap_or_default()).collect()
            };
            let (mut reached, mut prefixes) = (vec![0; asked.len()], HashSet::new());
            walk(&plan, 0, &mut Vec::new(), &mut |pass, path| {
                let used: Vec<StepKey> = path.iter().map(|&(step, wish)| full(wish)[step]).collect();
                assert_eq!(path.iter().map(|&(step, _)| step).collect::<Vec<_>>(), (0..path.len()).collect::<Vec<_>>());
                for length in plan.pass(pass).steps.clone() {
                    assert!(prefixes.insert(used[..=length].to_vec()), "a prefix is computed twice");
                }
                let expected: std::collections::BTreeSet<usize> =
                    plan.wishes(pass).iter().flat_map(|&wish| rows[wish].clone()).collect();
                assert_eq!(plan.rows(pass), expected.into_iter().collect::<Vec<_>>());
                let branches = plan.branches(pass).count();
                for &wish in plan.wishes(pass) {
                    assert_eq!(full(wish)[..used.len()], used[..]);
                    assert_eq!(plan.positions(pass, &rows[wish]).count(), rows[wish].len());
                    if branches == 0 {
                        assert_eq!(used.len(), STEPS);
                        reached[wish] += 1;
                    }
                }
                assert_ne!(branches, 1);
            });
            prop_assert!(reached.iter().all(|&times| times == 1));
            let distinct: HashSet<Vec<StepKey>> =
                (0..asked.len()).flat_map(|wish| (1..=STEPS).map(move |n| (wish, n))).map(|(wish, n)| full(wish)[..n].to_vec()).collect();
            prop_assert_eq!(prefixes, distinct);
        }
    }

    #[test]
    fn heads_of_the_last_linear_alone_share_everything() {
        let rows: Vec<Vec<usize>> = (0..4).map(|row| vec![row]).collect();
        let wishes: Vec<Wish<'_>> = rows.iter().map(|rows| Wish { keys: &[], rows }).collect();
        let mut plan = Plan::default();
        plan.make(wishes.len(), STEPS, |wish| wishes[wish]);
        assert_eq!((plan.pass(0).steps.clone(), plan.rows(0).len()), (0..STEPS, 4));
        assert_eq!(plan.branches(0).count(), 0);
    }
}
