//! The forward pass of a batch on a CPU: walks its trie, then computes its heads' last Linears.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use winograd::Engine;

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

/// Maximum number of threads for one batch. With more, layers of small maps have too little work for each, and every
/// layer ends with a wait for all threads; concurrent batches need no such wait.
const LANE_THREADS_MAX: usize = 16;

/// Packs `backbone`, without its last Linear, for an engine, in int16 or else f32.
///
/// An engine of more than 16 threads is divided into lanes ([`Backend::into_lanes`]). Until then only the first lane
/// computes, so that a batch's time is measured as it will be.
///
/// # Errors
/// [`BackendError::Settings`] if int16 computes too different features with these weights.
pub fn native_backend(
    backbone: Backbone,
    precision: Precision,
    engine: Engine,
) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(NativeBackend::new(backbone, precision, engine)?))
}

/// The network, or one lane of it.
struct NativeBackend {
    stack: Arc<NativeStack>,
    placer: Arc<NativePlacer>,
    workspace: Workspace,
    scratch: ExecScratch<Rows>,
    precision: &'static str,
    /// The other lanes' engines.
    others: Vec<Engine>,
}

impl NativeBackend {
    fn new(backbone: Backbone, precision: Precision, engine: Engine) -> Result<Self, BackendError> {
        let mut engines = engine.divide(LANE_THREADS_MAX);
        let mut workspace = Workspace::new(engines.remove(0));
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
        Ok(Self {
            placer: Arc::new(NativePlacer::new(Arc::clone(&stack))),
            stack,
            workspace,
            scratch: ExecScratch::default(),
            precision,
            others: engines,
        })
    }

    /// Returns another lane.
    fn lane(&self, engine: Engine) -> Self {
        Self {
            stack: Arc::clone(&self.stack),
            placer: Arc::clone(&self.placer),
            workspace: Workspace::new(engine),
            scratch: ExecScratch::default(),
            precision: self.precision,
            others: Vec::new(),
        }
    }
}

impl Backend for NativeBackend {
    fn prepare(&mut self, _: usize, _: &AtomicBool) -> Result<(), BackendError> {
        self.workspace.pin_caller();
        Ok(())
    }

    fn into_lanes(mut self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>> {
        // Each counts as a device. Of a device's lanes, the others get only full batches while one is busy.
        let engines = std::mem::take(&mut self.others);
        let mut lanes: Vec<Vec<Box<dyn Backend>>> = Vec::with_capacity(1 + engines.len());
        for engine in engines {
            lanes.push(vec![Box::new(self.lane(engine))]);
        }
        lanes.insert(0, vec![self]);
        lanes
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
        let leaves = self.scratch.walk(&mut pass, &all, groups, own, features)?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::{PlacedHead, WeightsSource, demo_head_from};
    use headswap_spec::{Architecture, PICTURE_BYTES};

    fn backend(threads: usize) -> NativeBackend {
        let mut backbone = Backbone::load(&WeightsSource::Demo, Architecture::Vgg16Narrow).unwrap();
        backbone.take_last_linear();
        NativeBackend::new(backbone, Precision::Int16, Engine::new(threads)).unwrap()
    }

    fn threads(backend: &mut NativeBackend) -> Vec<usize> {
        let engines = std::iter::once(&mut backend.workspace.engine).chain(&mut backend.others);
        engines.map(|engine| engine.pool().threads()).collect()
    }

    fn outputs(lane: &mut dyn Backend, head: &PlacedHead) -> (Vec<Vec<f32>>, Vec<f32>) {
        let pixels: Vec<u8> = (0..PICTURE_BYTES).map(|at| (at * 7 % 251) as u8).collect();
        let rows = vec![0, 1];
        let outputs = lane.forward(&[&pixels, &pixels], &[HeadRows { head, rows }], &[1]);
        let outputs = outputs.unwrap();
        (outputs.logits, outputs.features)
    }

    #[test]
    fn many_threads_are_several_lanes() {
        for (count, expected) in [(1, vec![1]), (16, vec![16]), (17, vec![8, 9]), (33, vec![11, 11, 11])] {
            assert_eq!(threads(&mut backend(count)), expected, "{count} threads");
        }
    }

    /// All lanes run at the same time, with the parameters and heads of one network.
    #[test]
    fn lanes_compute_what_one_thread_computes() {
        let parameters = demo_head_from(Architecture::Vgg16Narrow, "features.28", 5, 7);
        let mut alone = backend(1);
        let head = alone.placer().place(&parameters).unwrap();
        let expected = outputs(&mut alone, &head);

        let divided = backend(33);
        let stack = Arc::downgrade(&divided.stack);
        let head = divided.placer().place(&parameters).unwrap();
        let devices = Box::new(divided).into_lanes();
        assert_eq!(devices.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        std::thread::scope(|scope| {
            for mut lane in devices.into_iter().flatten() {
                let (head, expected) = (&head, &expected);
                scope.spawn(move || {
                    lane.prepare(2, &AtomicBool::new(false)).unwrap();
                    assert_eq!(outputs(&mut *lane, head), *expected);
                });
            }
        });
        drop(head);
        assert_eq!(stack.strong_count(), 0, "the weights were there once, and are gone");
    }
}
