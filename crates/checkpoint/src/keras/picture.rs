//! What a model computes of its pictures before its first convolution.

use headswap_spec::{ChannelTransform, IMAGENET_MEAN, IMAGENET_STD};
use serde_json::{Map, Value as Json};

use crate::pixels::{self, Pixel};

/// What has been computed of a picture: some linear function of one channel for each of its channels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picture(Vec<Pixel>);

/// What an operation takes.
pub(super) enum Operand {
    Picture(Picture),
    Pictures(Vec<Picture>),
    Constant(Json),
}

impl Picture {
    /// What the model is fed.
    pub fn fed() -> Self {
        Self(pixels::fed())
    }

    /// Returns it as a transform, if it has three channels in their order or in reverse.
    pub fn transform(&self) -> Option<ChannelTransform> {
        pixels::transform(&self.0)
    }

    /// Returns x · scale + shift, with one number of each for all channels or for each.
    fn scaled(&self, scale: &[f64], shift: &[f64]) -> Option<Self> {
        let of = |numbers: &[f64], index: usize| match numbers {
            [all] => Some(*all),
            each => each.get(index).filter(|_| each.len() == self.0.len()).copied(),
        };
        let mut channels = self.0.clone();
        for (index, channel) in channels.iter_mut().enumerate() {
            let (scale, shift) = (of(scale, index)?, of(shift, index)?);
            channel.scale *= scale;
            channel.shift = channel.shift * scale + shift;
            if !(channel.scale.is_finite() && channel.shift.is_finite()) {
                return None;
            }
        }
        Some(Self(channels))
    }

    fn reversed(&self) -> Self {
        Self(self.0.iter().rev().copied().collect())
    }

    /// `keras.layers.Rescaling`: x · scale + offset.
    pub fn rescaled(&self, config: &Map<String, Json>) -> Option<Self> {
        self.scaled(&numbers(config.get("scale")?)?, &numbers(config.get("offset")?)?)
    }

    /// `keras.layers.Normalization`: (x − mean) / max(√variance, 1e-7).
    pub fn normalised(&self, mean: &[f64], variance: &[f64]) -> Option<Self> {
        let scale: Vec<f64> = variance
            .iter()
            .map(|variance| 1.0 / variance.sqrt().max(1e-7))
            .collect();
        let negated: Vec<f64> = mean.iter().map(|mean| -mean).collect();
        self.scaled(&[1.0], &negated)?.scaled(&scale, &[0.0])
    }

    /// `keras.applications.imagenet_utils.preprocess_input` with its mode.
    pub fn preprocessed(&self, mode: &str) -> Option<Self> {
        match mode {
            "caffe" => self.reversed().scaled(&[1.0], &[-103.939, -116.779, -123.68]),
            "tf" => self.scaled(&[1.0 / 127.5], &[-1.0]),
            "torch" => {
                let [mean, std] = [IMAGENET_MEAN, IMAGENET_STD].map(|numbers| numbers.map(f64::from));
                let variance = std.map(|std| std * std);
                self.scaled(&[1.0 / 255.0], &[0.0])?.normalised(&mean, &variance)
            }
            _ => None,
        }
    }
}

