//! Heads of any architecture, size and normalisation, mixed in batches.

use std::sync::Arc;

use headswap_checkpoint::{HostTensor, Parameters};
use headswap_image::Prepared;
use headswap_model::{HeadRows, InputRow, Outputs, PlacedHead, WantedInput, demo_head};
use headswap_spec::{
    Architecture, ChannelOrder, CompleteSpec, HeadInput, HeadLayer, Output, Preprocessing, Preset, Resize, ValueRange,
};

use super::open;
use crate::CASES;

fn stretched(preset: Preset, size: [u32; 2]) -> Preprocessing {
    Preprocessing {
        resize: Some(Resize::Stretch(size)),
        crop: None,
        ..preset.preprocessing()
    }
}

/// Numbers from a formula, of a magnitude that keeps that of the signal.
fn tensor(shape: &[usize], seed: usize) -> Arc<HostTensor> {
    let bound = (6.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
    let value = |at: usize| ((at * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
    let count = shape.iter().product();
    Arc::new(HostTensor::new(
        shape.to_vec(),
        (0..count).map(|at| value(at) * bound).collect(),
    ))
}

/// A head whose Linears have these widths, the first that of its input.
fn head(
    preprocessing: Preprocessing,
    input: HeadInput,
    layers: &[HeadLayer],
    widths: &[usize],
) -> (Parameters, CompleteSpec) {
    let spec = CompleteSpec {
        preprocessing,
        input,
        layers: layers.to_vec(),
        output: Output::Softmax,
        classes: widths[widths.len() - 1],
    };
    let (mut parameters, mut linear) = (Parameters::new(), 0);
    for (index, layer) in layers.iter().enumerate() {
        let Some([weight, bias]) = spec.parameter_names(index) else {
            continue;
        };
        let outputs = if *layer == HeadLayer::Linear {
            linear += 1;
            parameters.insert(weight, tensor(&[widths[linear], widths[linear - 1]], index));
            widths[linear]
        } else {
            parameters.insert(weight, tensor(&[widths[linear]], index));
            widths[linear]
        };
        parameters.insert(bias, tensor(&[outputs], index + 1));
    }
    (parameters, spec)
}

/// Heads of the narrow VGG16, whose last pooling has 16 channels and whose features are 128.
fn heads() -> Vec<(Parameters, CompleteSpec)> {
    use HeadLayer::{Affine, Elu, Gelu, L2Normalise, LeakyRelu, Linear, Relu, Sigmoid, Silu, Tanh};
    let torchvision = Preset::Torchvision.preprocessing();
    let standardised = Preprocessing {
        normalisation: ValueRange::Standardised,
        channels: ChannelOrder::Bgr,
        ..stretched(Preset::Unit, [224, 224])
    };
    vec![
        head(torchvision, HeadInput::Features, &[Linear], &[128, 10]),
        head(
            Preset::KerasCaffe.preprocessing(),
            HeadInput::Features,
            &[Linear],
            &[128, 3],
        ),
        head(torchvision, HeadInput::Features, &[Linear, Relu, Linear], &[128, 32, 7]),
        head(
            torchvision,
            HeadInput::GlobalAverage,
            &[Affine, Linear, Silu, Linear],
            &[16, 8, 5],
        ),
        head(
            standardised,
            HeadInput::GlobalMaxAverage,
            &[Linear, Tanh, Linear],
            &[32, 8, 4],
        ),
        head(
            torchvision,
            HeadInput::Flatten,
            &[Linear, LeakyRelu(Some(0.1)), Linear, Sigmoid],
            &[784, 16, 2],
        ),
        head(
            stretched(Preset::Half, [150, 150]),
            HeadInput::FlattenHwc,
            &[Linear, Elu(Some(1.0)), Linear],
            &[256, 8, 6],
        ),
        head(
            stretched(Preset::Unit, [64, 97]),
            HeadInput::Adaptive7x7,
            &[Linear, Gelu(None), Linear],
            &[784, 8, 6],
        ),
        head(
            stretched(Preset::TensorflowCaffe, [33, 32]),
            HeadInput::GlobalMax,
            &[L2Normalise, Linear],
            &[16, 5],
        ),
        head(
            stretched(Preset::Unit, [320, 180]),
            HeadInput::Features,
            &[Linear],
            &[128, 9],
        ),
    ]
}

/// A picture that a head's preprocessing could have prepared.
fn picture(spec: &CompleteSpec, seed: usize) -> Prepared {
    let [height, width] = spec.preprocessing.size().unwrap().map(|side| side as usize);
    let value = |at: usize| ((at * (seed + 31) + at / width) % 251) as u8;
    let (size, count) = ([height, width], height * width * 3);
    if spec.preprocessing.filter == headswap_spec::ResizeFilter::BilinearNoAntialias {
        return Prepared::Floats {
            size,
            values: (0..count).map(|at| f32::from(value(at)) * 0.97).collect(),
        };
    }
    Prepared::Bytes {
        size,
        values: (0..count).map(value).collect(),
    }
}

fn run(
    network: &mut dyn headswap_model::Backend,
    rows: &[(usize, usize)],
    heads: &[PlacedHead],
    specs: &[CompleteSpec],
) -> Outputs {
    let pictures: Vec<Prepared> = rows.iter().map(|&(head, seed)| picture(&specs[head], seed)).collect();
    let mut batch = Vec::new();
    for (picture, (head, _)) in pictures.iter().zip(rows) {
        batch.push(InputRow {
            picture,
            preprocessing: &specs[*head].preprocessing,
        });
    }
    let mut groups = Vec::new();
    for (index, head) in heads.iter().enumerate() {
        let own: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].0 == index).collect();
        if !own.is_empty() {
            groups.push(HeadRows { head, rows: own });
        }
    }
    let wanted: Vec<WantedInput> = rows
        .iter()
        .enumerate()
        .map(|(row, (head, _))| WantedInput {
            row,
            backbone: 0,
            input: specs[*head].input,
        })
        .collect();
    network.forward(&batch, &groups, &wanted).unwrap()
}

fn place_all(network: &dyn headswap_model::Backend) -> (Vec<PlacedHead>, Vec<CompleteSpec>) {
    let place = |(parameters, spec)| (network.placer().place(&parameters, &spec).unwrap(), spec);
    heads().into_iter().map(place).unzip()
}

/// Each row by itself, all rows in one batch, and from the inputs that the batch returned.
#[test]
fn heads_of_any_spec_are_the_same_in_any_mix() {
    for case in CASES {
        let mut network = open(Architecture::Vgg16Narrow, case, 2).0;
        let (placed, specs) = place_all(&*network);
        // Two rows of each head; the batch has them mixed.
        let rows: Vec<(usize, usize)> = (0..2 * placed.len()).map(|row| (row * 7 % placed.len(), row)).collect();
        let together = run(&mut *network, &rows, &placed, &specs);
        for (row, &(head, seed)) in rows.iter().enumerate() {
            let alone = run(&mut *network, &[(head, seed)], &placed, &specs);
            let members: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].0 == head).collect();
            let position = members.iter().position(|&member| member == row).unwrap();
            let classes = placed[head].classes;
            let logits = &together.logits[head][position * classes..][..classes];
            let cached = [HeadRows {
                head: &placed[head],
                rows: vec![0],
            }];
            let from_input = network.logits(&[&together.inputs[row]], &cached).unwrap();
            assert_eq!(placed[head].shared_input(), Some(specs[head].input));
            if case.repeatable {
                assert_eq!(alone.logits[0], logits, "head {head} alone");
                assert_eq!(from_input[0], logits, "head {head} from its input");
                continue;
            }
            let scale = logits.iter().fold(1e-6_f32, |largest, logit| largest.max(logit.abs()));
            for other in [&alone.logits[0], &from_input[0]] {
                for (got, want) in other.iter().zip(logits) {
                    assert!((got - want).abs() <= 1e-5 * scale, "head {head}: {got} {want}");
                }
            }
        }
    }
}

