//! Plans a batch as a trie: rows whose heads use the same parameters up to a step pass that step together, once.
//!
//! It is pure: it knows a head only by the keys of the parameters that its steps use.

use std::ops::Range;

use headswap_spec::HeadInput;

/// Identifies what one step computes: equal keys mean the same computation with the same parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepKey {
    /// Pictures of this height and width enter.
    Pictures([u32; 2]),
    /// A convolution, Linear or affine layer with these parameters.
    Parameters {
        /// The weight's key; a number below [`BACKBONES_MAX`] is a backbone's index.
        weight: usize,
        /// The bias's key, as the weight's.
        bias: usize,
    },
    /// The last pooling's map becomes a vector.
    Input(HeadInput),
    /// A layer without parameters, by its kind and the bits of its number.
    Layer(u8, u32),
}

/// Limit of backbones. Their keys are the numbers below it, which are no addresses of parameters.
pub const BACKBONES_MAX: usize = 16;

impl StepKey {
    /// Returns the key of a step whose parameters are those of backbones. Backbones with an equal parameter have the index
    /// of the first of them there.
    pub fn of_backbones(weight: usize, bias: usize) -> Self {
        Self::Parameters { weight, bias }
    }

    /// Returns true if the step has parameters of another backbone than the first.
    pub fn is_of_another(self) -> bool {
        match self {
            Self::Parameters { weight, bias } => [weight, bias].into_iter().any(|key| key != 0 && is_backbones(key)),
            _ => false,
        }
    }

    /// Returns true if the step has parameters that are no backbone's.
    pub fn is_own(self) -> bool {
        match self {
            Self::Parameters { weight, bias } => !is_backbones(weight) || !is_backbones(bias),
            _ => false,
        }
    }
}

/// Returns true for the key of a backbone's parameter.
pub(super) fn is_backbones(key: usize) -> bool {
    key < BACKBONES_MAX
}

/// An entry of the trie: rows that pass the same steps. The first step is the pictures' entrance.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Height and width of its pictures, the key of the first step.
    pub size: [u32; 2],
    /// The keys of the steps after the first.
    pub keys: &'a [StepKey],
    /// Indices into the batch, ascending and distinct.
    pub rows: &'a [usize],
}

impl<'a> Entry<'a> {
    /// Returns the key of a step; none after the last.
    fn key(self, step: usize) -> Option<StepKey> {
        match step.checked_sub(1) {
            None => Some(StepKey::Pictures(self.size)),
            Some(after) => self.keys.get(after).copied(),
        }
    }

    /// Returns the keys of all steps.
    fn all_keys(self) -> impl Iterator<Item = StepKey> + use<'a> {
        (0..=self.keys.len()).filter_map(move |step| self.key(step))
    }
}

/// The trie of a batch, built for each batch in the buffers of the previous one.
#[derive(Debug, Default)]
pub struct Plan {
    /// The entries, sorted by their keys, so that those of one pass are adjacent.
    entries: Vec<usize>,
    /// The rows of all passes, one pass after the other.
    rows: Vec<usize>,
    /// The passes, each before its branches.
    passes: Vec<Pass>,
}

/// Consecutive steps that the same rows pass with the same parameters: a node of the trie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The steps; empty if the rows differ from the first step on, or if they end where others go on.
    pub steps: Range<usize>,
    /// Its range of [`Plan::entries`].
    entries: Range<usize>,
    /// Its range of [`Plan::rows`].
    rows: Range<usize>,
    /// The first pass after this one and all passes below it.
    after: usize,
}

