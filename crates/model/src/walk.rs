//! Executes a batch: the passes of its trie, one after the other.

use std::ops::Range;

use super::backend::{BackendError, HeadRows, StepCount};
use super::plan::{Entry, Plan};

/// Computes steps.
pub trait Stepper {
    /// The values of some rows between two steps.
    type Rows;
    /// The parameters that a head overrides.
    type Head: ?Sized;

    /// Returns the number of steps.
    fn steps(&self) -> usize;

    /// Computes some steps, perhaps none, for rows, with a head's parameters or else the backbone's.
    fn run(
        &mut self,
        steps: Range<usize>,
        rows: &Self::Rows,
        head: Option<&Self::Head>,
    ) -> Result<Self::Rows, BackendError>;

    /// Returns the rows at these positions.
    fn select(&mut self, rows: &Self::Rows, positions: &[usize]) -> Result<Self::Rows, BackendError>;

    /// Takes back rows that are no longer needed, so that their memory can be reused.
    fn recycle(&mut self, rows: Self::Rows) {
        drop(rows);
    }
}

/// The rows after the last step.
pub struct Leaves<R> {
    /// The features of each leaf.
    pub features: Vec<R>,
    /// The positions of each group's rows among those of all leaves. Lists after the last group are left from an
    /// earlier batch.
    pub groups: Vec<Vec<usize>>,
    /// The positions of the rows whose backbone features are wanted.
    pub wanted: Vec<usize>,
    /// The work of each step.
    pub steps: Vec<StepCount>,
}

/// Scratch buffers of a walk, reused so that in a steady state only the stepper allocates, for rows.
pub struct ExecScratch<R> {
    plan: Plan,
    positions: Vec<usize>,
    leaves: Leaves<R>,
}

impl<R> Default for ExecScratch<R> {
    fn default() -> Self {
        Self {
            plan: Plan::default(),
            positions: Vec::new(),
            leaves: Leaves {
                features: Vec::new(),
                groups: Vec::new(),
                wanted: Vec::new(),
                steps: Vec::new(),
            },
        }
    }
}

/// Executes one batch with new scratch buffers. `heads` are those of the groups.
pub fn walk<S: Stepper>(
    stepper: &mut S,
    pictures: &S::Rows,
    groups: &[HeadRows<'_>],
    heads: &[&S::Head],
    wanted: &[usize],
) -> Result<Leaves<S::Rows>, BackendError> {
    let mut scratch = ExecScratch::default();
    scratch.walk(stepper, pictures, groups, |group| heads[group], wanted)?;
    Ok(scratch.leaves)
}

impl<R> ExecScratch<R> {
    /// Executes a batch of groups, whose heads `heads` returns. The rows `wanted`, whose backbone features are wanted,
    /// are one more entry of the trie.
    pub fn walk<'a, S: Stepper<Rows = R>>(
        &mut self,
        stepper: &mut S,
        pictures: &R,
        groups: &[HeadRows<'_>],
        heads: impl Fn(usize) -> &'a S::Head,
        wanted: &[usize],
    ) -> Result<&mut Leaves<R>, BackendError>
    where
        S::Head: 'a,
    {
        let Self {
            plan,
            positions,
            leaves,
        } = self;
        let count = groups.len() + usize::from(!wanted.is_empty());
        plan.make(count, stepper.steps(), |index| entry(groups, wanted, index));
        leaves.clear(groups.len(), stepper.steps());
        let rows = stepper.select(pictures, plan.rows(0))?;
        let mut walk = Walk {
            stepper,
            plan,
            groups,
            wanted,
            // The wanted features are the backbone's, without a head.
            head: |entry| (entry < groups.len()).then(|| heads(entry)),
            positions,
            leaves,
            count: 0,
        };
        walk.pass(0, &rows)?;
        walk.stepper.recycle(rows);
        Ok(&mut self.leaves)
    }
}

impl<R> Leaves<R> {
    fn clear(&mut self, groups: usize, steps: usize) {
        self.features.clear();
        // Never shortened, so that the lists of a batch with more groups are kept.
        self.groups.resize_with(groups.max(self.groups.len()), Vec::new);
        self.wanted.clear();
        self.steps.clear();
        self.steps.resize(steps, StepCount::default());
    }
}

/// Returns an entry of the trie: a group or, after the last, the rows whose backbone features are wanted.
fn entry<'a>(groups: &'a [HeadRows<'_>], wanted: &'a [usize], index: usize) -> Entry<'a> {
    match groups.get(index) {
        Some(group) => Entry {
            keys: &group.head.keys,
            rows: &group.rows,
        },
        None => Entry {
            keys: &[],
            rows: wanted,
        },
    }
}

/// The execution of one batch.
struct Walk<'a, S: Stepper, H> {
    stepper: &'a mut S,
    plan: &'a Plan,
    groups: &'a [HeadRows<'a>],
    wanted: &'a [usize],
    head: H,
    positions: &'a mut Vec<usize>,
    leaves: &'a mut Leaves<S::Rows>,
    /// Rows of the leaves so far.
    count: usize,
}

impl<'h, S, H> Walk<'_, S, H>
where
    S: Stepper<Head: 'h>,
    H: Fn(usize) -> Option<&'h S::Head>,
{
    /// Computes a pass's steps, and then its branches.
    fn pass(&mut self, pass: usize, rows: &S::Rows) -> Result<(), BackendError> {
        let plan = self.plan;
        let steps = &plan.pass(pass).steps;
        for count in &mut self.leaves.steps[steps.clone()] {
            count.passes += 1;
            count.rows += plan.rows(pass).len();
        }
        // In this pass all entries use the parameters of the first.
        let head = plan.entries(pass).first().and_then(|&entry| (self.head)(entry));
        let output = self.stepper.run(steps.clone(), rows, head)?;
        if plan.branches(pass).next().is_none() {
            self.add_leaf(pass, output);
            return Ok(());
        }
        for branch in plan.branches(pass) {
            self.positions.clear();
            self.positions.extend(plan.positions(pass, plan.rows(branch)));
            let rows = self.stepper.select(&output, self.positions)?;
            self.pass(branch, &rows)?;
            self.stepper.recycle(rows);
        }
        self.stepper.recycle(output);
        Ok(())
    }

    fn add_leaf(&mut self, pass: usize, output: S::Rows) {
        for &index in self.plan.entries(pass) {
            let leaf_positions = match (self.head)(index) {
                Some(_) => &mut self.leaves.groups[index],
                None => &mut self.leaves.wanted,
            };
            let rows = entry(self.groups, self.wanted, index).rows;
            leaf_positions.clear();
            leaf_positions.extend(self.plan.positions(pass, rows).map(|position| self.count + position));
        }
        self.count += self.plan.rows(pass).len();
        self.leaves.features.push(output);
    }
}
