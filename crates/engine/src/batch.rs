//! Maps a batch's entries to rows and heads, and the results back to entries.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use headswap_model::{HeadRows, InputRow, Outputs, PlacedHead, WantedInput};

use super::cost::{Cost, picture_cost};
use super::request::{Entry, Input, PreparedPicture, Wanted};

/// The rows of a batch by head: rows with the same head share one product.
pub(super) struct Grouping {
    groups: Vec<(Arc<PlacedHead>, Vec<usize>)>,
    /// For each entry and each of its heads: the group, and the position in the group; none for a head without a row.
    positions: Vec<Vec<Option<(usize, usize)>>>,
}

impl Grouping {
    /// Groups the heads of entries. `row` returns the row of an entry's head.
    pub fn new<'a>(
        entries: impl Iterator<Item = &'a [Arc<PlacedHead>]>,
        row: impl Fn(usize, usize) -> Option<usize>,
    ) -> Self {
        let mut groups: Vec<(Arc<PlacedHead>, Vec<usize>)> = Vec::new();
        let mut by_head = HashMap::new();
        let mut positions = Vec::new();
        for (entry, heads) in entries.enumerate() {
            let mut of_entry = Vec::with_capacity(heads.len());
            for (index, head) in heads.iter().enumerate() {
                let Some(row) = row(entry, index) else {
                    of_entry.push(None);
                    continue;
                };
                let group = *by_head.entry(Arc::as_ptr(head)).or_insert_with(|| {
                    groups.push((Arc::clone(head), Vec::new()));
                    groups.len() - 1
                });
                let members = &mut groups[group].1;
                // A request may name a head twice.
                if members.last() != Some(&row) {
                    members.push(row);
                }
                of_entry.push(Some((group, members.len() - 1)));
            }
            positions.push(of_entry);
        }
        Self { groups, positions }
    }

    /// The number of entries in the batch.
    pub fn entries(&self) -> usize {
        self.positions.len()
    }

    /// Returns the heads that the network must compute for the rows of a part, counted from its first, and the group of
    /// each.
    pub fn heads(&self, part: &Range<usize>) -> (Vec<HeadRows<'_>>, Vec<usize>) {
        let (mut heads, mut groups) = (Vec::with_capacity(self.groups.len()), Vec::new());
        for (group, (head, own)) in self.groups.iter().enumerate() {
            let mut rows = Vec::with_capacity(own.len());
            rows.extend(own.iter().filter(|row| part.contains(row)).map(|row| row - part.start));
            if !rows.is_empty() {
                heads.push(HeadRows { head, rows });
                groups.push(group);
            }
        }
        (heads, groups)
    }

    /// Returns outputs to which those of each part are added.
    pub fn empty_outputs(&self) -> Outputs {
        Outputs {
            logits: vec![Vec::new(); self.groups.len()],
            ..Outputs::default()
        }
    }

    /// Returns the logits of one entry, for each of its heads; none for a head without a row.
    pub fn logits(&self, entry: usize, outputs: &Outputs) -> Vec<Option<Vec<f32>>> {
        let mut logits = Vec::with_capacity(self.positions[entry].len());
        for position in &self.positions[entry] {
            logits.push(position.map(|(group, position)| {
                let classes = self.groups[group].0.classes;
                outputs.logits[group][position * classes..(position + 1) * classes].to_vec()
            }));
        }
        logits
    }
}

/// Adds what a part computed: the logits of its groups, as [`Grouping::heads`] numbers them, and its inputs by their index.
pub(super) fn add_part(outputs: &mut Outputs, part: Outputs, groups: Vec<usize>, indices: Vec<usize>) {
    for (group, mut logits) in groups.into_iter().zip(part.logits) {
        let all = &mut outputs.logits[group];
        if all.is_empty() {
            *all = logits;
        } else {
            all.append(&mut logits);
        }
    }
    for (index, input) in indices.into_iter().zip(part.inputs) {
        outputs.inputs[index] = input;
    }
    if outputs.steps.is_empty() {
        outputs.steps = part.steps;
        return;
    }
    for (all, step) in outputs.steps.iter_mut().zip(part.steps) {
        all.passes += step.passes;
        all.rows += step.rows;
    }
}

/// The pictures of a batch as rows: each entry has one for each of its preprocessings.
pub(super) struct PictureRows<'a> {
    pub rows: Vec<InputRow<'a>>,
    /// What the entries want of their rows, entry by entry.
    pub wanted: Vec<WantedInput>,
    /// The first row of each entry.
    first: Vec<usize>,
    /// The first of each entry in `wanted`, and the end.
    first_wanted: Vec<usize>,
}

impl<'a> PictureRows<'a> {
    pub fn new(batch: &'a [Entry]) -> Self {
        let mut all = Self {
            rows: Vec::with_capacity(batch.len()),
            wanted: Vec::new(),
            first: Vec::with_capacity(batch.len()),
            first_wanted: vec![0],
        };
        for entry in batch {
            let first = all.rows.len();
            all.first.push(first);
            for picture in pictures(entry) {
                all.rows.push(InputRow {
                    picture: &picture.picture,
                    preprocessing: &picture.preprocessing,
                });
            }
            for wanted in &entry.wanted {
                all.wanted.extend(wanted_row(entry, first, wanted));
            }
            all.first_wanted.push(all.wanted.len());
        }
        all
    }

