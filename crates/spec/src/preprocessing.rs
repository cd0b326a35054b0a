//! How pictures are prepared for a network: resized, cropped, and normalised.

use std::fmt;

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::error::SpecError;
use crate::object::{Described, Object};
use crate::preset::Preset;

/// The shortest side of a prepared picture, in pixels.
pub const SIDE_MIN: u32 = 32;
/// The longest side of a prepared picture, in pixels.
pub const SIDE_MAX: u32 = 512;

/// What is done with a decoded picture before the first convolution: first converted to grey for [`ChannelOrder::Grey`],
/// then resized, cropped, and normalised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Preprocessing {
    /// The size before the crop; `None` keeps the picture's own.
    pub resize: Option<Resize>,
    /// How it is resized.
    pub filter: ResizeFilter,
    /// Height and width of the middle part that is kept, zeros beside a smaller picture (torchvision's `CenterCrop`); `None`
    /// keeps all.
    pub crop: Option<[u32; 2]>,
    /// The order of the channels, which is that of the normalisation's numbers, too.
    pub channels: ChannelOrder,
    /// What becomes of the values.
    #[serde(flatten)]
    pub normalisation: ValueRange,
}

/// The size to which a picture is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The length of the shorter side; the other one keeps the picture's proportions, rounded down (torchvision's `Resize`
    /// of one number).
    ShortSide(u32),
    /// Height and width, whatever the picture's proportions.
    Stretch([u32; 2]),
}

/// How pixels are interpolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeFilter {
    /// The nearest pixel, as Pillow chooses it.
    Nearest,
    /// Pillow's, with antialiasing.
    #[default]
    Bilinear,
    /// Pillow's, with antialiasing.
    Bicubic,
    /// Pillow's, with antialiasing.
    Lanczos,
    /// TensorFlow's, of the four pixels around a position; the results are f32.
    BilinearNoAntialias,
    /// OpenCV's, the same with results rounded to bytes.
    BilinearNoAntialiasRounded,
}

/// The order of the channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Three times the grey value (Pillow's `convert("L")`, before resizing).
    Grey,
}

/// What becomes of a value of 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueRange {
    /// (x · `scale` − mean) / std, with a mean and a std for each channel.
    Scaled {
        /// The factor of all channels.
        scale: f32,
        /// Subtracted from each channel.
        mean: [f32; 3],
        /// Each channel's divisor.
        std: [f32; 3],
    },
    /// (x − mean of the picture) / (population deviation of the picture + 1e-7), all channels together.
    Standardised,
}

impl Serialize for ValueRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Scaled { scale, mean, std } => {
                map.serialize_entry("scale", scale)?;
                map.serialize_entry("mean", mean)?;
                map.serialize_entry("std", std)?;
            }
            Self::Standardised => map.serialize_entry("standardise", &true)?,
        }
        map.end()
    }
}

impl Preprocessing {
    /// Returns true if pictures that are prepared for both differ at most in their normalisation and the order of channels.
    pub fn has_same_picture(&self, other: &Self) -> bool {
        let is_grey = |channels| channels == ChannelOrder::Grey;
        let same_size = self.resize == other.resize && self.crop == other.crop;
        same_size && self.filter == other.filter && is_grey(self.channels) == is_grey(other.channels)
    }

    /// Reads the JSON of a spec's `preprocessing`.
    ///
    /// # Errors
    /// [`SpecError`], as of a whole spec.
    pub fn from_json(json: &str) -> Result<Self, SpecError> {
        let Object(written): Object<Written> =
            serde_json::from_str(json).map_err(|error| SpecError::new("preprocessing", error.to_string()))?;
        written.try_into()
    }

