//! Several backbones in one backend.

use std::num::NonZeroUsize;

use headswap_checkpoint::{Digest, Parameters};
use headswap_model::{
    Backbone, Backend, BackendError, BackendSettings, DeviceChoice, HeadRows, Outputs, PlacedHead, WantedInput,
    demo_head, demo_head_from, demo_parameters, open_backend,
};
use headswap_spec::{Architecture, CompleteSpec, HeadInput, PICTURE_BYTES};

use super::{Case, picture, rows, torchvision};
use crate::{CASES, TORCH};

const NARROW: Architecture = Architecture::Vgg16Narrow;

/// The layer from which the second backbone has numbers of its own, and its index among the steps.
const SPLIT: (&str, usize) = ("features.14", 6);

fn backbone(mut parameters: Parameters) -> Backbone {
    parameters.retain(|name, _| !name.starts_with("classifier.6"));
    let tensors = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor.digest()));
    let digest = Digest::of_backbone(tensors);
    Backbone {
        architecture: NARROW,
        parameters,
        digest,
        legacy_digest: digest,
        classes: None,
        graph: None,
    }
}

/// The demo's, one that shares its first convolutions, and the convolutions of that one alone.
fn backbones() -> [Backbone; 3] {
    let mut second = demo_parameters(NARROW);
    second.extend(demo_head_from(NARROW, SPLIT.0, 1000, 5));
    let mut map = second.clone();
    map.retain(|name, _| name.starts_with("features."));
    [demo_parameters(NARROW), second, map].map(backbone)
}

fn open(case: Case, backbones: Vec<Backbone>) -> Box<dyn Backend> {
    let settings = BackendSettings {
        backend: case.backend,
        device: DeviceChoice::Cpu,
        precision: case.precision,
        threads: NonZeroUsize::new(2),
        pin_threads: false,
    };
    open_backend(backbones, &settings, TORCH).unwrap()
}

/// A last Linear on features, or a Linear on the means of channels.
fn head(backend: &dyn Backend, backbone: usize, input: HeadInput) -> Result<PlacedHead, BackendError> {
    let spec = CompleteSpec {
        input,
        ..CompleteSpec::plain(torchvision(), 3)
    };
    let mut parameters = Parameters::new();
    for (name, tensor) in demo_head(NARROW, 3, 9) {
        let mut tensor = (*tensor).clone();
        if input == HeadInput::GlobalAverage && tensor.shape.len() == 2 {
            tensor = headswap_checkpoint::HostTensor::new(vec![3, 16], tensor.values[..48].to_vec());
        }
        let leaf = name.rsplit('.').next().unwrap();
        let name = match input {
            HeadInput::Features => name.clone(),
            _ => format!("head.0.{leaf}"),
        };
        parameters.insert(name, tensor.into());
    }
    backend.placer().place_on(backbone, &parameters, &spec)
}

fn run(backend: &mut dyn Backend, heads: &[&PlacedHead], wanted: &[WantedInput]) -> Outputs {
    let picture = picture((0..PICTURE_BYTES).map(|at| (at * 7 % 251) as u8).collect());
    let preprocessing = torchvision();
    let groups: Vec<HeadRows<'_>> = heads.iter().map(|head| HeadRows { head, rows: vec![0] }).collect();
    let outputs = backend.forward(&rows(&[picture], &preprocessing), &groups, wanted);
    outputs.unwrap()
}

fn check(case: Case, got: &[f32], expected: &[f32]) {
    if case.repeatable {
        assert_eq!(got, expected, "{case:?}");
        return;
    }
    let scale = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= case.tolerance * scale, "{case:?}");
    }
}

fn wanted(backbone: usize, input: HeadInput) -> WantedInput {
    WantedInput {
        row: 0,
        backbone,
        input,
    }
}

#[test]
fn each_backbone_computes_as_it_does_alone() {
    use HeadInput::{Features, GlobalAverage};
    for case in CASES {
        let mut all = open(case, backbones().into());
        assert_eq!(all.last_inputs(), [Features, Features, HeadInput::Adaptive7x7]);
        let inputs = [(0, Features), (1, Features), (2, GlobalAverage)];
        let heads = inputs.map(|(backbone, input)| head(&*all, backbone, input).unwrap());
        let wants = inputs.map(|(backbone, input)| wanted(backbone, input));
        let outputs = run(&mut *all, &heads.each_ref(), &wants);
        for (index, (backbone, input)) in backbones().into_iter().zip(inputs).enumerate() {
            let mut alone = open(case, vec![backbone]);
            let head = head(&*alone, 0, input.1).unwrap();
            let expected = run(&mut *alone, &[&head], &[wanted(0, input.1)]);
            check(case, &outputs.logits[index], &expected.logits[0]);
            check(case, &outputs.inputs[index], &expected.inputs[0]);
        }
        // What backbones have in common is computed once: the last two share all convolutions.
        let passes: Vec<usize> = outputs.steps.iter().map(|step| step.passes).collect();
        let convolutions = passes.len() - 2;
        assert!(passes[..SPLIT.1].iter().all(|passes| *passes == 1), "{passes:?}");
        assert!(
            passes[SPLIT.1..convolutions].iter().all(|passes| *passes == 2),
            "{passes:?}"
        );
        // Features of both; the inputs that are wanted are those of the heads.
        assert!(passes[convolutions..].iter().all(|passes| *passes == 2), "{passes:?}");
    }
}

#[test]
fn a_backbone_without_linears_has_no_features() {
    for case in CASES {
        let mut all = open(case, backbones().into());
        let refused = head(&*all, 2, HeadInput::Features).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("neither the head nor its backbone has classifier.0"),
            "{refused}"
        );
        assert!(head(&*all, 3, HeadInput::Features).is_err());
        let picture = picture(vec![100; PICTURE_BYTES]);
        let preprocessing = torchvision();
        let rows = rows(std::slice::from_ref(&picture), &preprocessing);
        for (backbone, input) in [(2, HeadInput::Features), (3, HeadInput::GlobalAverage)] {
            let refused = all.forward(&rows, &[], &[wanted(backbone, input)]);
            assert!(matches!(refused, Err(BackendError::Misfit(_))), "{refused:?}");
        }
    }
}
