//! Converts pictures to the first convolution's input.
//!
//! torchvision subtracts each channel's mean and divides by its standard deviation, as we do on the CPU. On a GPU that is
//! folded into the first convolution's weight. The input is then exact in 16 bits, needs one small kernel, and has the eight
//! channels that tensor cores require:
//!
//! - channels 0 to 2 are `(byte - CENTRE) / 64`, which f16 and bf16 represent exactly;
//! - channel 3 is 1 in the picture, and 0 in the convolution's padding, because a normalised picture is padded with 0;
//! - the others are 0.
//!
//! With `w` the weight of one output, `m` and `d` the mean and standard deviation of bytes:
//! `w (byte - m) / d = (64 w / d) (byte - CENTRE) / 64 + (w (CENTRE - m) / d) 1`.

use headswap_checkpoint::HostTensor;
use headswap_spec::{IMAGENET_MEAN, IMAGENET_STD};
use tch::{Kind, Tensor};

use super::placement::{PlacedTensor, Placement};
use crate::error::Result;

/// Integers near the means of bytes.
const CENTRE: [f32; 3] = [124.0, 116.0, 104.0];
const SCALE: f32 = 64.0;
/// Channels of the folded input.
const CHANNELS: usize = 8;

/// How pictures are converted.
pub(super) enum Input {
    /// As torchvision does.
    Normalised {
        /// `[3]`, of numbers in 0..=1.
        mean: PlacedTensor,
        /// `[3]`.
        deviation: PlacedTensor,
    },
    /// For a [folded](fold) weight.
    Folded {
        /// `[3]`: the value of the byte 0.
        offset: PlacedTensor,
        /// `[1]`: the difference between neighbouring bytes.
        step: PlacedTensor,
    },
}

impl Input {
    pub fn new(placement: Placement) -> Result<Self> {
        if !placement.folded {
            return Ok(Self::Normalised {
                mean: placement.place_numbers(&IMAGENET_MEAN, Kind::Float)?,
                deviation: placement.place_numbers(&IMAGENET_STD, Kind::Float)?,
            });
        }
        let offset = CENTRE.map(|centre| -centre / SCALE);
        Ok(Self::Folded {
            offset: placement.place_numbers(&offset, placement.kind)?,
            step: placement.place_numbers(&[1.0 / SCALE], placement.kind)?,
        })
    }

    /// Converts `[N, 224, 224, 3]` bytes of RGB to `[N, C, 224, 224]`, channels last in memory.
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

/// Returns the first convolution's weight, `[O, 3, H, W]`, for folded input: `[O, 8, H, W]`.
pub(super) fn fold(weight: &HostTensor) -> HostTensor {
    let [outputs, _, height, width] = weight.shape[..] else {
        unreachable!("a convolution's weight has four dimensions");
    };
    let area = height * width;
    let mut folded = vec![0f32; outputs * CHANNELS * area];
    let filters = folded.chunks_exact_mut(CHANNELS * area);
    for (filter, folded) in weight.values.chunks_exact(3 * area).zip(filters) {
        for (channel, plane) in filter.chunks_exact(area).enumerate() {
            let (mean, deviation) = (255.0 * IMAGENET_MEAN[channel], 255.0 * IMAGENET_STD[channel]);
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

    /// Pictures with bytes of every value.
    fn bytes() -> Tensor {
        let bytes: Vec<u8> = (0..2 * 16 * 16 * 3)
            .map(|index: usize| (index * 89 % 256) as u8)
            .collect();
        Tensor::from_slice(&bytes).reshape([2, 16, 16, 3])
    }

    fn input(kind: Kind, folded: bool) -> Tensor {
        let placement = Placement {
            device: Device::Cpu,
            kind,
            folded,
        };
        Input::new(placement).unwrap().of(&bytes(), placement).unwrap()
    }

    fn convolved(weight: &HostTensor, folded: bool) -> Tensor {
        let shape: Vec<i64> = weight.shape.iter().map(|&size| size as i64).collect();
        let weight = Tensor::from_slice(&weight.values).reshape(shape);
        input(Kind::Float, folded).conv2d(&weight, None::<Tensor>, 1, 1, 1, 1)
    }

    #[test]
    fn a_folded_weight_computes_the_same_as_a_normalised_picture() {
        let values = (0..4 * 3 * 9)
            .map(|index| ((index * 37 % 101) as f32 - 50.0) / 90.0)
            .collect();
        let weight = HostTensor::new(vec![4, 3, 3, 3], values);
        let (normalised, folded) = (convolved(&weight, false), convolved(&fold(&weight), true));
        let largest = f64::try_from(normalised.abs().max()).unwrap();
        let error = f64::try_from((normalised - folded).abs().max()).unwrap();
        assert!(error < 1e-6 * largest, "{error} of {largest}");
    }

    #[test]
    fn sixteen_bits_hold_a_folded_input_exactly() {
        let exact = input(Kind::Float, true);
        for kind in [Kind::BFloat16, Kind::Half] {
            let rounded = input(kind, true).to_kind(Kind::Float);
            assert!(bool::try_from(exact.eq_tensor(&rounded).all()).unwrap(), "{kind:?}");
        }
    }
}
