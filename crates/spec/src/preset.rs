//! Well-known ways of preparing pictures.

use serde::Deserialize;

use crate::picture::{IMAGENET_MEAN, IMAGENET_STD};
use crate::preprocessing::{ChannelOrder, Preprocessing, Resize, ResizeFilter, ValueRange};

/// A well-known way of preparing pictures, by the name that `preset` and `--preprocessing` take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// torchvision's `VGG16_Weights`: short side 256, middle 224x224, ImageNet's mean and deviation
    Torchvision,
    /// Stretched to 224x224, ImageNet's mean and deviation
    TorchvisionStretch,
    /// Stretched to 224x224, values of 0 to 1
    Unit,
    /// Stretched to 224x224, values of -1 to 1
    Half,
    /// Keras's `load_img` and `rescale=1/255`: the nearest pixels of 224x224, values of 0 to 1
    KerasUnit,
    /// Keras's `load_img` and `preprocess_input`: the nearest pixels of 224x224, BGR less ImageNet's means
    KerasCaffe,
    /// Keras's `load_img` alone, for a model that scales its pictures: the nearest pixels of 224x224, values of 0 to 255
    KerasRaw,
    /// TensorFlow's `image.resize` and `/ 255`: bilinear without antialiasing, values of 0 to 1
    TensorflowUnit,
    /// TensorFlow's `image.resize` and `preprocess_input`: bilinear without antialiasing, BGR less ImageNet's means
    TensorflowCaffe,
    /// `image_dataset_from_directory` alone, for a model that scales its pictures: bilinear without antialiasing, 0 to 255
    TensorflowRaw,
}

/// ImageNet's means of blue, green and red for values of 0 to 255, as Keras's `preprocess_input` in its mode `caffe` has them.
const CAFFE_MEAN: [f32; 3] = [103.939, 116.779, 123.68];
const UNIT: f32 = 1.0 / 255.0;
const VGG16: [u32; 2] = [224, 224];

impl Preset {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Torchvision,
        Self::TorchvisionStretch,
        Self::Unit,
        Self::Half,
        Self::KerasUnit,
        Self::KerasCaffe,
        Self::KerasRaw,
        Self::TensorflowUnit,
        Self::TensorflowCaffe,
        Self::TensorflowRaw,
    ];

    /// Returns what it stands for.
    pub fn preprocessing(self) -> Preprocessing {
        let stretched = |filter, channels, scale, mean, std| Preprocessing {
            resize: Some(Resize::Stretch(VGG16)),
            filter,
            crop: None,
            channels,
            normalisation: ValueRange::Scaled { scale, mean, std },
        };
        let (bilinear, rgb, bgr) = (ResizeFilter::Bilinear, ChannelOrder::Rgb, ChannelOrder::Bgr);
        let (zero, one, half) = ([0.0; 3], [1.0; 3], [0.5; 3]);
        match self {
            Self::Torchvision => Preprocessing {
                resize: Some(Resize::ShortSide(256)),
                crop: Some(VGG16),
                ..Self::TorchvisionStretch.preprocessing()
            },
            Self::TorchvisionStretch => stretched(bilinear, rgb, UNIT, IMAGENET_MEAN, IMAGENET_STD),
            Self::Unit => stretched(bilinear, rgb, UNIT, zero, one),
            Self::Half => stretched(bilinear, rgb, UNIT, half, half),
            Self::KerasUnit => stretched(ResizeFilter::Nearest, rgb, UNIT, zero, one),
            Self::KerasCaffe => stretched(ResizeFilter::Nearest, bgr, 1.0, CAFFE_MEAN, one),
            Self::KerasRaw => stretched(ResizeFilter::Nearest, rgb, 1.0, zero, one),
            Self::TensorflowUnit => stretched(ResizeFilter::BilinearNoAntialias, rgb, UNIT, zero, one),
            Self::TensorflowCaffe => stretched(ResizeFilter::BilinearNoAntialias, bgr, 1.0, CAFFE_MEAN, one),
            Self::TensorflowRaw => stretched(ResizeFilter::BilinearNoAntialias, rgb, 1.0, zero, one),
        }
    }
}
