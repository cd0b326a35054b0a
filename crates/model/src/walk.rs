//! A batch's walk through the network: the passes of its trie, one after the other.

use std::ops::Range;

use super::backend::{BackendError, HeadRows, StepCount};
use super::plan::{Plan, Wish};

/// What computes steps.
pub trait Stepper {
    /// Rows on their way.
    type Rows;
    /// What tells a head's parameters from the backbone's.
    type Head: ?Sized;

    /// How many steps there are.
    fn steps(&self) -> usize;

    /// Drives rows through some steps, perhaps none, each with a head's parameters or the backbone's.
    fn run(
        &mut self,
        steps: Range<usize>,
        rows: &Self::Rows,
        head: Option<&Self::Head>,
    ) -> Result<Self::Rows, BackendError>;

    /// Those of the rows at these positions.
    fn select(&mut self, rows: &Self::Rows, positions: &[usize]) -> Result<Self::Rows, BackendError>;

    /// Takes the memory of rows that are needed no more.
    fn recycle(&mut self, rows: Self::Rows) {
        drop(rows);
    }
}

/// The rows that reached the end of the steps.
pub struct Leaves<R> {
    /// Features, leaf by leaf.
    pub features: Vec<R>,
    /// Where each group's rows are among those of all leaves; beyond the groups, what an earlier batch left.
    pub groups: Vec<Vec<usize>>,
    /// Where the rows are whose backbone features are wanted.
    pub wanted: Vec<usize>,
    /// What each step was asked to do.
    pub steps: Vec<StepCount>,
}

/// The lists of a walk. Kept, they spare the next batch all memory but the rows', which are the stepper's.
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

/// Walks once. `heads` are the groups'.
pub fn walk<S: Stepper>(
    stepper: &mut S,
    pictures: &S::Rows,
    groups: &[HeadRows<'_>],
    heads: &[&S::Head],
    wanted: &[usize],
) -> Result<Leaves<S::Rows>, BackendError> {
    let mut trail = ExecScratch::default();
    trail.walk(stepper, pictures, groups, |group| heads[group], wanted)?;
    Ok(trail.leaves)
}

impl<R> ExecScratch<R> {
    /// Walks the trie of the groups, whose heads are `heads`, and of the rows `wanted` whose backbone features are wanted
    /// as one more wish.
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
        let wish = |index: usize| match groups.get(index) {
            Some(group) => Wish {
                keys: &group.head.keys,
                rows: &group.rows,
            },
            None => Wish {
                keys: &[],
                rows: wanted,
            },
        };
        let Self {
            plan,
            positions,
            leaves,
        } = self;
        plan.make(groups.len() + usize::from(!wanted.is_empty()), stepper.steps(), wish);
        leaves.clear(groups.len(), stepper.steps());
        let rows = stepper.select(pictures, plan.rows(0))?;
        let mut walk = Walk {
            stepper,
            plan,
            wish,
            // The backbone alone has none.
            head: |wish| (wish < groups.len()).then(|| heads(wish)),
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
        // Never shorter, since the lists of a batch with more groups are kept.
        self.groups.resize_with(groups.max(self.groups.len()), Vec::new);
        self.wanted.clear();
        self.steps.clear();
        self.steps.resize(steps, StepCount::default());
    }
}

/// One batch on its way.
struct Walk<'a, S: Stepper, W, H> {
    stepper: &'a mut S,
    plan: &'a Plan,
    wish: W,
    head: H,
    positions: &'a mut Vec<usize>,
    leaves: &'a mut Leaves<S::Rows>,
    /// Rows of the leaves.
    count: usize,
}

impl<'a, 'h, S, W, H> Walk<'a, S, W, H>
where
    S: Stepper<Head: 'h>,
    W: Fn(usize) -> Wish<'a>,
    H: Fn(usize) -> Option<&'h S::Head>,
{
    /// Drives a pass's rows through its steps and on into its branches.
    fn pass(&mut self, pass: usize, rows: &S::Rows) -> Result<(), BackendError> {
        let plan = self.plan;
        let steps = &plan.pass(pass).steps;
        for count in &mut self.leaves.steps[steps.clone()] {
            count.passes += 1;
            count.rows += plan.rows(pass).len();
        }
        // All who go this way agree.
        let head = plan.wishes(pass).first().and_then(|&wish| (self.head)(wish));
        let output = self.stepper.run(steps.clone(), rows, head)?;
        if plan.branches(pass).next().is_none() {
            self.arrive(pass, output);
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

    fn arrive(&mut self, pass: usize, output: S::Rows) {
        for &wish in self.plan.wishes(pass) {
            let places = match (self.head)(wish) {
                Some(_) => &mut self.leaves.groups[wish],
                None => &mut self.leaves.wanted,
            };
            let positions = self.plan.positions(pass, (self.wish)(wish).rows);
            places.clear();
            places.extend(positions.map(|position| self.count + position));
        }
        self.count += self.plan.rows(pass).len();
        self.leaves.features.push(output);
    }
}
