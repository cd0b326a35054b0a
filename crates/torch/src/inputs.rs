//! Inputs of heads that an earlier batch computed.

use std::collections::BTreeMap;

use headswap_model::LeafRows;
use tch::Tensor;

use super::placement::Placement;
use crate::error::Result;

/// Inputs of heads on the device, those of one width in one leaf.
pub(super) struct Inputs {
    /// `[inputs, width]`.
    pub leaves: Vec<Tensor>,
    /// The leaf of each input, and its position there.
    places: Vec<(usize, usize)>,
}

impl Inputs {
    pub fn place(placement: Placement, inputs: &[&[f32]]) -> Result<Self> {
        let mut by_width: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, input) in inputs.iter().enumerate() {
            by_width.entry(input.len()).or_default().push(index);
        }
        let (mut leaves, mut places) = (Vec::with_capacity(by_width.len()), vec![(0, 0); inputs.len()]);
        for (width, rows) in by_width {
            let mut numbers = Vec::with_capacity(rows.len() * width);
            for (position, &index) in rows.iter().enumerate() {
                places[index] = (leaves.len(), position);
                numbers.extend_from_slice(inputs[index]);
            }
            let leaf = Tensor::f_from_slice(&numbers)?.f_reshape([rows.len() as i64, width as i64])?;
            leaves.push(leaf.f_to_device(placement.device)?.f_to_kind(placement.kind)?);
        }
        Ok(Self { leaves, places })
    }

    /// Returns where inputs of one width are.
    pub fn of(&self, inputs: &[usize]) -> LeafRows {
        let leaf = inputs.first().map_or(0, |&input| self.places[input].0);
        let positions = inputs.iter().map(|&input| self.places[input].1).collect();
        LeafRows { leaf, positions }
    }
}