    /// Returns the row of an entry's head.
    pub fn of_head(&self, batch: &[Entry], entry: usize, head: usize) -> Option<usize> {
        let preprocessing = &batch[entry].pinned().get(head)?.preprocessing;
        let mut pictures = pictures(&batch[entry]).iter();
        Some(self.first[entry] + pictures.position(|picture| picture.preprocessing == *preprocessing)?)
    }

    /// Returns what an entry wants, as a range of `wanted`.
    pub fn wanted_of(&self, entry: usize) -> Range<usize> {
        self.first_wanted[entry]..self.first_wanted[entry + 1]
    }

    /// Returns what is wanted of the rows of a part, counted from its first, and the index of each in `wanted`.
    pub fn wanted_in(&self, part: &Range<usize>) -> (Vec<WantedInput>, Vec<usize>) {
        let (mut wanted, mut indices) = (Vec::with_capacity(self.wanted.len()), Vec::new());
        for (index, all) in self.wanted.iter().enumerate() {
            if part.contains(&all.row) {
                wanted.push(WantedInput {
                    row: all.row - part.start,
                    ..*all
                });
                indices.push(index);
            }
        }
        (wanted, indices)
    }

    /// Divides the rows into parts of about the cost `cost_max` at most.
    pub fn parts(&self, cost_max: Cost) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let (mut start, mut cost) = (0, 0);
        for (index, row) in self.rows.iter().enumerate() {
            let own = picture_cost(row.picture.size().map(|side| side as u32));
            if index > start && cost + own > cost_max {
                parts.push(start..index);
                (start, cost) = (index, 0);
            }
            cost += own;
        }
        parts.push(start..self.rows.len());
        parts
    }
}

/// The inputs of heads that a batch was given.
pub(super) struct HeadInputRows<'a> {
    pub rows: Vec<&'a [f32]>,
    /// The first row of each entry; none if it has pictures.
    first: Vec<Option<usize>>,
}

impl<'a> HeadInputRows<'a> {
    pub fn new(batch: &'a [Entry]) -> Self {
        let (mut rows, mut first): (Vec<&[f32]>, _) = (Vec::new(), Vec::with_capacity(batch.len()));
        for entry in batch {
            let Input::HeadInputs(inputs) = &entry.input else {
                first.push(None);
                continue;
            };
            first.push(Some(rows.len()));
            rows.extend(inputs.iter().map(|input| &input.values[..]));
        }
        Self { rows, first }
    }

    /// Returns the row of an entry's head.
    pub fn of_head(&self, batch: &[Entry], entry: usize, head: usize) -> Option<usize> {
        let (first, Input::HeadInputs(inputs)) = (self.first[entry]?, &batch[entry].input) else {
            return None;
        };
        let head = batch[entry].pinned().get(head)?;
        let own = Wanted {
            backbone: head.backbone,
            preprocessing: head.preprocessing,
            input: head.shared_input()?,
        };
        Some(first + inputs.iter().position(|input| input.of == own)?)
    }
}

fn pictures(entry: &Entry) -> &[PreparedPicture] {
    match &entry.input {
        Input::Prepared(pictures) => pictures,
        Input::Image(_) | Input::Pixels(_) | Input::HeadInputs(_) => &[],
    }
}

fn wanted_row(entry: &Entry, first: usize, wanted: &Wanted) -> Option<WantedInput> {
    let mut pictures = pictures(entry).iter();
    let row = pictures.position(|picture| picture.preprocessing == wanted.preprocessing)?;
    Some(WantedInput {
        row: first + row,
        backbone: wanted.backbone,
        input: wanted.input,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::head;
    use proptest::prelude::*;

    /// Logits that identify the row, the head (by its number of classes) and the class.
    fn labels(row: usize, classes: usize) -> Vec<f32> {
        (0..classes)
            .map(|class| (row * 100 + classes * 10 + class) as f32)
            .collect()
    }

    proptest! {
        #[test]
        fn every_row_gets_the_logits_of_its_heads(
            heads_of_rows in prop::collection::vec(prop::collection::vec(0usize..5, 0..4), 1..20),
            part in 1usize..50,
        ) {
            let heads: Vec<_> = (1..=5).map(head).collect();
            let rows: Vec<Vec<Arc<PlacedHead>>> =
                heads_of_rows.iter().map(|row| row.iter().map(|&h| Arc::clone(&heads[h])).collect()).collect();
            // Each entry has two rows, of which the second has no heads but head 4's, and head 3 has none.
            let row = |entry: usize, index: usize| match heads_of_rows[entry][index] {
                3 => None,
                4 => Some(2 * entry + 1),
                _ => Some(2 * entry),
            };
            let grouping = Grouping::new(rows.iter().map(Vec::as_slice), row);

            let mut outputs = grouping.empty_outputs();
            // In parts of any size.
            let end = 2 * heads_of_rows.len();
            for start in (0..end).step_by(part) {
                let part = start..end.min(start + part);
                let (groups, indices) = grouping.heads(&part);
                prop_assert!(groups.len() <= 5);
                for (group, index) in groups.iter().zip(indices) {
                    let logits = group.rows.iter().flat_map(|&row| labels(start + row, group.head.classes));
                    outputs.logits[index].extend(logits);
                }
            }
            for (entry, heads) in heads_of_rows.iter().enumerate() {
                let expected: Vec<Option<Vec<f32>>> = (0..heads.len())
                    .map(|index| Some(labels(row(entry, index)?, heads[index] + 1)))
                    .collect();
                prop_assert_eq!(grouping.logits(entry, &outputs), expected);
            }
        }
    }
}
