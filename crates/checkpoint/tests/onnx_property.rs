//! Graphs of any layers are read as those layers, however they are written.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod head_fixture;
mod onnx_fixture;

use head_fixture::{CHANNELS, File};
use headswap_spec::HeadLayer;
use onnx_fixture::{Onnx, Value};
use proptest::prelude::*;

/// A layer, and the form in which it is written.
#[derive(Clone, Copy, Debug)]
enum Step {
    Linear { width: usize, is_gemm: bool },
    Affine,
    Relu,
    Tanh,
    Elu,
    Silu { is_first: bool },
    Identity,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1usize..6, any::<bool>()).prop_map(|(width, is_gemm)| Step::Linear { width, is_gemm }),
        Just(Step::Affine),
        Just(Step::Relu),
        Just(Step::Tanh),
        Just(Step::Elu),
        any::<bool>().prop_map(|is_first| Step::Silu { is_first }),
        Just(Step::Identity),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_layers_are_those_that_were_written(steps in prop::collection::vec(step(), 0..8), last in 2usize..5) {
        let mut file = File::new();
        let mut onnx = Onnx::new(&[0, CHANNELS as i64, 7, 7])
            .node("GlobalAveragePool", &["x"], "p", &[])
            .flatten("p", "v0");
        let (mut layers, mut width) = (Vec::new(), CHANNELS);
        let steps = steps.into_iter().chain([Step::Linear { width: last, is_gemm: true }]);
        let mut count = 0;
        for (index, step) in steps.enumerate() {
            count = index + 1;
            let (from, to, path) = (format!("v{index}"), format!("v{count}"), format!("m{index}"));
            let simple = |onnx: Onnx, operator: &str| onnx.node(operator, &[&from], &to, &[]);
            onnx = match step {
                Step::Linear { width: output, is_gemm } => {
                    file = file.linear(&path, output, width);
                    width = output;
                    layers.push(HeadLayer::Linear);
                    if is_gemm { onnx.gemm(&file, &path, &from, &to) } else { onnx.dense(&file, &path, &from, &to) }
                }
                // A product with one number is no batch norm.
                Step::Affine if width == 1 => simple(onnx, "Identity"),
                Step::Affine => {
                    let (weight, bias) = (format!("{path}.weight"), format!("{path}.bias"));
                    file = file.with(&weight, &[width]).with(&bias, &[width]);
                    layers.push(HeadLayer::Affine);
                    let product = format!("{path}/mul");
                    onnx.parameters(&file, &path)
                        .node("Mul", &[&from, &weight], &product, &[])
                        .node("Add", &[&bias, &product], &to, &[])
                }
                Step::Relu => {
                    layers.push(HeadLayer::Relu);
                    simple(onnx, "Relu")
                }
                Step::Tanh => {
                    layers.push(HeadLayer::Tanh);
                    simple(onnx, "Tanh")
                }
                Step::Elu => {
                    layers.push(HeadLayer::Elu(Some(0.5)));
                    onnx.node("Elu", &[&from], &to, &[("alpha", Value::Float(0.5))])
                }
                Step::Silu { is_first } => {
                    layers.push(HeadLayer::Silu);
                    let gate = format!("{path}/sigmoid");
                    let factors = if is_first { [&*from, &*gate] } else { [&*gate, &*from] };
                    onnx.node("Sigmoid", &[&from], &gate, &[]).node("Mul", &factors, &to, &[])
                }
                Step::Identity => simple(onnx, "Identity"),
            };
        }
        let checkpoint = onnx.open(&format!("v{count}")).unwrap();
        let mut read = Vec::new();
        for module in checkpoint.modules() {
            use headswap_checkpoint::ModuleKind as M;
            read.push(match module.kind {
                M::Linear => HeadLayer::Linear,
                M::Affine => HeadLayer::Affine,
                M::Relu => HeadLayer::Relu,
                M::Tanh => HeadLayer::Tanh,
                M::Elu { alpha } => HeadLayer::Elu(Some(alpha as f32)),
                M::Silu => HeadLayer::Silu,
                M::AdaptiveAveragePool { size: [1, 1] } => continue,
                ref other => panic!("{other:?}"),
            });
        }
        prop_assert_eq!(read, layers);
        for entry in checkpoint.tensors() {
            let tensor = checkpoint.read(entry).unwrap();
            let path = entry.file_name.split('.').next().unwrap();
            if let Some((_, shape, values)) = file.tensors.iter().find(|(name, ..)| *name == entry.file_name) {
                prop_assert_eq!((&tensor.shape, &tensor.values), (shape, values), "{}", path);
            }
        }
    }
}