    /// Returns its JSON in one form: those of two preprocessings are equal if and only if they are.
    pub fn to_json(&self) -> String {
        // Nothing of it can fail: it has no map with keys that are not strings, and goes to memory.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns it for pictures of `size`, if it is a [`Preset`] that stretches pictures to VGG16's own size.
    pub fn preset_for(&self, size: [u32; 2]) -> Option<Self> {
        let is_preset = Preset::ALL.into_iter().any(|preset| preset.preprocessing() == *self);
        let is_stretched = self.crop.is_none() && matches!(self.resize, Some(Resize::Stretch(_)));
        (is_preset && is_stretched).then_some(Self {
            resize: Some(Resize::Stretch(size)),
            ..*self
        })
    }

    /// Returns height and width of every prepared picture.
    ///
    /// # Errors
    /// [`SpecError`] if they depend on the picture, or are not from [`SIDE_MIN`] to [`SIDE_MAX`].
    pub fn size(&self) -> Result<[u32; 2], SpecError> {
        let (key, size) = match (self.crop, self.resize) {
            (Some(size), _) => ("preprocessing.crop", size),
            (None, Some(Resize::Stretch(size))) => ("preprocessing.resize.stretch", size),
            (None, Some(Resize::ShortSide(_)) | None) => {
                return Err(SpecError::new(
                    "preprocessing",
                    "the size of the prepared picture depends on the picture; give crop, or resize to stretch",
                ));
            }
        };
        if size.iter().all(|side| (SIDE_MIN..=SIDE_MAX).contains(side)) {
            Ok(size)
        } else {
            let [height, width] = size;
            let reason = format!("{height}x{width} is not within {SIDE_MIN} to {SIDE_MAX} pixels a side");
            Err(SpecError::new(key, reason))
        }
    }

    /// Checks everything that types do not.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        self.size()?;
        let resized = match self.resize {
            None => Vec::new(),
            Some(Resize::ShortSide(side)) => vec![side],
            Some(Resize::Stretch(sides)) => sides.to_vec(),
        };
        if resized.iter().any(|side| !(1..=RESIZED_MAX).contains(side)) {
            let reason = format!("a side is not within 1 to {RESIZED_MAX} pixels");
            return Err(SpecError::new("preprocessing.resize", reason));
        }
        let ValueRange::Scaled { scale, mean, std } = self.normalisation else {
            return Ok(());
        };
        if !(scale.is_finite() && scale != 0.0) {
            return Err(SpecError::new(
                "preprocessing.scale",
                format!("{scale} is zero or not finite in f32"),
            ));
        }
        if let Some(value) = mean.iter().find(|value| !value.is_finite()) {
            return Err(SpecError::new(
                "preprocessing.mean",
                format!("{value} is not finite in f32"),
            ));
        }
        if let Some(value) = std.iter().find(|value| !(value.is_normal() && **value > 0.0)) {
            return Err(SpecError::new(
                "preprocessing.std",
                format!("{value} is not a positive number in f32"),
            ));
        }
        check_range(scale, mean, std)
    }
}

/// Refuses normalisations whose values no network was trained on, and with which its numbers overflow.
fn check_range(scale: f32, mean: [f32; 3], std: [f32; 3]) -> Result<(), SpecError> {
    let brightest = f64::from(scale.abs()) * 255.0;
    for (mean, std) in mean.into_iter().zip(std) {
        let (mean, std) = (f64::from(mean.abs()), f64::from(std));
        if (brightest + mean) / std < NORMALISED_MAX {
            continue;
        }
        let key = match (brightest < NORMALISED_MAX / 2.0, mean < NORMALISED_MAX / 2.0) {
            (false, _) => "preprocessing.scale",
            (true, false) => "preprocessing.mean",
            (true, true) => "preprocessing.std",
        };
        let reason =
            format!("a channel's (255 * |scale| + |mean|) / std is not below {NORMALISED_MAX:e}; give smaller values");
        return Err(SpecError::new(key, reason));
    }
    Ok(())
}

/// Limit of what a normalised value may be. Those of VGG16's trainings are below 256.
const NORMALISED_MAX: f64 = 1e9;

/// The longest side before the crop, in pixels. Larger ones cost memory and gain nothing for pictures of 512 pixels.
const RESIZED_MAX: u32 = 4096;

/// The number in single precision; -0 becomes 0, so that equal numbers have one form.
pub(crate) fn single(number: f64) -> f32 {
    number as f32 + 0.0
}

/// `preprocessing` as it is written in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    preset: Option<Preset>,
    #[serde(default, deserialize_with = "given")]
    resize: Option<Option<Object<WrittenResize>>>,
    filter: Option<ResizeFilter>,
    #[serde(default, deserialize_with = "given")]
    crop: Option<Option<[u32; 2]>>,
    channels: Option<ChannelOrder>,
    scale: Option<f64>,
    #[serde(default, deserialize_with = "mean")]
    mean: Option<[f64; 3]>,
    #[serde(default, deserialize_with = "std")]
    std: Option<[f64; 3]>,
    standardise: Option<bool>,
}

