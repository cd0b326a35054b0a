//! How a batch walks the network: as a trie, so that rows part only where their heads do.
//!
//! Pure: it knows of a head only which parameters each step uses, as a key. Rows whose heads use the same parameters up
//! to a step have passed that step together, once.

use std::collections::HashMap;
use std::ops::Range;

/// What tells the parameters of one step apart: equal keys, equal parameters. The backbone's are [`StepKey::default`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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

/// Steps that the same rows pass with the same parameters, and where they go from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The steps; empty if the rows part before the first one.
    pub steps: Range<usize>,
    /// The wish whose parameters the steps use; all wishes that pass here agree.
    pub wish: usize,
    /// Indices into the batch, ascending, each once.
    pub rows: Vec<usize>,
    /// Where the rows part; empty at the end of the network.
    pub branches: Vec<Pass>,
    /// The wishes that pass here.
    pub wishes: Vec<usize>,
}

impl Pass {
    /// The trie of `wishes` over `steps` steps.
    pub fn plan(wishes: &[Wish<'_>], steps: usize) -> Self {
        Self::from_step(wishes, (0..wishes.len()).collect(), 0, steps)
    }

    fn from_step(wishes: &[Wish<'_>], members: Vec<usize>, start: usize, steps: usize) -> Self {
        let key = |wish: usize, step: usize| wishes[wish].keys.get(step).copied().unwrap_or_default();
        let first = members.first().copied().unwrap_or_default();
        let agree = |step: usize| members.iter().all(|&wish| key(wish, step) == key(first, step));
        let end = (start..steps).find(|&step| !agree(step)).unwrap_or(steps);

        let mut branches: Vec<Vec<usize>> = Vec::new();
        if end < steps {
            let mut by_key = HashMap::new();
            for &wish in &members {
                let branch = *by_key.entry(key(wish, end)).or_insert_with(|| {
                    branches.push(Vec::new());
                    branches.len() - 1
                });
                branches[branch].push(wish);
            }
        }
        let mut rows: Vec<usize> = members.iter().flat_map(|&wish| wishes[wish].rows).copied().collect();
        rows.sort_unstable();
        rows.dedup();
        Self {
            steps: start..end,
            wish: first,
            rows,
            branches: branches
                .into_iter()
                .map(|members| Self::from_step(wishes, members, end, steps))
                .collect(),
            wishes: members,
        }
    }

    /// Where these rows, all of which pass here, lie among this pass's rows.
    pub fn positions(&self, rows: &[usize]) -> Vec<usize> {
        rows.iter()
            .filter_map(|row| self.rows.binary_search(row).ok())
            .collect()
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

    /// Every pass from the root to a leaf, each step with the rows that pass it.
    fn walk(pass: &Pass, path: &mut Vec<(usize, usize)>, visit: &mut impl FnMut(&Pass, &[(usize, usize)])) {
        let before = path.len();
        path.extend(pass.steps.clone().map(|step| (step, pass.wish)));
        visit(pass, path);
        for branch in &pass.branches {
            walk(branch, path, visit);
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
            let trie = Pass::plan(&asked, STEPS);

            let full = |wish: usize| -> Vec<StepKey> {
                (0..STEPS).map(|step| keys[wish].get(step).copied().unwrap_or_default()).collect()
            };
            let (mut reached, mut prefixes) = (vec![0; asked.len()], HashSet::new());
            walk(&trie, &mut Vec::new(), &mut |pass, path| {
                let used: Vec<StepKey> = path.iter().map(|&(step, wish)| full(wish)[step]).collect();
                assert_eq!(path.iter().map(|&(step, _)| step).collect::<Vec<_>>(), (0..path.len()).collect::<Vec<_>>());
                for length in pass.steps.clone() {
                    assert!(prefixes.insert(used[..=length].to_vec()), "a prefix is computed twice");
                }
                let expected: std::collections::BTreeSet<usize> =
                    pass.wishes.iter().flat_map(|&wish| rows[wish].clone()).collect();
                assert_eq!(pass.rows, expected.into_iter().collect::<Vec<_>>());
                for &wish in &pass.wishes {
                    assert_eq!(full(wish)[..used.len()], used[..]);
                    assert_eq!(pass.positions(&rows[wish]).len(), rows[wish].len());
                    if pass.branches.is_empty() {
                        assert_eq!(used.len(), STEPS);
                        reached[wish] += 1;
                    }
                }
                assert!(pass.branches.is_empty() || pass.branches.len() > 1);
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
        let trie = Pass::plan(&wishes, STEPS);
        assert_eq!(
            (trie.steps.clone(), trie.rows.len(), trie.branches.len()),
            (0..STEPS, 4, 0)
        );
    }
}
