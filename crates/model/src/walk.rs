//! Executes a batch: the passes of its trie, one after the other.

use std::ops::Range;

use super::backend::{BackendError, HeadRows, InputRow, StepCount, WantedInput};
use super::plan::{Entry, Plan};
use super::program::{Operation, Program};
use super::stack::Stack;

/// Computes steps.
pub trait Stepper {
    /// The values of some rows between two steps.
    type Rows;
    /// A weight on the device.
    type Weight;
    /// A bias on the device.
    type Bias;

    /// Computes some steps of a program, perhaps none, for rows.
    fn run(
        &mut self,
        steps: Range<usize>,
        rows: &Self::Rows,
        program: &Program<Self::Weight, Self::Bias>,
    ) -> Result<Self::Rows, BackendError>;

    /// Returns the rows at these positions.
    fn select(&mut self, rows: &Self::Rows, positions: &[usize]) -> Result<Self::Rows, BackendError>;

    /// Takes back rows that are no longer needed, so that their memory can be reused.
    fn recycle(&mut self, rows: Self::Rows) {
        drop(rows);
    }
}

/// A batch to execute.
pub struct Walked<'a, W, B, P> {
    /// The backbones.
    pub stack: &'a Stack<W, B>,
    /// The rows.
    pub rows: &'a [InputRow<'a>],
    /// The rows of each head.
    pub groups: &'a [HeadRows<'a>],
    /// Inputs of heads that are wanted as a backbone computes them.
    pub wanted: &'a [WantedInput],
    /// Returns the program of a group's head.
    pub program: P,
}

/// Rows of a leaf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeafRows {
    /// The index of the leaf.
    pub leaf: usize,
    /// Positions among the leaf's rows.
    pub positions: Vec<usize>,
}

/// The rows after their last step.
pub struct Leaves<R> {
    /// The values of each leaf.
    pub values: Vec<R>,
    /// The rows of each group. Those after the last group are left from an earlier batch.
    pub groups: Vec<LeafRows>,
    /// The row of each wanted input: its leaf, and its position there.
    pub wanted: Vec<(usize, usize)>,
    /// The work of each step of the backbone.
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
                values: Vec::new(),
                groups: Vec::new(),
                wanted: Vec::new(),
                steps: Vec::new(),
            },
        }
    }
}

/// Executes one batch with new scratch buffers. `pictures` are the rows' pictures on the device.
pub fn walk<'a, S, P>(
    stepper: &mut S,
    pictures: &S::Rows,
    batch: Walked<'a, S::Weight, S::Bias, P>,
) -> Result<Leaves<S::Rows>, BackendError>
where
    S: Stepper,
    P: Fn(usize) -> &'a Program<S::Weight, S::Bias>,
{
    let mut scratch = ExecScratch::default();
    scratch.walk(stepper, pictures, batch)?;
    Ok(scratch.leaves)
}

impl<R> ExecScratch<R> {
    /// Executes a batch. Its groups, and then the wanted inputs, are the entries of the trie.
    pub fn walk<'a, S, P>(
        &mut self,
        stepper: &mut S,
        pictures: &R,
        batch: Walked<'a, S::Weight, S::Bias, P>,
    ) -> Result<&mut Leaves<R>, BackendError>
    where
        S: Stepper<Rows = R>,
        P: Fn(usize) -> &'a Program<S::Weight, S::Bias>,
    {
        let Self {
            plan,
            positions,
            leaves,
        } = self;
        batch.check_wanted()?;
        let count = batch.groups.len() + batch.wanted.len();
        plan.make(count, |index| batch.entry(index));
        leaves.clear(&batch);
        let rows = stepper.select(pictures, plan.rows(0))?;
        let mut walk = Walk {
            stepper,
            plan,
            batch,
            positions,
            leaves,
        };
        walk.pass(0, &rows)?;
        walk.stepper.recycle(rows);
        Ok(&mut self.leaves)
    }
}