impl Described for Written {
    const WHAT: &'static str = "a JSON object as `preprocessing`, such as {\"preset\": \"torchvision\"}";
}

/// `resize` as it is written in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenResize {
    short_side: Option<u32>,
    stretch: Option<[u32; 2]>,
}

impl Described for WrittenResize {
    const WHAT: &'static str = "{\"short_side\": 256}, {\"stretch\": [224, 224]}, or null for none, as `resize`";
}

impl TryFrom<WrittenResize> for Resize {
    type Error = SpecError;

    fn try_from(written: WrittenResize) -> Result<Self, SpecError> {
        match (written.short_side, written.stretch) {
            (Some(side), None) => Ok(Self::ShortSide(side)),
            (None, Some(sides)) => Ok(Self::Stretch(sides)),
            _ => Err(SpecError::new(
                "preprocessing.resize",
                "give either {\"short_side\": 256} or {\"stretch\": [224, 224]}",
            )),
        }
    }
}

fn mean<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<[f64; 3]>, D::Error> {
    deserializer.deserialize_any(Three("three numbers as `mean`, one for each channel"))
}

fn std<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<[f64; 3]>, D::Error> {
    deserializer.deserialize_any(Three("three positive numbers as `std`, one for each channel"))
}

/// Reads three numbers, or none.
struct Three(&'static str);

impl<'de> Visitor<'de> for Three {
    type Value = Option<[f64; 3]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Self::Value, A::Error> {
        let mut read = [0.0; 3];
        for (index, number) in read.iter_mut().enumerate() {
            *number = numbers
                .next_element()?
                .ok_or_else(|| A::Error::invalid_length(index, &self))?;
        }
        let mut more = 0;
        while numbers.next_element::<IgnoredAny>()?.is_some() {
            more += 1;
        }
        match more {
            0 => Ok(Some(read)),
            more => Err(A::Error::invalid_length(read.len() + more, &self)),
        }
    }
}

/// Tells `null`, a value, from a key that is left out.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl TryFrom<Written> for Preprocessing {
    type Error = SpecError;

    /// Expands a preset, fills in what is neutral, and checks the rest.
    fn try_from(written: Written) -> Result<Self, SpecError> {
        let values = written.scale.is_some() || written.mean.is_some() || written.std.is_some();
        if let Some(preset) = written.preset {
            let pictures = written.resize.is_some() || written.filter.is_some() || written.crop.is_some();
            if pictures || values || written.channels.is_some() || written.standardise.is_some() {
                return Err(SpecError::new(
                    "preprocessing.preset",
                    "it stands for all other keys; leave them out",
                ));
            }
            return Ok(preset.preprocessing());
        }
        let Some(resize) = written.resize else {
            return Err(SpecError::new(
                "preprocessing.resize",
                "it is missing; give {\"short_side\": 256}, {\"stretch\": [224, 224]}, or null for none",
            ));
        };
        let normalisation = match (written.standardise == Some(true), written.scale) {
            (true, _) if values => {
                let reason = "it takes the place of scale, mean and std; leave them out";
                return Err(SpecError::new("preprocessing.standardise", reason));
            }
            (true, _) => ValueRange::Standardised,
            (false, None) => {
                let reason = "it is missing; give 0.00392156862745098 for values of 0 to 1, 1 for 0 to 255";
                return Err(SpecError::new("preprocessing.scale", reason));
            }
            (false, Some(scale)) => ValueRange::Scaled {
                scale: single(scale),
                mean: written.mean.unwrap_or([0.0; 3]).map(single),
                std: written.std.unwrap_or([1.0; 3]).map(single),
            },
        };
        let preprocessing = Self {
            resize: match resize {
                Some(Object(resize)) => Some(resize.try_into()?),
                None => None,
            },
            filter: written.filter.unwrap_or_default(),
            crop: written.crop.flatten(),
            channels: written.channels.unwrap_or_default(),
            normalisation,
        };
        preprocessing.check()?;
        Ok(preprocessing)
    }
}
