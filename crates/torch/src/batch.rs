//! The computation of one batch: its trie, its heads' last Linears, and the inputs that are wanted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use headswap_model::{HeadRows, InputRow, Outputs, StepCount, Walked, WantedInput, walk};
use tch::{Kind, Tensor};

use super::head::TorchHead;
use super::last::LastProducts;
use super::pass::TorchPass;
use super::rows::{Rows, to_host};
use crate::error::Result;

/// A batch to compute.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    pub rows: &'a [InputRow<'a>],
    pub groups: &'a [HeadRows<'a>],
    /// The head of each group.
    pub heads: &'a [&'a TorchHead],
    pub wanted: &'a [WantedInput],
}

/// Submits a batch to the device.
pub(super) fn launch(pass: &mut TorchPass<'_>, batch: Batch<'_>) -> Result<Pending> {
    let walked = Walked {
        stack: &pass.steps.stack,
        rows: batch.rows,
        groups: batch.groups,
        wanted: batch.wanted,
        program: |group: usize| &batch.heads[group].program,
    };
    let all = Rows::Pictures((0..batch.rows.len()).collect());
    let leaves = walk(pass, &all, walked)?;

    let mut values = Vec::with_capacity(leaves.values.len());
    for rows in &leaves.values {
        values.push(rows.as_vectors()?.shallow_clone());
    }
    let mut inputs = BTreeMap::new();
    for &(leaf, _) in &leaves.wanted {
        if let Entry::Vacant(copy) = inputs.entry(leaf) {
            // A copy, since the next batch may overwrite the rows; of all rows, since selecting some would need host–device
            // synchronisation.
            let rows = &values[leaf];
            copy.insert(rows.f_to_device_(rows.device(), Kind::Float, false, true)?);
        }
    }
    let last: Vec<_> = batch.heads.iter().map(|head| &head.last).zip(&leaves.groups).collect();
    Ok(Pending {
        logits: LastProducts::of(&values, &last, pass.host)?,
        inputs,
        wanted: leaves.wanted,
        steps: leaves.steps,
    })
}

/// The results of a batch, which the device may still be computing.
pub(super) struct Pending {
    logits: LastProducts,
    /// The leaves of wanted inputs, in f32.
    inputs: BTreeMap<usize, Tensor>,
    /// The leaf of each wanted input, and its position there.
    wanted: Vec<(usize, usize)>,
    steps: Vec<StepCount>,
}

impl Pending {
    /// Waits for the results and returns them. `heads` are those of the batch.
    pub fn read(self, heads: &[&TorchHead]) -> Result<Outputs> {
        let mut leaves = BTreeMap::new();
        for (leaf, rows) in self.inputs {
            leaves.insert(leaf, (to_host(&rows)?, rows.size()[1] as usize));
        }
        let mut inputs = Vec::with_capacity(self.wanted.len());
        for (leaf, position) in self.wanted {
            let (rows, width) = &leaves[&leaf];
            inputs.push(rows[position * width..][..*width].to_vec());
        }
        Ok(Outputs {
            logits: read_logits(self.logits, heads)?,
            inputs,
            steps: self.steps,
        })
    }
}

/// Waits for the last Linears' results, and applies the layers after them.
pub(super) fn read_logits(products: LastProducts, heads: &[&TorchHead]) -> Result<Vec<Vec<f32>>> {
    let mut logits = products.read()?;
    for (head, logits) in heads.iter().zip(&mut logits) {
        head.finish(logits);
    }
    Ok(logits)
}