impl<'a, W, B, P> Walked<'a, W, B, P> {
    /// Returns an entry of the trie: a group or, after the last, a wanted input.
    fn entry(&self, index: usize) -> Entry<'_> {
        if let Some(group) = self.groups.get(index) {
            return Entry {
                size: group.head.size,
                keys: &group.head.keys,
                rows: &group.rows,
            };
        }
        let wanted = &self.wanted[index - self.groups.len()];
        let size = self.size(wanted.row);
        Entry {
            size,
            keys: &self.wanted_program(wanted, size).keys,
            rows: std::slice::from_ref(&wanted.row),
        }
    }

    /// Returns what a backbone computes for a wanted input.
    fn wanted_program(&self, wanted: &WantedInput, size: [u32; 2]) -> &'a Program<W, B> {
        let program = self.stack.backbone_program(wanted.backbone, wanted.input, size);
        program.expect("the wanted inputs were checked before the walk")
    }

    /// Checks that the backbones compute the wanted inputs.
    fn check_wanted(&self) -> Result<(), BackendError> {
        for wanted in self.wanted {
            let WantedInput { backbone, input, .. } = wanted;
            let program = self.stack.backbone_program(*backbone, *input, self.size(wanted.row));
            if program.is_none() {
                let reason = format!("backbone {backbone} does not compute {input:?}");
                return Err(BackendError::Misfit(reason));
            }
        }
        Ok(())
    }

    fn rows_of(&self, index: usize) -> &[usize] {
        match self.groups.get(index) {
            Some(group) => &group.rows,
            None => std::slice::from_ref(&self.wanted[index - self.groups.len()].row),
        }
    }

    fn size(&self, row: usize) -> [u32; 2] {
        self.rows[row].picture.size().map(|side| side as u32)
    }
}

impl<R> Leaves<R> {
    fn clear<W, B, P>(&mut self, batch: &Walked<'_, W, B, P>) {
        self.values.clear();
        // Never shortened, so that the lists of a batch with more groups are kept.
        let groups = batch.groups.len().max(self.groups.len());
        self.groups.resize_with(groups, LeafRows::default);
        self.wanted.clear();
        self.wanted.resize(batch.wanted.len(), (0, 0));
        self.steps.clear();
        self.steps.resize(batch.stack.steps.len(), StepCount::default());
    }
}

/// The execution of one batch.
struct Walk<'a, 'b, S: Stepper, P> {
    stepper: &'a mut S,
    plan: &'a Plan,
    batch: Walked<'b, S::Weight, S::Bias, P>,
    positions: &'a mut Vec<usize>,
    leaves: &'a mut Leaves<S::Rows>,
}

impl<'b, S, P> Walk<'_, 'b, S, P>
where
    S: Stepper,
    P: Fn(usize) -> &'b Program<S::Weight, S::Bias>,
{
    /// Computes a pass's steps, and then its branches.
    fn pass(&mut self, pass: usize, rows: &S::Rows) -> Result<(), BackendError> {
        let plan = self.plan;
        let steps = &plan.pass(pass).steps;
        let Some(&entry) = plan.entries(pass).first() else {
            return Ok(());
        };
        // In this pass all entries compute the same as the first.
        let program = self.program(entry);
        self.leaves.count(program, steps.clone(), plan.rows(pass).len());
        let output = self.stepper.run(steps.clone(), rows, program)?;
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

    /// Returns the program of an entry.
    fn program(&self, entry: usize) -> &'b Program<S::Weight, S::Bias> {
        let batch = &self.batch;
        match entry.checked_sub(batch.groups.len()) {
            None => (batch.program)(entry),
            Some(index) => {
                let wanted = &batch.wanted[index];
                batch.wanted_program(wanted, batch.size(wanted.row))
            }
        }
    }

    fn add_leaf(&mut self, pass: usize, output: S::Rows) {
        let (leaf, plan) = (self.leaves.values.len(), self.plan);
        let groups = self.batch.groups.len();
        for &index in plan.entries(pass) {
            let mut positions = plan.positions(pass, self.batch.rows_of(index));
            match index.checked_sub(groups) {
                None => {
                    let rows = &mut self.leaves.groups[index];
                    rows.leaf = leaf;
                    rows.positions.clear();
                    rows.positions.extend(positions);
                }
                Some(wanted) => self.leaves.wanted[wanted] = (leaf, positions.next().unwrap_or_default()),
            }
        }
        self.leaves.values.push(output);
    }
}

impl<R> Leaves<R> {
    /// Counts `rows` in those of `steps` that are the backbone's, with its or a head's own parameters.
    fn count<W, B>(&mut self, program: &Program<W, B>, steps: Range<usize>, rows: usize) {
        for step in steps {
            let index = program.operation(step).and_then(Operation::backbone_step);
            if let Some(count) = index.and_then(|index| self.steps.get_mut(index)) {
                count.passes += 1;
                count.rows += rows;
            }
        }
    }
}
