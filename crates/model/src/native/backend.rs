//! The forward pass of a batch on a CPU: its trie walked, then its heads' last Linears.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::accuracy::Reference;
use super::head::{NativeHead, NativePlacer};
use super::pass::NativePass;
use super::rows::Rows;
use super::weight::{NativeStack, pack};
use super::workspace::Workspace;
use crate::backend::{Backend, BackendError, HeadRows, Outputs, Placer, StillWanted, placed};
use crate::settings::{Device, Precision};
use crate::walk::ExecScratch;
use crate::weights::Backbone;

/// Packs `backbone`, without its last Linear, for an engine; int16 or else f32.
///
/// # Errors
/// [`BackendError::Settings`] if int16 computes too different features with these weights.
pub fn native_backend(
    backbone: Backbone,
    precision: Precision,
    engine: winograd::Engine,
) -> Result<Box<dyn Backend>, BackendError> {
    let mut workspace = Workspace::new(engine);
    let (steps, parameters) = (backbone.architecture.steps(), backbone.parameters);
    let (stack, precision) = if precision == Precision::Int16 {
        let reference = Reference::of(&steps, &parameters, &mut workspace)?;
        let stack = pack(steps, parameters, winograd::Precision::Integer);
        reference.check(&stack, &mut workspace)?;
        (stack, "int16")
    } else {
        (pack(steps, parameters, winograd::Precision::Float), "f32")
    };
    let stack = Arc::new(stack);
    Ok(Box::new(NativeBackend {
        placer: Arc::new(NativePlacer::new(Arc::clone(&stack))),
        stack,
        workspace,
        trail: ExecScratch::default(),
        precision,
    }))
}

struct NativeBackend {
    stack: Arc<NativeStack>,
    placer: Arc<NativePlacer>,
    workspace: Workspace,
    trail: ExecScratch<Rows>,
    precision: &'static str,
}

impl Backend for NativeBackend {
    fn prepare(&mut self, _: usize, _: &AtomicBool) -> Result<(), BackendError> {
        self.workspace.pin_caller();
        Ok(())
    }

    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>> {
        vec![vec![self]]
    }

    fn forward_if(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
        wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        if groups.is_empty() && features.is_empty() {
            return Ok(Outputs::default());
        }
        let heads: Vec<&NativeHead> = placed(groups)?;
        if !wanted.still_wanted() {
            return Err(BackendError::NotWanted);
        }
        let mut pass = NativePass {
            stack: &self.stack,
            workspace: &mut self.workspace,
            pictures,
        };
        let all = pass.workspace.pictures(0..pictures.len());
        let own = |group: usize| &heads[group].overrides;
        let leaves = self.trail.walk(&mut pass, &all, groups, own, features)?;
        self.workspace.recycle(all);

        let rows = self.workspace.join(&mut leaves.features);
        let own = |(head, places): (&&NativeHead, &Vec<usize>)| {
            let row = |index: usize| rows.row(places[index]);
            head.last(places.len(), row, &mut self.workspace)
        };
        let outputs = Outputs {
            logits: heads.iter().zip(&leaves.groups).map(own).collect(),
            features: rows.copy(&leaves.wanted),
            steps: leaves.steps.clone(),
        };
        self.workspace.recycle(Rows::Vectors(rows));
        Ok(outputs)
    }

    fn logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
        let heads: Vec<&NativeHead> = placed(groups)?;
        let own = |(head, group): (&&NativeHead, &HeadRows<'_>)| {
            let row = |index: usize| features[group.rows[index]];
            head.last(group.rows.len(), row, &mut self.workspace)
        };
        Ok(heads.iter().zip(groups).map(own).collect())
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn steps(&self) -> Vec<String> {
        self.stack.steps.iter().map(|step| step.name.clone()).collect()
    }

    fn devices(&self) -> Vec<Device> {
        vec![Device::Cpu]
    }

    fn precision(&self) -> &'static str {
        self.precision
    }
}