/// Computes an operation on pictures; `None` if it is not known or not linear in each channel. Names are those of Keras 2's
/// functions (`math.subtract`) and of Keras 3's classes (`Subtract`).
pub(super) fn operation(name: &str, operands: &[Operand]) -> Option<Picture> {
    let name = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
    match (name.as_str(), operands) {
        ("cast" | "identity" | "convert_to_tensor", [Operand::Picture(picture), ..]) => Some(picture.clone()),
        ("negative" | "neg", [Operand::Picture(picture)]) => picture.scaled(&[-1.0], &[0.0]),
        ("getitem", [Operand::Picture(picture), Operand::Constant(slices)]) => picture.sliced(slices),
        ("flip" | "reverse", [Operand::Picture(picture), Operand::Constant(axis)]) => {
            is_last_axis(axis).then(|| picture.reversed())
        }
        ("stack" | "concatenate" | "concat", [Operand::Pictures(channels), rest @ ..]) => {
            let is_last = rest
                .iter()
                .all(|axis| matches!(axis, Operand::Constant(axis) if is_last_axis(axis)));
            let all = channels.iter().flat_map(|picture| picture.0.iter().copied());
            is_last.then(|| Picture(all.take(4).collect()))
        }
        (_, [Operand::Picture(picture), Operand::Constant(constant), ..]) => {
            let numbers = numbers(constant)?;
            match name.as_str() {
                "add" | "bias_add" => picture.scaled(&[1.0], &numbers),
                "subtract" | "sub" => picture.scaled(&[1.0], &negated(&numbers)),
                "multiply" | "mul" => picture.scaled(&numbers, &[0.0]),
                "divide" | "truediv" | "truedivide" | "true_divide" => picture.scaled(&inverted(&numbers), &[0.0]),
                _ => None,
            }
        }
        (_, [Operand::Constant(constant), Operand::Picture(picture), ..]) => {
            let numbers = numbers(constant)?;
            match name.as_str() {
                "add" => picture.scaled(&[1.0], &numbers),
                "subtract" | "sub" => picture.scaled(&[-1.0], &numbers),
                "multiply" | "mul" => picture.scaled(&numbers, &[0.0]),
                _ => None,
            }
        }
        _ => None,
    }
}

impl Picture {
    /// `x[..., 2]`, `x[..., ::-1]` and the like.
    fn sliced(&self, slices: &Json) -> Option<Self> {
        let (last, before) = slices.as_array()?.split_last()?;
        let is_ellipsis = |slice: &Json| slice["class_name"] == "__ellipsis__";
        let has_all = before
            .iter()
            .all(|slice| is_ellipsis(slice) || bounds(slice) == Some([None; 3]));
        let reaches_channels = before.len() == 3 || before.iter().filter(|slice| is_ellipsis(slice)).count() == 1;
        if !has_all || !reaches_channels {
            return None;
        }
        if let Some(index) = last.as_i64() {
            let index = if index < 0 { index + self.0.len() as i64 } else { index };
            return Some(Self(vec![*self.0.get(usize::try_from(index).ok()?)?]));
        }
        match bounds(last)? {
            [None, None, None | Some(1)] => Some(self.clone()),
            [None | Some(-1), None, Some(-1)] => Some(self.reversed()),
            _ => None,
        }
    }
}

/// A slice's start, stop and step.
fn bounds(slice: &Json) -> Option<[Option<i64>; 3]> {
    let slice = match slice["class_name"] == "__slice__" {
        true => &slice["config"],
        false => slice,
    };
    slice.as_object()?;
    let mut bounds = [None; 3];
    for (bound, key) in bounds.iter_mut().zip(["start", "stop", "step"]) {
        *bound = match &slice[key] {
            Json::Null => None,
            number => Some(number.as_i64()?),
        };
    }
    Some(bounds)
}

fn is_last_axis(axis: &Json) -> bool {
    let axis = match axis {
        Json::Array(axes) if axes.len() == 1 => &axes[0],
        axis => axis,
    };
    matches!(axis.as_i64(), Some(-1 | 3))
}

/// The numbers of a constant: one, or a list of up to three within any number of lists of one.
pub(super) fn numbers(constant: &Json) -> Option<Vec<f64>> {
    match constant {
        Json::Number(number) => Some(vec![number.as_f64()?]),
        Json::Array(list) => match &list[..] {
            [inner @ Json::Array(_)] => numbers(inner),
            list if (1..=3).contains(&list.len()) => list.iter().map(Json::as_f64).collect(),
            _ => None,
        },
        Json::Object(object) => {
            let class = object.get("class_name")?.as_str()?;
            let is_array = ["__tensor__", "__numpy__"].contains(&class);
            is_array.then(|| numbers(object.get("config")?.get("value")?)).flatten()
        }
        _ => None,
    }
}

fn negated(numbers: &[f64]) -> Vec<f64> {
    numbers.iter().map(|number| -number).collect()
}

fn inverted(numbers: &[f64]) -> Vec<f64> {
    numbers.iter().map(|number| 1.0 / number).collect()
}
