//! Maps the rows of a batch to heads, and the results back to rows.

use std::collections::HashMap;
use std::sync::Arc;

use headswap_model::{HeadRows, Outputs, PlacedHead};

/// The rows of a batch by head: rows with the same head share one product.
pub(super) struct Grouping {
    groups: Vec<(Arc<PlacedHead>, Vec<usize>)>,
    /// For each row and each of its heads: the group, and the position in the group.
    positions: Vec<Vec<(usize, usize)>>,
}

impl Grouping {
    /// Groups rows, given by their heads.
    pub fn new<'a>(rows: impl Iterator<Item = &'a [Arc<PlacedHead>]>) -> Self {
        let mut groups: Vec<(Arc<PlacedHead>, Vec<usize>)> = Vec::new();
        let mut by_head = HashMap::new();
        let mut positions = Vec::new();
        for (row, heads) in rows.enumerate() {
            let mut of_row = Vec::with_capacity(heads.len());
            for head in heads {
                let group = *by_head.entry(Arc::as_ptr(head)).or_insert_with(|| {
                    groups.push((Arc::clone(head), Vec::new()));
                    groups.len() - 1
                });
                let members = &mut groups[group].1;
                if members.last() != Some(&row) {
                    members.push(row);
                }
                of_row.push((group, members.len() - 1));
            }
            positions.push(of_row);
        }
        Self { groups, positions }
    }

    /// The number of rows in the batch.
    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    /// Returns the heads that the network must compute, each with its rows.
    pub fn heads(&self) -> Vec<HeadRows<'_>> {
        self.groups
            .iter()
            .map(|(head, rows)| HeadRows {
                head,
                rows: rows.clone(),
            })
            .collect()
    }

    /// Returns the logits of one row, for each of its heads.
    pub fn logits(&self, row: usize, outputs: &Outputs) -> Vec<Vec<f32>> {
        let mut logits = Vec::with_capacity(self.positions[row].len());
        for &(group, position) in &self.positions[row] {
            let classes = self.groups[group].0.classes;
            logits.push(outputs.logits[group][position * classes..(position + 1) * classes].to_vec());
        }
        logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        ) {
            let heads: Vec<_> = (1..=5).map(|classes| Arc::new(PlacedHead::new(classes, 0, Box::new(())))).collect();
            let rows: Vec<Vec<Arc<PlacedHead>>> =
                heads_of_rows.iter().map(|row| row.iter().map(|&h| Arc::clone(&heads[h])).collect()).collect();
            let grouping = Grouping::new(rows.iter().map(Vec::as_slice));

            let mut outputs = Outputs::default();
            for group in grouping.heads() {
                let logits = group.rows.iter().flat_map(|&row| labels(row, group.head.classes));
                outputs.logits.push(logits.collect());
            }
            prop_assert!(grouping.heads().len() <= 5);
            for (row, heads) in heads_of_rows.iter().enumerate() {
                let expected: Vec<Vec<f32>> = heads.iter().map(|head| labels(row, head + 1)).collect();
                prop_assert_eq!(grouping.logits(row, &outputs), expected);
            }
        }
    }
}
