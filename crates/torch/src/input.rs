//! Converts pictures to the first convolution's input.
//!
//! On the CPU the input is the normalised picture. On a GPU torchvision's normalisation, which subtracts each channel's mean
//! and divides by its standard deviation, is folded into the first convolution's weight. The input is then exact in 16 bits,
//! needs one small kernel, and has the eight channels that tensor cores require:
//!
//! - channels 0 to 2 are `(byte - CENTRE) / 64`, which f16 and bf16 represent exactly;
//! - channel 3 is 1 in the picture, and 0 in the convolution's padding, because a normalised picture is padded with 0;
//! - the others are 0.
//!
//! With `w` the weight of one output, `m` and `d` the mean and standard deviation of bytes:
//! `w (byte - m) / d = (64 w / d) (byte - CENTRE) / 64 + (w (CENTRE - m) / d) 1`.
//!
//! The same weight serves every other normalisation, since each is affine by channel: what becomes `n` is given to the
//! convolution as the byte that torchvision would have made `n` of, `n d + m`, which need not be an integer
//! ([`Conversion`]). Rounded to 16 bits, its error is that of `n` itself, as `CENTRE` is within 0.4 of `m`.

use headswap_checkpoint::HostTensor;
use headswap_image::Prepared;
use headswap_model::InputRow;
use headswap_spec::{ChannelOrder, IMAGENET_MEAN, IMAGENET_STD, PICTURE_SIDE, Preset};
use tch::{Kind, Tensor};

use super::placement::{PlacedTensor, Placement};
use crate::error::Result;

/// Integers near the means of bytes.
const CENTRE: [f32; 3] = [124.0, 116.0, 104.0];
const SCALE: f32 = 64.0;
/// Channels of the folded input.
const CHANNELS: usize = 8;

/// Returns the normalised pictures of rows of one size: `[N, 3, height, width]`, channels last in memory.
pub(super) fn normalised<'a>(rows: impl Iterator<Item = &'a InputRow<'a>>, kind: Kind) -> Result<Tensor> {
    let (mut values, mut shape) = (Vec::new(), [0, 3, 0, 0]);
    for row in rows {
        let [height, width] = row.picture.size().map(|side| side as i64);
        shape = [shape[0] + 1, 3, height, width];
        values.extend(row.picture.normalised(row.preprocessing));
    }
    let planes = Tensor::f_from_slice(&values)?.f_reshape(shape)?.f_to_kind(kind)?;
    Ok(planes
        .f_permute([0, 2, 3, 1])?
        .f_contiguous()?
        .f_permute([0, 3, 1, 2])?)
}

/// Makes the input of a [folded](fold) weight.
pub(super) struct FoldedInput {
    placement: Placement,
    /// `[3]`: the value of the byte 0.
    offset: PlacedTensor,
    /// `[1]`: the difference between neighbouring bytes.
    step: PlacedTensor,
}

impl FoldedInput {
    pub fn new(placement: Placement) -> Result<Self> {
        let offset = CENTRE.map(|centre| -centre / SCALE);
        Ok(Self {
            placement,
            offset: placement.place_numbers(&offset, placement.kind)?,
            step: placement.place_numbers(&[1.0 / SCALE], placement.kind)?,
        })
    }

    /// Converts bytes that torchvision's normalisation is for, `[N, height, width, 3]`, to `[rows, 8, height, width]`,
    /// channels last in memory. The rows after the first N are of no picture.
    pub fn of_bytes(&self, pixels: &Tensor, rows: usize) -> Result<Tensor> {
        self.fill(&pixels.size(), rows, |colours| {
            let _ = self
                .offset
                .handle()
                .f_addcmul_out(colours, pixels, &self.step.handle())?;
            Ok(())
        })
    }

    /// Converts values, `[N, height, width, 3]` in f32, by `factors` and `offsets`, both `[N, 1, 1, 3]` in f32, as
    /// [`FoldedInput::of_bytes`] does.
    pub fn of_values(&self, values: &Tensor, factors: &Tensor, offsets: &Tensor, rows: usize) -> Result<Tensor> {
        self.fill(&values.size(), rows, |colours| {
            colours.shallow_clone().f_copy_(&offsets.f_addcmul(values, factors)?)?;
            Ok(())
        })
    }

