//! A prepared picture, and the network's input that it becomes.

use std::fmt;

use bytes::Bytes;
use headswap_spec::{ChannelOrder, Preprocessing, ValueRange};

use super::fanout::grey;

/// The scale of 0 to 255 to 0 to 1. Values are then divided by 255 rather than multiplied, as torchvision's `ToTensor` does.
const UNIT: f32 = 1.0 / 255.0;
/// Keeps a picture of one colour from a division by zero.
const DEVIATION_MORE: f64 = 1e-7;

/// A resized and cropped picture, before its channels are reordered and normalised: `[height, width, 3]`, rows from the top,
/// pixels from the left, red, green and blue, or three times the grey value if the preprocessing asks for that.
#[derive(Clone, PartialEq)]
pub enum Prepared {
    /// What all filters but one return.
    Bytes {
        /// Height and width, in pixels.
        size: [usize; 2],
        /// Values of 0 to 255. Clones share them.
        values: Bytes,
    },
    /// What [`BilinearNoAntialias`](headswap_spec::ResizeFilter::BilinearNoAntialias) returns.
    Floats {
        /// Height and width, in pixels.
        size: [usize; 2],
        /// Values of 0 to 255, not rounded.
        values: Vec<f32>,
    },
}

impl Prepared {
    /// Wraps raw pixels, rows of red, green and blue bytes, as a picture of the preprocessing's size; none if it has another
    /// number of bytes. They become three times their grey value if the preprocessing asks for that.
    pub fn from_pixels(values: Bytes, preprocessing: &Preprocessing) -> Option<Self> {
        let size = preprocessing.size().ok()?.map(|side| side as usize);
        if size[0] * size[1] * 3 != values.len() {
            return None;
        }
        let values = match preprocessing.channels {
            ChannelOrder::Grey => values.as_chunks().0.iter().flat_map(|&rgb| [grey(rgb); 3]).collect(),
            ChannelOrder::Rgb | ChannelOrder::Bgr => values,
        };
        Some(Self::Bytes { size, values })
    }

    /// Returns height and width, in pixels.
    pub fn size(&self) -> [usize; 2] {
        match self {
            Self::Bytes { size, .. } | Self::Floats { size, .. } => *size,
        }
    }

    /// Returns the network's input, `[3, height, width]`, in the order of the preprocessing's channels.
    pub fn normalised(&self, preprocessing: &Preprocessing) -> Vec<f32> {
        let [height, width] = self.size();
        let mut input = Vec::with_capacity(height * width * 3);
        for channel in self.channels(preprocessing) {
            match self {
                Self::Bytes { values, .. } => {
                    let table = channel.table();
                    input.extend(plane(values, channel.source).map(|&level| table[usize::from(level)]));
                }
                Self::Floats { values, .. } => {
                    input.extend(plane(values, channel.source).map(|&value| channel.apply(value)));
                }
            }
        }
        input
    }

    /// Returns how each channel of the network's input comes from this picture.
    pub fn channels(&self, preprocessing: &Preprocessing) -> [InputChannel; 3] {
        let normalisations = match preprocessing.normalisation {
            ValueRange::Scaled { scale, mean, std } => [0, 1, 2].map(|channel| Normalisation::Scaled {
                scale,
                mean: mean[channel],
                std: std[channel],
            }),
            ValueRange::Standardised => [self.standardisation(); 3],
        };
        let sources = match preprocessing.channels {
            ChannelOrder::Bgr => [2, 1, 0],
            ChannelOrder::Rgb | ChannelOrder::Grey => [0, 1, 2],
        };
        [0, 1, 2].map(|channel| InputChannel {
            source: sources[channel],
            normalisation: normalisations[channel],
        })
    }

    fn standardisation(&self) -> Normalisation {
        match self {
            Self::Bytes { values, .. } => Normalisation::standardising(values),
            Self::Floats { values, .. } => Normalisation::standardising(values),
        }
    }
}

/// Prints the type and the size instead of all numbers.
impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [height, width] = self.size();
        let kind = match self {
            Self::Bytes { .. } => "Bytes",
            Self::Floats { .. } => "Floats",
        };
        write!(f, "Prepared::{kind}({height}x{width}x3)")
    }
}

/// Returns the values of one channel.
fn plane<T>(values: &[T], channel: usize) -> impl Iterator<Item = &T> {
    values.as_chunks::<3>().0.iter().map(move |pixel| &pixel[channel])
}

/// How one channel of the network's input comes from a picture.
#[derive(Clone, Copy, Debug)]
pub struct InputChannel {
    /// The picture's channel: 0 is red.
    pub source: usize,
    normalisation: Normalisation,
}

impl InputChannel {
    /// Returns what a value of 0 to 255 becomes.
    pub fn apply(self, value: f32) -> f32 {
        self.normalisation.apply(value)
    }

    /// Returns what each byte becomes.
    pub fn table(self) -> [f32; 256] {
        let mut table = [0.0; 256];
        for (value, level) in table.iter_mut().zip(0_u8..=255) {
            *value = self.apply(level.into());
        }
        table
    }
}

/// What becomes of the values of one channel.
#[derive(Clone, Copy, Debug)]
enum Normalisation {
    /// In single precision.
    Scaled { scale: f32, mean: f32, std: f32 },
    /// In double precision, rounded at the end.
    Standardised { mean: f64, divisor: f64 },
}

