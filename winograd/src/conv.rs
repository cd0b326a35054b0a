//! The convolution layer.

use crate::buffer::Buffer;
use crate::direct::Direct;
use crate::engine::Engine;
use crate::input::CHANNELS_MAX;
use crate::maps::Maps;
use crate::simd::LANES;
use crate::winograd::Winograd;

/// In which numbers a layer multiplies. Sums, activations and biases are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    Float,
    /// Weights of 16-bit integers with a scale a row; convolutions' inputs, too: half the bytes and twice the products a
    /// second. More exact than bf16, whose numbers have 8 bits.
    Integer,
}

/// A 3x3 convolution with stride 1 and padding 1, with its bias and ReLU.
#[derive(Debug)]
pub struct PackedConv {
    inputs: usize,
    outputs: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Direct(Direct),
    Winograd(Winograd),
}

impl PackedConv {
    /// Packs a `weight` of O x I x 3 x 3 and a `bias` of O. A convolution of three channels, thus of pictures, is f32 in
    /// either precision.
    ///
    /// # Panics
    /// If the lengths do not fit together, or an integer convolution has more than 576 input channels.
    pub fn new(weight: &[f32], bias: &[f32], precision: Precision) -> Self {
        let outputs = bias.len();
        let inputs = weight.len() / (outputs * 9);
        assert_eq!(weight.len(), outputs * inputs * 9, "O x I x 3 x 3 weights");
        let mut padded = Buffer::zeroed(outputs.next_multiple_of(LANES));
        padded[..outputs].copy_from_slice(bias);
        let kind = if inputs == 3 {
            Kind::Direct(Direct::new(weight, padded))
        } else {
            assert!(
                precision == Precision::Float || inputs <= CHANNELS_MAX,
                "sums of at most {CHANNELS_MAX} channels fit in 32 bits"
            );
            Kind::Winograd(Winograd::new(weight, inputs, padded, precision))
        };
        Self { inputs, outputs, kind }
    }

    /// `output` = max(conv(`input`) + bias, 0), and of that the largest of each 2 x 2 if `pool_after` (an odd last row or
    /// column is dropped).
    ///
    /// # Panics
    /// If `input` has other channels, or a convolution of pictures is to pool (in VGG16 none does).
    pub fn forward(&self, input: &Maps, pool_after: bool, output: &mut Maps, engine: &mut Engine) {
        assert_eq!(input.channels(), self.inputs, "the channels that the weights take");
        let scale = if pool_after { 2 } else { 1 };
        output.reset(
            input.count(),
            self.outputs,
            input.height() / scale,
            input.width() / scale,
        );
        match &self.kind {
            Kind::Direct(direct) => {
                assert!(!pool_after, "a convolution of pictures does not pool");
                direct.forward(input, output, engine);
            }
            Kind::Winograd(winograd) => winograd.forward(input, pool_after, output, engine),
        }
    }

    /// Channels in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Channels out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of packed weights held.
    pub fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Direct(direct) => direct.bytes(),
            Kind::Winograd(winograd) => winograd.bytes(),
        }
    }
}
