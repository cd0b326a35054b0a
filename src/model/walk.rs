//! A batch's walk through the network: the passes of its trie, one after the other.

use std::ops::Range;

use super::network::{HeadRows, NetworkError, StepCount};
use super::plan::{Pass, Wish};

/// What computes steps.
pub(super) trait Stepper {
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
    ) -> Result<Self::Rows, NetworkError>;

    /// Those of the rows at these positions.
    fn select(&mut self, rows: &Self::Rows, positions: &[usize]) -> Result<Self::Rows, NetworkError>;

    /// Takes the memory of rows that are needed no more.
    fn recycle(&mut self, rows: Self::Rows) {
        drop(rows);
    }
}

/// The rows that reached the end of the steps.
pub(super) struct Leaves<R> {
    /// Features, leaf by leaf.
    pub features: Vec<R>,
    /// Where each group's rows are among those of all leaves.
    pub groups: Vec<Vec<usize>>,
    /// Where the rows are whose backbone features are wanted.
    pub wanted: Vec<usize>,
    /// What each step was asked to do.
    pub steps: Vec<StepCount>,
}

/// Walks the trie of the groups, whose heads are `heads`, and of the rows `wanted` whose backbone features are wanted as
/// one more wish.
pub(super) fn walk<S: Stepper>(
    stepper: &mut S,
    pictures: &S::Rows,
    groups: &[HeadRows<'_>],
    heads: &[&S::Head],
    wanted: &[usize],
) -> Result<Leaves<S::Rows>, NetworkError> {
    let wishes = groups.iter().map(|group| Wish {
        keys: &group.head.keys,
        rows: &group.rows,
    });
    let backbone = Wish {
        keys: &[],
        rows: wanted,
    };
    let wishes: Vec<Wish<'_>> = wishes.chain((!wanted.is_empty()).then_some(backbone)).collect();
    let steps = stepper.steps();
    let trie = Pass::plan(&wishes, steps);
    let mut walk = Walk {
        stepper,
        heads: heads.iter().map(|head| Some(*head)).chain([None]).collect(),
        rows: vec![Vec::new(); groups.len() + 1],
        wishes,
        counts: vec![StepCount::default(); steps],
        features: Vec::new(),
        count: 0,
    };
    let rows = walk.stepper.select(pictures, &trie.rows)?;
    walk.pass(&trie, &rows)?;
    walk.stepper.recycle(rows);
    let wanted = walk.rows.pop().unwrap_or_default();
    Ok(Leaves {
        features: walk.features,
        groups: walk.rows,
        wanted,
        steps: walk.counts,
    })
}

/// One batch on its way.
struct Walk<'a, S: Stepper> {
    stepper: &'a mut S,
    /// The head of each wish; none for the backbone alone.
    heads: Vec<Option<&'a S::Head>>,
    wishes: Vec<Wish<'a>>,
    counts: Vec<StepCount>,
    features: Vec<S::Rows>,
    /// Rows of `features`.
    count: usize,
    /// Where each wish's are among them.
    rows: Vec<Vec<usize>>,
}

impl<S: Stepper> Walk<'_, S> {
    /// Drives a pass's rows through its steps and on into its branches.
    fn pass(&mut self, pass: &Pass, rows: &S::Rows) -> Result<(), NetworkError> {
        for count in &mut self.counts[pass.steps.clone()] {
            count.passes += 1;
            count.rows += pass.rows.len();
        }
        let output = self.stepper.run(pass.steps.clone(), rows, self.heads[pass.wish])?;
        if pass.branches.is_empty() {
            for &wish in &pass.wishes {
                let positions = pass.positions(self.wishes[wish].rows);
                self.rows[wish] = positions.into_iter().map(|position| self.count + position).collect();
            }
            self.count += pass.rows.len();
            self.features.push(output);
            return Ok(());
        }
        for branch in &pass.branches {
            let rows = self.stepper.select(&output, &pass.positions(&branch.rows))?;
            self.pass(branch, &rows)?;
            self.stepper.recycle(rows);
        }
        self.stepper.recycle(output);
        Ok(())
    }
}
