//! From a picture's bytes to what the first convolution takes.
//!
//! torchvision subtracts each channel's mean and divides by its deviation. On the CPU so do we. On a GPU the first
//! convolution's weight does it, because its input is then exact in 16 bits, takes one small kernel, and has the eight
//! channels that tensor cores ask for:
//!
//! - channels 0 to 2 are `(byte - CENTRE) / 64`, which f16 and bf16 hold exactly;
//! - channel 3 is 1 in the picture, and 0 where the convolution pads, as a normalised picture's border is 0;
//! - the others are 0.
//!
//! With `w` the weight of one output, `m` and `d` the mean and deviation of bytes:
//! `w (byte - m) / d = (64 w / d) (byte - CENTRE) / 64 + (w (CENTRE - m) / d) 1`.

use headswap_checkpoint::HostTensor;
use tch::{Kind, Tensor};

use super::placement::{PlacedTensor, Placement};
use crate::error::Result;

/// ImageNet's channel means and deviations of pixels in 0..=1, as torchvision's `VGG16_Weights.IMAGENET1K_V1` has them.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Whole numbers next to the means of bytes.
const CENTRE: [f32; 3] = [124.0, 116.0, 104.0];
const SCALE: f32 = 64.0;
/// Channels of the folded input.
const CHANNELS: usize = 8;

/// How pictures become the first convolution's input.
pub(super) enum Input {
    /// As torchvision does it.
    Normalised {
        /// `[3]`, of numbers in 0..=1.
        mean: PlacedTensor,
        /// `[3]`.
        deviation: PlacedTensor,
    },
    /// For a weight that was [folded](fold).
    Folded {
        /// `[3]`: what a byte of 0 becomes.
        offset: PlacedTensor,
        /// `[1]`: the step from one byte to the next.
        step: PlacedTensor,
    },
}

impl Input {
    pub fn new(placement: Placement) -> Result<Self> {
        if !placement.folded {
            return Ok(Self::Normalised {
                mean: placement.place_numbers(&MEAN, Kind::Float)?,
                deviation: placement.place_numbers(&DEVIATION, Kind::Float)?,
            });
        }
        let offset = CENTRE.map(|centre| -centre / SCALE);
        Ok(Self::Folded {
            offset: placement.place_numbers(&offset, placement.kind)?,
            step: placement.place_numbers(&[1.0 / SCALE], placement.kind)?,
        })
    }

    /// N x 224 x 224 x 3 bytes of RGB to N x C x 224 x 224, whose memory stays in the order of the bytes (channels last).
    pub fn of(&self, pixels: &Tensor, placement: Placement) -> Result<Tensor> {
        let input = match self {
            Self::Normalised { mean, deviation } => {
                let scaled = pixels.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?;
                scaled
                    .f_sub(&mean.handle())?
                    .f_div(&deviation.handle())?
                    .f_to_kind(placement.kind)?
            }
            Self::Folded { offset, step } => {
                let mut shape = pixels.size();
                shape[3] = CHANNELS as i64;
                let input = Tensor::f_zeros(&shape, (placement.kind, placement.device))?;
                let bytes = input.f_narrow(3, 0, 3)?;
                let _ = offset.handle().f_addcmul_out(&bytes, pixels, &step.handle())?;
                let _ = input.f_narrow(3, 3, 1)?.f_fill_(1.0)?;
                input
            }
        };
        Ok(input.f_permute([0, 3, 1, 2])?)
    }
}

/// The first convolution's weight, `[O, 3, H, W]`, as it takes a folded input: `[O, 8, H, W]`.
pub(super) fn fold(weight: &HostTensor) -> HostTensor {
    let [outputs, _, height, width] = weight.shape[..] else {
        unreachable!("a convolution's weight has four dimensions");
    };
    let area = height * width;
    let mut folded = vec![0f32; outputs * CHANNELS * area];
    let filters = folded.chunks_exact_mut(CHANNELS * area);
    for (filter, folded) in weight.values.chunks_exact(3 * area).zip(filters) {
        for (channel, plane) in filter.chunks_exact(area).enumerate() {
            let (mean, deviation) = (255.0 * MEAN[channel], 255.0 * DEVIATION[channel]);
            for (at, value) in plane.iter().enumerate() {
                folded[channel * area + at] = value * SCALE / deviation;
                folded[3 * area + at] += value * (CENTRE[channel] - mean) / deviation;
            }
        }
    }
    HostTensor::new(vec![outputs, CHANNELS, height, width], folded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Bytes of every value, in pictures as large as the convolution's weights need to see their borders.
    fn bytes() -> Tensor {
        let bytes: Vec<u8> = (0..2 * 16 * 16 * 3)
            .map(|index: usize| (index * 89 % 256) as u8)
            .collect();
        Tensor::from_slice(&bytes).reshape([2, 16, 16, 3])
    }

    #[test]
    fn a_folded_weight_gives_what_a_normalised_picture_gives() {
        let values = (0..4 * 3 * 9)
            .map(|index| ((index * 37 % 101) as f32 - 50.0) / 90.0)
            .collect();
        let weight = HostTensor::new(vec![4, 3, 3, 3], values);
        let convolved = |folded: bool| {
            let placement = Placement {
                device: Device::Cpu,
                kind: Kind::Float,
                folded,
            };
            let input = Input::new(placement).unwrap().of(&bytes(), placement).unwrap();
            let folded = folded.then(|| fold(&weight));
            let weight = folded.as_ref().unwrap_or(&weight);
            let shape: Vec<i64> = weight.shape.iter().map(|&size| size as i64).collect();
            let weight = Tensor::from_slice(&weight.values).reshape(shape);
            input.conv2d(&weight, None::<Tensor>, 1, 1, 1, 1)
        };
        let (normalised, folded) = (convolved(false), convolved(true));
        let largest = f64::try_from(normalised.abs().max()).unwrap();
        let error = f64::try_from((normalised - folded).abs().max()).unwrap();
        assert!(error < 1e-6 * largest, "{error} of {largest}");
    }

    #[test]
    fn sixteen_bits_hold_a_folded_input_exactly() {
        let input = |kind| {
            let placement = Placement {
                device: Device::Cpu,
                kind,
                folded: true,
            };
            Input::new(placement)
                .unwrap()
                .of(&bytes(), placement)
                .unwrap()
                .to_kind(Kind::Float)
        };
        let exact = input(Kind::Float);
        for kind in [Kind::BFloat16, Kind::Half] {
            assert!(bool::try_from(exact.eq_tensor(&input(kind)).all()).unwrap(), "{kind:?}");
        }
    }
}
