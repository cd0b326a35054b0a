//! The forward pass of a batch on a CPU: walks its trie, then computes its heads' last Linears.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use headswap_spec::{HeadInput, Step};
use winograd::Engine;

use super::accuracy::Reference;
use super::head::{NativeHead, NativePlacer};
use super::pass::NativePass;
use super::rows::Rows;
use super::weight::{NativeStack, pack};
use super::workspace::Workspace;
use crate::backend::{Backend, BackendError, HeadRows, InputRow, Outputs, Placer, StillWanted, WantedInput, placed};
use crate::settings::{Device, Precision};
use crate::walk::{ExecScratch, Walked};
use crate::weights::Backbone;

/// Maximum number of threads for one batch. With more, layers of small maps have too little work for each, and every
/// layer ends with a wait for all threads; concurrent batches need no such wait.
const LANE_THREADS_MAX: usize = 16;

/// Packs `backbones`, at least one, without their last Linears, for an engine, in int16 or else f32. All are of the first
/// one's architecture.
///
/// An engine of more than 16 threads is divided into lanes ([`Backend::into_lanes`]). Until then only the first lane
/// computes, so that a batch's time is measured as it will be.
///
/// # Errors
/// [`BackendError::Settings`] if int16 computes too different features with these weights.
pub fn native_backend(
    backbones: Vec<Backbone>,
    precision: Precision,
    engine: Engine,
) -> Result<Box<dyn Backend>, BackendError> {
    Ok(Box::new(NativeBackend::new(backbones, precision, engine)?))
}

/// Returns the steps of the backbones' architecture.
fn steps(backbones: &[Backbone]) -> Result<Vec<Step>, BackendError> {
    let [first, others @ ..] = backbones else {
        return Err(BackendError::Settings("there is no backbone".into()));
    };
    if others.iter().any(|other| other.architecture != first.architecture) {
        return Err(BackendError::Settings(
            "the backbones have several architectures".into(),
        ));
    }
    Ok(first.architecture.steps())
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
    fn new(backbones: Vec<Backbone>, precision: Precision, engine: Engine) -> Result<Self, BackendError> {
        let mut engines = engine.divide(LANE_THREADS_MAX);
        let mut workspace = Workspace::new(engines.remove(0));
        let steps = steps(&backbones)?;
        let mut parameters = Vec::with_capacity(backbones.len());
        for backbone in backbones {
            parameters.push(backbone.parameters);
        }
        let (stack, precision) = if precision == Precision::Int16 {
            let mut references = Vec::with_capacity(parameters.len());
            for backbone in &parameters {
                references.push(Reference::of(&steps, backbone, &mut workspace)?);
            }
            let stack = pack(steps, parameters, winograd::Precision::Integer);
            for (backbone, reference) in references.iter().enumerate() {
                reference.check(&stack, backbone, &mut workspace)?;
            }
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
        rows: &[InputRow<'_>],
        groups: &[HeadRows<'_>],
        wanted: &[WantedInput],
        still_wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        if groups.is_empty() && wanted.is_empty() {
            return Ok(Outputs::default());
        }
        let heads: Vec<&NativeHead> = placed(groups)?;
        if !still_wanted.still_wanted() {
            return Err(BackendError::NotWanted);
        }
        let mut pass = NativePass {
            workspace: &mut self.workspace,
            rows,
        };
        let all = pass.workspace.pictures(0..rows.len());
        let batch = Walked {
            stack: &self.stack,
            rows,
            groups,
            wanted,
            program: |group: usize| &heads[group].program,
        };
        let leaves = self.scratch.walk(&mut pass, &all, batch)?;
        self.workspace.recycle(all);

        let mut outputs = Outputs {
            logits: Vec::with_capacity(heads.len()),
            inputs: Vec::with_capacity(wanted.len()),
            steps: leaves.steps.clone(),
        };
        for (head, place) in heads.iter().zip(&leaves.groups) {
            let values = leaves.values[place.leaf].as_vectors();
            let row = |index: usize| values.row(place.positions[index]);
            outputs
                .logits
                .push(head.last(place.positions.len(), row, &mut self.workspace));
        }
        for &(leaf, position) in &leaves.wanted {
            outputs
                .inputs
                .push(leaves.values[leaf].as_vectors().row(position).to_vec());
        }
        for values in leaves.values.drain(..) {
            self.workspace.recycle(values);
        }
        Ok(outputs)
    }

    fn logits(&mut self, inputs: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
        let heads: Vec<&NativeHead> = placed(groups)?;
        let mut logits = Vec::with_capacity(heads.len());
        for (head, group) in heads.into_iter().zip(groups) {
            let row = |index: usize| inputs[group.rows[index]];
            logits.push(head.of_inputs(group.rows.len(), row, &mut self.workspace)?);
        }
        Ok(logits)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn last_inputs(&self) -> Vec<HeadInput> {
        self.stack.last_inputs()
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
    use headswap_image::Prepared;
    use headswap_spec::{Architecture, CompleteSpec, PICTURE_BYTES, Preset};

    fn backend(threads: usize) -> NativeBackend {
        let mut backbone = Backbone::load(&WeightsSource::Demo, Architecture::Vgg16Narrow).unwrap();
        backbone.take_last_linear();
        NativeBackend::new(vec![backbone], Precision::Int16, Engine::new(threads)).unwrap()
    }

    fn spec() -> CompleteSpec {
        CompleteSpec::plain(Preset::Torchvision.preprocessing(), 5)
    }

    fn threads(backend: &mut NativeBackend) -> Vec<usize> {
        let engines = std::iter::once(&mut backend.workspace.engine).chain(&mut backend.others);
        engines.map(|engine| engine.pool().threads()).collect()
    }

    fn outputs(lane: &mut dyn Backend, head: &PlacedHead) -> (Vec<Vec<f32>>, Vec<f32>) {
        let picture = Prepared::Bytes {
            size: [224, 224],
            values: (0..PICTURE_BYTES).map(|at| (at * 7 % 251) as u8).collect(),
        };
        let row = InputRow {
            picture: &picture,
            preprocessing: &Preset::Torchvision.preprocessing(),
        };
        let wanted = [WantedInput {
            row: 1,
            backbone: 0,
            input: HeadInput::Features,
        }];
        let rows = vec![0, 1];
        let mut outputs = lane.forward(&[row, row], &[HeadRows { head, rows }], &wanted).unwrap();
        (outputs.logits, outputs.inputs.remove(0))
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
        let head = alone.placer().place(&parameters, &spec()).unwrap();
        let expected = outputs(&mut alone, &head);

        let divided = backend(33);
        let stack = Arc::downgrade(&divided.stack);
        let head = divided.placer().place(&parameters, &spec()).unwrap();
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
