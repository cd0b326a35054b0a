//! One batch: whose rows go through which head, and whose answer each result is.

use std::collections::HashMap;
use std::sync::Arc;

use headswap_model::{HeadRows, Outputs, PlacedHead};

/// The rows of a batch by head. Requests that ask the same version share one product.
pub(super) struct Grouping {
    groups: Vec<(Arc<PlacedHead>, Vec<usize>)>,
    /// For each row and each head it asked for: the group, and the position in the group.
    places: Vec<Vec<(usize, usize)>>,
}

impl Grouping {
    /// Groups the heads that each row asks for.
    pub fn new<'a>(rows: impl Iterator<Item = &'a [Arc<PlacedHead>]>) -> Self {
        let mut groups: Vec<(Arc<PlacedHead>, Vec<usize>)> = Vec::new();
        let mut by_head = HashMap::new();
        let place = |(row, heads): (usize, &'a [Arc<PlacedHead>])| {
            let mut place_one = |head: &Arc<PlacedHead>| {
                let group = *by_head.entry(Arc::as_ptr(head)).or_insert_with(|| {
                    groups.push((Arc::clone(head), Vec::new()));
                    groups.len() - 1
                });
                let members = &mut groups[group].1;
                if members.last() != Some(&row) {
                    members.push(row);
                }
                (group, members.len() - 1)
            };
            heads.iter().map(&mut place_one).collect()
        };
        let places = rows.enumerate().map(place).collect();
        Self { groups, places }
    }

    /// How many rows the batch has.
    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// What the network is asked to compute.
    pub fn heads(&self) -> Vec<HeadRows<'_>> {
        self.groups
            .iter()
            .map(|(head, rows)| HeadRows {
                head,
                rows: rows.clone(),
            })
            .collect()
    }

    /// For one row, the logits of each head it asked for.
    pub fn logits(&self, row: usize, outputs: &Outputs) -> Vec<Vec<f32>> {
        let one = |&(group, position): &(usize, usize)| {
            let classes = self.groups[group].0.classes;
            outputs.logits[group][position * classes..(position + 1) * classes].to_vec()
        };
        self.places[row].iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each logit is labelled with its head and row; every request must get back exactly its own.
        #[test]
        fn every_row_gets_the_logits_of_the_heads_it_asked_for(
            asked in prop::collection::vec(prop::collection::vec(0usize..5, 0..4), 1..20),
        ) {
            let heads: Vec<_> = (1..=5).map(|classes| Arc::new(PlacedHead::new(classes, 0, Box::new(())))).collect();
            let rows: Vec<Vec<Arc<PlacedHead>>> =
                asked.iter().map(|row| row.iter().map(|&h| Arc::clone(&heads[h])).collect()).collect();
            let grouping = Grouping::new(rows.iter().map(Vec::as_slice));

            let label = |group: &HeadRows<'_>| -> Vec<f32> {
                let one = |&row: &usize| (0..group.head.classes).map(move |c| (row * 100 + group.head.classes * 10 + c) as f32);
                group.rows.iter().flat_map(one).collect()
            };
            let outputs = Outputs { logits: grouping.heads().iter().map(label).collect(), ..Outputs::default() };
            prop_assert!(grouping.heads().len() <= 5);
            for (row, asked) in asked.iter().enumerate() {
                let expected: Vec<Vec<f32>> =
                    asked.iter().map(|h| (0..=*h).map(|c| (row * 100 + (h + 1) * 10 + c) as f32).collect()).collect();
                prop_assert_eq!(grouping.logits(row, &outputs), expected);
            }
        }
    }
}