impl Normalisation {
    /// Returns what subtracts the mean of `values` and divides by their population deviation.
    fn standardising<T: Copy + Into<f64>>(values: &[T]) -> Self {
        let count = values.len().max(1) as f64;
        let mut sum = 0.0;
        for &value in values {
            sum += value.into();
        }
        let mean = sum / count;
        let mut squares = 0.0;
        for &value in values {
            let difference = value.into() - mean;
            squares += difference * difference;
        }
        Self::Standardised {
            mean,
            divisor: (squares / count).sqrt() + DEVIATION_MORE,
        }
    }

    fn apply(self, value: f32) -> f32 {
        match self {
            Self::Scaled { scale, mean, std } => {
                let scaled = if scale == UNIT { value / 255.0 } else { value * scale };
                (scaled - mean) / std
            }
            Self::Standardised { mean, divisor } => ((f64::from(value) - mean) / divisor) as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headswap_spec::Preset;

    const PICTURE: [u8; 6] = [0, 51, 255, 102, 204, 153];

    fn bytes(values: &[u8]) -> Prepared {
        Prepared::Bytes {
            size: [1, values.len() / 3],
            values: values.to_vec().into(),
        }
    }

    fn standardised() -> Preprocessing {
        Preprocessing {
            normalisation: ValueRange::Standardised,
            ..Preset::Unit.preprocessing()
        }
    }

    #[test]
    fn raw_pixels_become_grey_if_the_preprocessing_asks_for_that() {
        let pixels: Bytes = [255u8, 0, 0, 0, 255, 0].repeat(224 * 112).into();
        let rgb = Preset::Unit.preprocessing();
        assert_eq!(
            Prepared::from_pixels(pixels.clone(), &rgb).unwrap().normalised(&rgb)[..2],
            [1.0, 0.0]
        );
        let grey = Preprocessing {
            channels: ChannelOrder::Grey,
            ..rgb
        };
        let input = Prepared::from_pixels(pixels, &grey).unwrap().normalised(&grey);
        for plane in input.chunks_exact(224 * 224) {
            assert_eq!(plane[..2], [76.0 / 255.0, 150.0 / 255.0]);
        }
    }

    #[test]
    fn channels_become_planes_in_their_order() {
        let preprocessing = Preprocessing {
            normalisation: ValueRange::Scaled {
                scale: 2.0,
                mean: [1.0, 2.0, 3.0],
                std: [1.0, 1.0, 0.5],
            },
            channels: ChannelOrder::Bgr,
            ..Preset::Unit.preprocessing()
        };
        let expected = [509.0, 305.0, 100.0, 406.0, -6.0, 402.0];
        assert_eq!(bytes(&PICTURE).normalised(&preprocessing), expected);
        let floats = Prepared::Floats {
            size: [1, 2],
            values: PICTURE.map(f32::from).to_vec(),
        };
        assert_eq!(floats.normalised(&preprocessing), expected);
    }

    #[test]
    fn the_unit_scale_divides() {
        let unit = bytes(&[3, 3, 3]).normalised(&Preset::Unit.preprocessing());
        assert_eq!(unit, [3.0_f32 / 255.0; 3]);
        assert_eq!(UNIT, 0.003_921_568_627_450_98_f64 as f32);
    }

    #[test]
    fn standardised_values_have_mean_0_and_deviation_1() {
        let values = bytes(&PICTURE).normalised(&standardised());
        let mean: f32 = values.iter().sum::<f32>() / 6.0;
        let square: f32 = values.iter().map(|value| value * value).sum::<f32>() / 6.0;
        assert!(mean.abs() < 1e-6 && (square - 1.0).abs() < 1e-5, "{mean} {square}");
        assert_eq!(bytes(&[9; 6]).normalised(&standardised()), [0.0; 6]);
    }

    #[test]
    fn raw_pixels_become_a_picture_of_their_exact_size() {
        let preprocessing = Preprocessing {
            crop: Some([32, 40]),
            ..Preset::Torchvision.preprocessing()
        };
        let values: Bytes = (0..32 * 40 * 3).map(|index| (index % 251) as u8).collect();
        let prepared = Prepared::from_pixels(values.clone(), &preprocessing).unwrap();
        assert_eq!(prepared.size(), [32, 40]);
        let Prepared::Bytes { values: kept, .. } = &prepared else {
            panic!("{prepared:?}")
        };
        // They are shared, not copied.
        assert_eq!(kept.as_ptr(), values.as_ptr());
        let normalised = prepared.normalised(&preprocessing);
        let reds = values
            .iter()
            .step_by(3)
            .map(|&red| (f32::from(red) / 255.0 - 0.485) / 0.229);
        assert_eq!(normalised[..32 * 40], reds.collect::<Vec<_>>());

        for bytes in [0, 1, values.len() - 1, values.len() + 1, 224 * 224 * 3] {
            assert_eq!(Prepared::from_pixels(vec![0; bytes].into(), &preprocessing), None);
        }
        // Other sizes of as many pixels cannot be told from each other.
        let turned = Preprocessing {
            crop: Some([40, 32]),
            ..preprocessing
        };
        assert_eq!(Prepared::from_pixels(values.clone(), &turned).unwrap().size(), [40, 32]);
        let open = Preprocessing {
            crop: None,
            ..preprocessing
        };
        assert_eq!(Prepared::from_pixels(values, &open), None);
    }
}