    /// Returns input whose colours `fill` writes, `[N, height, width, 3]` of the shape of the pictures.
    fn fill(&self, pictures: &[i64], rows: usize, fill: impl FnOnce(&Tensor) -> Result<()>) -> Result<Tensor> {
        let shape = [rows as i64, pictures[1], pictures[2], CHANNELS as i64];
        let input = Tensor::f_zeros(shape, (self.placement.kind, self.placement.device))?;
        fill(&input.f_narrow(0, 0, pictures[0])?.f_narrow(3, 0, 3)?)?;
        let _ = input.f_narrow(3, 3, 1)?.f_fill_(1.0)?;
        Ok(input.f_permute([0, 3, 1, 2])?)
    }
}

/// How the values of 0 to 255 of one picture become folded input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Conversion {
    /// True if the input's channels are the picture's from the last to the first.
    pub reversed: bool,
    factor: [f32; 3],
    offset: [f32; 3],
}

impl Conversion {
    /// The numbers of [`Conversion::numbers`].
    pub const NUMBERS: usize = 9;

    pub fn of(row: InputRow<'_>) -> Self {
        if is_torchvisions(row) {
            return Self {
                reversed: false,
                factor: [1.0 / SCALE; 3],
                offset: CENTRE.map(|centre| -centre / SCALE),
            };
        }
        let channels = row.picture.channels(row.preprocessing);
        let (mut factor, mut offset) = ([0.0; 3], [0.0; 3]);
        for channel in 0..3 {
            // From the ends of the range, where the rounding of their difference is least.
            let [first, last] = [0.0, 255.0].map(|value| f64::from(channels[channel].apply(value)));
            let (mean, deviation) = byte_statistics(channel);
            let (mean, deviation) = (f64::from(mean), f64::from(deviation));
            let (scale, centre) = (f64::from(SCALE), f64::from(CENTRE[channel]));
            factor[channel] = ((last - first) / 255.0 * deviation / scale) as f32;
            offset[channel] = ((first * deviation + mean - centre) / scale) as f32;
        }
        Self {
            reversed: channels[0].source != 0,
            factor,
            offset,
        }
    }

    /// Returns what the device needs: three factors, three offsets, and three times 1 if the channels are reversed, else 0.
    pub fn numbers(self) -> [f32; Self::NUMBERS] {
        let mut numbers = [f32::from(u8::from(self.reversed)); Self::NUMBERS];
        numbers[..3].copy_from_slice(&self.factor);
        numbers[3..6].copy_from_slice(&self.offset);
        numbers
    }
}

/// Returns true if a row needs no [`Conversion`]: bytes of VGG16's own size, for torchvision's normalisation.
pub(super) fn is_plain(row: InputRow<'_>) -> bool {
    matches!(row.picture, Prepared::Bytes { size, .. } if *size == [PICTURE_SIDE; 2]) && is_torchvisions(row)
}

fn is_torchvisions(row: InputRow<'_>) -> bool {
    row.preprocessing.channels != ChannelOrder::Bgr
        && row.preprocessing.normalisation == Preset::Torchvision.preprocessing().normalisation
}

