//! The convolution layer.

use crate::bias::Bias;
use crate::direct::{Direct, pool};
use crate::engine::Engine;
use crate::input::CHANNELS_MAX;
use crate::maps::{COLOURS, Images, Maps};
use crate::simd::LANES;
use crate::winograd::Winograd;

/// The number type in which a layer multiplies. Its input, bias and output are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    Float,
    /// Weights, and the inputs of convolutions, are 16-bit integers with a scale per row: half the bytes and twice the
    /// products per second. More exact than bf16, which has 8 significant bits.
    Integer,
}

/// The packed weight of a 3x3 convolution with stride 1 and padding 1, followed by a ReLU.
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
    /// Packs a `weight` of `outputs` x I x 3 x 3 for speed: four times its size as floats, twice as integers. A
    /// convolution with three input channels reads pictures, and is [direct](PackedConv::direct) in either precision.
    /// Subnormal numbers become 0.
    ///
    /// # Panics
    /// If the length does not fit, `outputs` is 3, or an integer convolution has more than 576 input channels.
    pub fn new(weight: &[f32], outputs: usize, precision: Precision) -> Self {
        let inputs = inputs(weight, outputs);
        if inputs == COLOURS {
            return Self::direct(weight, outputs);
        }
        assert!(
            precision == Precision::Float || inputs <= CHANNELS_MAX,
            "sums of at most {CHANNELS_MAX} channels fit in 32 bits"
        );
        Self {
            inputs,
            outputs,
            kind: Kind::Winograd(Winograd::new(weight, inputs, outputs.div_ceil(LANES), precision)),
        }
    }

    /// Packs a `weight` of `outputs` x I x 3 x 3 to save memory: f32, and no larger than the weight if both channel
    /// counts are multiples of 16. It takes four times the multiplications. Subnormal numbers become 0.
    ///
    /// # Panics
    /// If the length does not fit, or `outputs` is 3.
    pub fn direct(weight: &[f32], outputs: usize) -> Self {
        let inputs = inputs(weight, outputs);
        Self {
            inputs,
            outputs,
            kind: Kind::Direct(Direct::new(weight, inputs)),
        }
    }

    /// Computes `output` = max(conv(`input`) + `bias`, 0), with 2x2 max pooling if `pool_after` (an odd last row or
    /// column is dropped).
    ///
    /// # Panics
    /// If the channels of `input` or `bias` differ.
    pub fn forward(&self, input: &Maps, bias: &Bias, pool_after: bool, output: &mut Maps, engine: &mut Engine) {
        self.shape_output(input.count(), input, pool_after, output);
        self.write(input, bias, pool_after, output.images(0..input.count()), engine);
    }

    /// Gives `output` the shape of [`PackedConv::forward`]'s result for `count` images of `input`'s size. Its contents
    /// are unspecified until [`PackedConv::forward_at`] has written all images.
    pub fn shape_output(&self, count: usize, input: &Maps, pool_after: bool, output: &mut Maps) {
        let (height, width) = output_sides(input, pool_after);
        output.reset(count, self.outputs, height, width);
    }

    /// As [`PackedConv::forward`], into the images of `output` from `first` on.
    ///
    /// # Panics
    /// If the channels of `input` or `bias` differ, or `output` has another shape.
    pub fn forward_at(
        &self,
        input: &Maps,
        bias: &Bias,
        pool_after: bool,
        (output, first): (&mut Maps, usize),
        engine: &mut Engine,
    ) {
        let given = (output.channels(), (output.height(), output.width()));
        let needed = (self.outputs, output_sides(input, pool_after));
        assert_eq!(given, needed, "the output's channels and sides");
        let images = output.images(first..first + input.count());
        self.write(input, bias, pool_after, images, engine);
    }

    fn write(&self, input: &Maps, bias: &Bias, pool_after: bool, output: Images<'_>, engine: &mut Engine) {
        assert_eq!(input.channels(), self.inputs, "the channels that the weights take");
        assert_eq!(bias.values().len(), self.outputs, "a bias for each channel");
        match &self.kind {
            Kind::Direct(direct) if pool_after => {
                let mut whole = std::mem::take(&mut engine.scratch.whole);
                whole.reset(input.count(), self.outputs, input.height(), input.width());
                direct.forward(input, bias, whole.images(0..input.count()), engine);
                pool(&whole, output, engine);
                engine.scratch.whole = whole;
            }
            Kind::Direct(direct) => direct.forward(input, bias, output, engine),
            Kind::Winograd(winograd) => winograd.forward(input, bias, pool_after, output, engine),
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

/// Height and width of a convolution's output.
fn output_sides(input: &Maps, pool_after: bool) -> (usize, usize) {
    let scale = if pool_after { 2 } else { 1 };
    (input.height() / scale, input.width() / scale)
}

fn inputs(weight: &[f32], outputs: usize) -> usize {
    let inputs = weight.len() / (outputs * 9);
    assert_ne!(outputs, COLOURS, "maps of three channels are pictures");
    assert_eq!(weight.len(), outputs * inputs * 9, "O x I x 3 x 3 weights");
    inputs
}