impl Plan {
    /// Builds the trie of entries 0 to `count`. Its root is pass 0.
    pub fn make<'a>(&mut self, count: usize, entry: impl Fn(usize) -> Entry<'a>) {
        self.entries.clear();
        self.entries.extend(0..count);
        self.entries.sort_unstable_by(|&a, &b| {
            let (a_keys, b_keys) = (entry(a).all_keys(), entry(b).all_keys());
            a_keys.cmp(b_keys).then(a.cmp(&b))
        });
        self.rows.clear();
        self.passes.clear();
        self.add(0..count, 0, &entry);
    }

    /// Adds the pass of some entries from a step on, and the passes below it.
    fn add<'a>(&mut self, entries: Range<usize>, start: usize, entry: &impl Fn(usize) -> Entry<'a>) {
        let (mut end, mut is_leaf) = (start, true);
        if !entries.is_empty() {
            // The entries are sorted, with equal keys before `start`: all have the same key if the first and the last do. An
            // entry that ends comes before those that go on.
            let first = entry(self.entries[entries.start]);
            let last = entry(self.entries[entries.end - 1]);
            while first.key(end).is_some() && first.key(end) == last.key(end) {
                end += 1;
            }
            is_leaf = last.key(end).is_none();
        }

        let first_row = self.rows.len();
        for index in entries.clone() {
            for row in entry(self.entries[index]).rows {
                if let Err(position) = self.rows[first_row..].binary_search(row) {
                    self.rows.insert(first_row + position, *row);
                }
            }
        }
        let pass = self.passes.len();
        self.passes.push(Pass {
            steps: start..end,
            entries: entries.clone(),
            rows: first_row..self.rows.len(),
            after: 0,
        });
        let mut branch = entries.start;
        while !is_leaf && branch < entries.end {
            let key = entry(self.entries[branch]).key(end);
            let next = (branch..entries.end).find(|&index| entry(self.entries[index]).key(end) != key);
            let next = next.unwrap_or(entries.end);
            self.add(branch..next, end, entry);
            branch = next;
        }
        self.passes[pass].after = self.passes.len();
    }

    /// Returns a pass.
    pub fn pass(&self, pass: usize) -> &Pass {
        &self.passes[pass]
    }

    /// Returns the entries of a pass, which use the same parameters in it.
    pub fn entries(&self, pass: usize) -> &[usize] {
        &self.entries[self.passes[pass].entries.clone()]
    }

    /// Returns the rows of a pass: indices into the batch, ascending and distinct.
    pub fn rows(&self, pass: usize) -> &[usize] {
        &self.rows[self.passes[pass].rows.clone()]
    }

    /// Returns the passes that follow a pass; none after the last step.
    pub fn branches(&self, pass: usize) -> impl Iterator<Item = usize> {
        let end = self.passes[pass].after;
        let mut next = pass + 1;
        std::iter::from_fn(move || {
            let branch = next;
            if branch >= end {
                return None;
            }
            next = self.passes[branch].after;
            Some(branch)
        })
    }

    /// Returns the positions of `rows`, all of which are in the pass, among the pass's rows.
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
        StepKey::Parameters {
            weight: number,
            bias: 0,
        }
    }

    fn entry<'a>(size: u32, keys: &'a [StepKey], rows: &'a [usize]) -> Entry<'a> {
        Entry {
            size: [size; 2],
            keys,
            rows,
        }
    }

    /// Visits every pass with the path to it: each step and the entry whose parameters it uses.
    fn walk(
        plan: &Plan,
        pass: usize,
        path: &mut Vec<(usize, usize)>,
        visit: &mut impl FnMut(usize, &[(usize, usize)]),
    ) {
        let before = path.len();
        path.extend(plan.pass(pass).steps.clone().map(|step| (step, plan.entries(pass)[0])));
        visit(pass, path);
        for branch in plan.branches(pass) {
            walk(plan, branch, path, visit);
        }
        path.truncate(before);
    }

    proptest! {
        /// Each entry reaches one leaf through exactly its own keys with all of its rows, and no path of keys occurs twice.
        #[test]
        fn every_entry_uses_its_own_parameters_and_no_prefix_is_computed_twice(
            entries in prop::collection::vec(
                (
                    0u32..2,
                    prop::collection::vec(0usize..3, 0..=STEPS),
                    prop::collection::btree_set(0usize..12, 1..6),
                ),
                1..9,
            ),
        ) {
            let keys: Vec<Vec<StepKey>> =
                entries.iter().map(|(_, keys, _)| keys.iter().map(|&number| key(number)).collect()).collect();
            let rows: Vec<Vec<usize>> = entries.iter().map(|(.., rows)| rows.iter().copied().collect()).collect();
            let sizes: Vec<u32> = entries.iter().map(|(size, ..)| *size).collect();
            let entries: Vec<Entry<'_>> =
                (0..entries.len()).map(|index| entry(sizes[index], &keys[index], &rows[index])).collect();
            // In the buffers of another batch.
            let mut plan = Plan::default();
            plan.make(1, |_| entry(0, &[], &[7]));
            plan.make(entries.len(), |index| entries[index]);

            let full: Vec<Vec<StepKey>> = entries.iter().map(|entry| entry.all_keys().collect()).collect();
            let (mut reached, mut prefixes) = (vec![0; entries.len()], HashSet::new());
            walk(&plan, 0, &mut Vec::new(), &mut |pass, path| {
                let used: Vec<StepKey> = path.iter().map(|&(step, entry)| full[entry][step]).collect();
                assert_eq!(path.iter().map(|&(step, _)| step).collect::<Vec<_>>(), (0..path.len()).collect::<Vec<_>>());
                for length in plan.pass(pass).steps.clone() {
                    assert!(prefixes.insert(used[..=length].to_vec()), "a prefix is computed twice");
                }
                let expected: std::collections::BTreeSet<usize> =
                    plan.entries(pass).iter().flat_map(|&entry| rows[entry].clone()).collect();
                assert_eq!(plan.rows(pass), expected.into_iter().collect::<Vec<_>>());
                let branches = plan.branches(pass).count();
                for &entry in plan.entries(pass) {
                    assert_eq!(full[entry][..used.len()], used[..]);
                    assert_eq!(plan.positions(pass, &rows[entry]).count(), rows[entry].len());
                    if branches == 0 {
                        assert_eq!(used, full[entry]);
                        reached[entry] += 1;
                    }
                }
                assert_ne!(branches, 1);
            });
            prop_assert!(reached.iter().all(|&times| times == 1));
            let mut distinct: HashSet<Vec<StepKey>> = HashSet::new();
            for keys in &full {
                distinct.extend((1..=keys.len()).map(|length| keys[..length].to_vec()));
            }
            prop_assert_eq!(prefixes, distinct);
        }
    }

    #[test]
    fn heads_that_differ_in_their_last_linear_alone_share_all_steps() {
        let rows: Vec<Vec<usize>> = (0..4).map(|row| vec![row]).collect();
        let keys = [StepKey::of_backbones(0, 0); STEPS];
        let mut plan = Plan::default();
        plan.make(rows.len(), |index| entry(224, &keys, &rows[index]));
        assert_eq!((plan.pass(0).steps.clone(), plan.rows(0).len()), (0..STEPS + 1, 4));
        assert_eq!(plan.branches(0).count(), 0);
    }

    #[test]
    fn what_ends_where_others_go_on_is_a_pass_without_steps() {
        let keys = [key(0), key(1)];
        let mut plan = Plan::default();
        plan.make(2, |index| entry(224, &keys[..2 - index], &[0]));
        assert_eq!(plan.pass(0).steps, 0..2);
        let branches: Vec<_> = plan.branches(0).map(|branch| plan.pass(branch).steps.clone()).collect();
        assert_eq!(branches, [2..2, 2..3]);
    }
}