/// Returns the mean and the standard deviation of a channel's bytes that are folded into the weight.
fn byte_statistics(channel: usize) -> (f32, f32) {
    (255.0 * IMAGENET_MEAN[channel], 255.0 * IMAGENET_STD[channel])
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
            let (mean, deviation) = byte_statistics(channel);
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
    use headswap_spec::{Preprocessing, Resize, ValueRange};
    use tch::Device;

    const SIDE: usize = 16;

    /// A picture with bytes of every value.
    fn bytes() -> Prepared {
        Prepared::Bytes {
            size: [SIDE; 2],
            values: (0..SIDE * SIDE * 3).map(|index| (index * 89 % 256) as u8).collect(),
        }
    }

    fn floats() -> Prepared {
        Prepared::Floats {
            size: [SIDE; 2],
            values: (0..SIDE * SIDE * 3)
                .map(|index| (index * 89 % 256) as f32 * 0.99)
                .collect(),
        }
    }

    fn folded(kind: Kind) -> FoldedInput {
        let placement = Placement {
            device: Device::Cpu,
            kind,
            gpu: true,
        };
        FoldedInput::new(placement).unwrap()
    }

    /// The values of a picture, `[1, height, width, 3]` in f32.
    fn values(picture: &Prepared) -> Tensor {
        let values: Vec<f32> = match picture {
            Prepared::Bytes { values, .. } => values.iter().map(|&byte| f32::from(byte)).collect(),
            Prepared::Floats { values, .. } => values.clone(),
        };
        Tensor::from_slice(&values).reshape([1, SIDE as i64, SIDE as i64, 3])
    }

    fn converted(row: InputRow<'_>, kind: Kind) -> Tensor {
        let conversion = Conversion::of(row);
        let mut values = values(row.picture);
        if conversion.reversed {
            values = values.flip([3]);
        }
        let numbers = Tensor::from_slice(&conversion.numbers()).reshape([3, 1, 1, 1, 3]);
        folded(kind)
            .of_values(&values, &numbers.get(0), &numbers.get(1), 1)
            .unwrap()
    }

    fn plain_bytes(kind: Kind) -> Tensor {
        folded(kind)
            .of_bytes(&values(&bytes()).to_kind(Kind::Uint8), 1)
            .unwrap()
    }

    fn weight() -> HostTensor {
        let values = (0..4 * 3 * 9)
            .map(|index| ((index * 37 % 101) as f32 - 50.0) / 90.0)
            .collect();
        HostTensor::new(vec![4, 3, 3, 3], values)
    }

    fn convolved(input: &Tensor, weight: &HostTensor) -> Tensor {
        let shape: Vec<i64> = weight.shape.iter().map(|&size| size as i64).collect();
        let weight = Tensor::from_slice(&weight.values).reshape(shape);
        input.to_kind(Kind::Float).conv2d(&weight, None::<Tensor>, 1, 1, 1, 1)
    }

    /// The largest difference as a part of the largest result.
    fn error(got: &Tensor, want: &Tensor) -> f64 {
        let largest = f64::try_from(want.abs().max()).unwrap();
        f64::try_from((got - want).abs().max()).unwrap() / largest
    }

    /// The unfolded convolution of `Prepared::normalised` in f32.
    fn expected(row: &InputRow<'_>) -> Tensor {
        convolved(&normalised(std::iter::once(row), Kind::Float).unwrap(), &weight())
    }

    #[test]
    fn a_folded_weight_computes_the_same_as_a_normalised_picture() {
        let row = InputRow {
            picture: &bytes(),
            preprocessing: &Preset::Torchvision.preprocessing(),
        };
        let got = convolved(&plain_bytes(Kind::Float), &fold(&weight()));
        let error = error(&got, &expected(&row));
        assert!(error < 1e-6, "{error}");
    }

    #[test]
    fn sixteen_bits_hold_a_folded_input_exactly() {
        let exact = plain_bytes(Kind::Float);
        for kind in [Kind::BFloat16, Kind::Half] {
            let rounded = plain_bytes(kind).to_kind(Kind::Float);
            assert!(bool::try_from(exact.eq_tensor(&rounded).all()).unwrap(), "{kind:?}");
        }
    }

    /// One weight serves every normalisation, channel order and type of values, at the border as in the middle.
    #[test]
    fn a_folded_weight_computes_the_same_for_any_normalisation() {
        let unit = Preset::Unit.preprocessing();
        let skewed = ValueRange::Scaled {
            scale: -0.5,
            mean: [3.0, -200.0, 0.25],
            std: [0.5, 70.0, 3.0],
        };
        let preprocessings = [
            unit,
            Preset::Half.preprocessing(),
            Preset::KerasCaffe.preprocessing(),
            Preset::TorchvisionStretch.preprocessing(),
            Preprocessing {
                resize: Some(Resize::Stretch([SIDE as u32; 2])),
                normalisation: ValueRange::Standardised,
                channels: ChannelOrder::Bgr,
                ..unit
            },
            Preprocessing {
                normalisation: skewed,
                channels: ChannelOrder::Grey,
                ..unit
            },
            Preprocessing {
                channels: ChannelOrder::Bgr,
                ..Preset::Torchvision.preprocessing()
            },
        ];
        for preprocessing in &preprocessings {
            for picture in [&bytes(), &floats()] {
                let row = InputRow { picture, preprocessing };
                let want = expected(&row);
                for (kind, error_max) in [(Kind::Float, 2e-6), (Kind::Half, 1e-3), (Kind::BFloat16, 8e-3)] {
                    let error = error(&convolved(&converted(row, kind), &fold(&weight())), &want);
                    assert!(error < error_max, "{preprocessing:?}, {picture:?}, {kind:?}: {error}");
                }
            }
        }
    }

    /// A picture with torchvision's normalisation gets the same bits in a batch with others.
    #[test]
    fn torchvisions_conversion_is_exact() {
        let row = InputRow {
            picture: &bytes(),
            preprocessing: &Preset::Torchvision.preprocessing(),
        };
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let same = converted(row, kind).eq_tensor(&plain_bytes(kind)).all();
            assert!(bool::try_from(same).unwrap(), "{kind:?}");
        }
    }
}
