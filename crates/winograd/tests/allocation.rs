//! A second pass allocates nothing.
#![allow(missing_docs)]

#[path = "common/counting.rs"]
mod counting;

use counting::counted;
use winograd::{Bias, Engine, Maps, Normalisation, PackedConv, PackedLinear, Precision};

#[test]
fn a_second_pass_allocates_nothing() {
    // The second convolution runs in blocks, the third in stages.
    let weight = |inputs: usize, outputs: usize| vec![0.01; inputs * outputs * 9];
    let convs = [
        PackedConv::new(&weight(3, 16), 16, Precision::Integer),
        PackedConv::new(&weight(16, 512), 512, Precision::Integer),
        PackedConv::new(&weight(512, 512), 512, Precision::Integer),
        PackedConv::direct(&weight(512, 16), 16),
    ];
    let biases = convs.each_ref().map(|conv| Bias::new(&vec![0.0; conv.outputs()]));
    let linear = PackedLinear::new(&[0.1; 7 * 16 * 28 * 28], 7, Precision::Float);
    let last_bias = Bias::new(&[0.0; 7]);
    let pixels = vec![100; 224 * 224 * 3];
    let mut engine = Engine::new(2);
    let (mut a, mut b, mut rows, mut results) = (Maps::default(), Maps::default(), Vec::new(), Vec::new());
    let normalisation = Normalisation::new(224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let mut pass = || {
        normalisation.apply(&pixels, &mut a, &mut engine);
        convs[0].forward(&a, &biases[0], false, &mut b, &mut engine);
        convs[1].forward(&b, &biases[1], true, &mut a, &mut engine);
        convs[2].forward(&a, &biases[2], false, &mut b, &mut engine);
        convs[3].forward(&b, &biases[3], true, &mut a, &mut engine);
        rows.clear();
        a.flatten(&mut rows);
        linear.forward(&rows, &last_bias, false, &mut results, &mut engine);
    };
    pass();
    let ((), count) = counted(pass);
    assert_eq!(count, 0);
}
