//! The machine's stack, with its marks.

use super::malformed;
use super::objects::Ref;
use crate::error::CheckpointError;

/// References to values. Those above the last mark are the elements of one container.
#[derive(Default)]
pub(super) struct Stack {
    values: Vec<Ref>,
    /// The greatest height so far, for which memory was allocated.
    height_max: usize,
    /// Heights of the stack, at the marks.
    marks: Vec<usize>,
}

impl Stack {
    pub fn push(&mut self, value: Ref) {
        self.values.push(value);
        self.height_max = self.height_max.max(self.values.len());
    }

    /// Returns true if the next value needs memory that no value needed before.
    pub fn is_at_its_highest(&self) -> bool {
        self.values.len() == self.height_max
    }

    pub fn mark(&mut self) {
        self.marks.push(self.values.len());
    }

    pub fn top(&self) -> Result<Ref, CheckpointError> {
        self.values.last().copied().ok_or_else(empty)
    }

    pub fn pop(&mut self) -> Result<Ref, CheckpointError> {
        self.values.pop().ok_or_else(empty)
    }

    pub fn pop_many(&mut self, count: usize) -> Result<Vec<Ref>, CheckpointError> {
        let left = self.values.len().checked_sub(count).ok_or_else(empty)?;
        Ok(self.values.split_off(left))
    }

    /// Pops the last mark and all values above it.
    pub fn pop_mark(&mut self) -> Result<Vec<Ref>, CheckpointError> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.values.len());
        Ok(self.values.split_off(mark.ok_or_else(empty)?))
    }
}

fn empty() -> CheckpointError {
    malformed("it takes from an empty stack")
}
