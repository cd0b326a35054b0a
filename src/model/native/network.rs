//! The forward pass of a batch on a CPU: its trie walked, then its heads' last Linears.

use std::sync::Arc;

use super::head::{NativeHead, NativePlacer};
use super::steps::{NativePass, NativeStack, Rows, Workspace, pack};
use crate::model::host_linear::host_linear;
use crate::model::network::{HeadRows, Network, NetworkError, Outputs, Placer, placed};
use crate::model::settings::Precision;
use crate::model::walk::{Stepper as _, walk};
use crate::model::weights::Backbone;

/// Packs `backbone`, without its last Linear, for `threads` threads; int16 or else f32.
pub fn native_network(backbone: Backbone, precision: Precision, threads: usize) -> Box<dyn Network> {
    let (numbers, precision) = match precision {
        Precision::Int16 => (winograd::Precision::Integer, "int16"),
        _ => (winograd::Precision::Float, "f32"),
    };
    let stack = Arc::new(pack(backbone.architecture.steps(), backbone.parameters, numbers));
    Box::new(NativeNetwork {
        placer: Arc::new(NativePlacer::new(Arc::clone(&stack))),
        stack,
        workspace: Workspace::new(threads),
        precision,
    })
}

struct NativeNetwork {
    stack: Arc<NativeStack>,
    placer: Arc<NativePlacer>,
    workspace: Workspace,
    precision: &'static str,
}

impl Network for NativeNetwork {
    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Network>>> {
        vec![vec![self]]
    }

    fn forward(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
    ) -> Result<Outputs, NetworkError> {
        if groups.is_empty() && features.is_empty() {
            return Ok(Outputs::default());
        }
        let heads: Vec<&NativeHead> = placed(groups)?;
        let overrides: Vec<_> = heads.iter().map(|head| &head.overrides).collect();
        let mut pass = NativePass {
            stack: &self.stack,
            workspace: &mut self.workspace,
            pictures,
        };
        let all = Rows::Pictures((0..pictures.len()).collect());
        let leaves = walk(&mut pass, &all, groups, &overrides, features)?;

        let rows: Vec<&[f32]> = leaves.features.iter().flat_map(Rows::vectors).collect();
        let last = heads.iter().zip(&leaves.groups);
        let products: Vec<_> = last
            .map(|(head, own)| head.last(own.iter().map(|&row| rows[row]).collect()))
            .collect();
        let outputs = Outputs {
            logits: host_linear(&products),
            features: leaves.wanted.iter().flat_map(|&row| rows[row]).copied().collect(),
            steps: leaves.steps,
        };
        leaves.features.into_iter().for_each(|rows| pass.recycle(rows));
        Ok(outputs)
    }

    fn logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, NetworkError> {
        let heads: Vec<&NativeHead> = placed(groups)?;
        let products: Vec<_> = heads
            .iter()
            .zip(groups)
            .map(|(head, group)| head.last(group.rows.iter().map(|&row| features[row]).collect()))
            .collect();
        Ok(host_linear(&products))
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn steps(&self) -> Vec<String> {
        self.stack.steps.iter().map(|step| step.name.clone()).collect()
    }

    fn device(&self) -> (String, String) {
        ("cpu".into(), self.precision.into())
    }
}