/// What two heads compute alike is computed once, and a head that only averages leaves the trie after the convolutions.
#[test]
fn heads_of_different_specs_share_what_agrees() {
    for case in CASES {
        let mut network = open(Architecture::Vgg16Narrow, case, 2).0;
        let (placed, specs) = place_all(&*network);
        let mut passes = |heads: &[usize]| {
            let rows: Vec<(usize, usize)> = heads.iter().map(|&head| (head, 0)).collect();
            let outputs = run(&mut *network, &rows, &placed, &specs);
            let steps = outputs.steps.iter();
            steps.map(|step| (step.passes, step.rows)).collect::<Vec<_>>()
        };
        // Another normalisation and another architecture share every convolution; the average needs no Linear.
        let shared = passes(&[0, 1, 2, 3]);
        assert_eq!(shared[..13], [(1, 4); 13]);
        assert_eq!(shared[13..], [(1, 3); 2]);
        // Another size shares nothing.
        assert_eq!(passes(&[0, 9])[..13], [(2, 2); 13]);
    }
}

#[test]
fn parameters_that_do_not_fit_are_refused() {
    for case in CASES {
        let network = open(Architecture::Vgg16Narrow, case, 1).0;
        let last = demo_head(Architecture::Vgg16Narrow, 3, 0);
        let torchvision = Preset::Torchvision.preprocessing();
        let spec = CompleteSpec {
            input: HeadInput::GlobalAverage,
            ..CompleteSpec::plain(torchvision, 3)
        };
        let refused = network
            .placer()
            .place(&last, &spec)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(refused.contains("lacks head.0.weight"), "{refused}");
        let (parameters, spec) = head(torchvision, HeadInput::Flatten, &[HeadLayer::Linear], &[128, 3]);
        let refused = network
            .placer()
            .place(&parameters, &spec)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(refused.contains("[3, 784] is expected"), "{refused}");
        let refused = network
            .placer()
            .place(&last, &CompleteSpec::plain(torchvision, 4))
            .map(|_| ())
            .unwrap_err();
        assert!(refused.to_string().contains("4 classes, and 3 logits"), "{refused}");
    }
}
