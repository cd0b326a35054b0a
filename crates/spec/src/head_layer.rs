//! The layers of a head after its input.

use std::fmt;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::SpecError;
use crate::preprocessing::single;

/// What wrote a file, and so what a layer's number is where neither the file nor the spec states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framework {
    /// PyTorch, whose defaults ONNX shares.
    PyTorch,
    /// Keras.
    Keras,
}

impl Framework {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::PyTorch => "PyTorch",
            Self::Keras => "Keras",
        }
    }

    /// Returns what is added to a batch norm's variance by default.
    pub fn batch_norm_eps(self) -> f64 {
        match self {
            Self::PyTorch => 1e-5,
            Self::Keras => 1e-3,
        }
    }
}

/// A layer of a head. Dropout and log-softmax have no place here: the one is the identity when serving, the other an
/// [`Output`](crate::Output). A number that is `None` is the framework's default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeadLayer {
    /// The next Linear of the file.
    Linear,
    /// The next batch norm of the file, with its eps.
    BatchNorm(Option<f32>),
    /// x times a weight plus a bias, one of each for every channel: the next pair of vectors in the file. A batch norm that
    /// no Linear can absorb becomes one.
    Affine,
    /// max(x, 0)
    Relu,
    /// x, or x times this slope where x is negative.
    LeakyRelu(Option<f32>),
    /// x, or this alpha times (eˣ − 1) where x is negative.
    Elu(Option<f32>),
    /// x · Φ(x), exactly or by its approximation with tanh.
    Gelu(Option<GeluKind>),
    /// x · sigmoid(x)
    Silu,
    /// tanh(x)
    Tanh,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid,
    /// x divided by the root of its sum of squares.
    L2Normalise,
}

/// How GELU is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GeluKind {
    /// With the error function.
    Exact,
    /// 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
    Tanh,
}

impl HeadLayer {
    /// Returns the layer with every number that it needs, and true if one is `framework`'s default.
    pub fn resolved(self, framework: Framework) -> (Self, bool) {
        let eps = framework.batch_norm_eps() as f32;
        let slope = match framework {
            Framework::PyTorch => 0.01,
            Framework::Keras => 0.3,
        };
        let layer = match self {
            Self::BatchNorm(None) => Self::BatchNorm(Some(eps)),
            Self::LeakyRelu(None) => Self::LeakyRelu(Some(slope)),
            Self::Elu(None) => Self::Elu(Some(1.0)),
            Self::Gelu(None) => Self::Gelu(Some(GeluKind::Exact)),
            other => other,
        };
        (layer, layer != self)
    }

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::BatchNorm(_) => "batch_norm",
            Self::Affine => "affine",
            Self::Relu => "relu",
            Self::LeakyRelu(_) => "leaky_relu",
            Self::Elu(_) => "elu",
            Self::Gelu(_) => "gelu",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::L2Normalise => "l2_normalise",
        }
    }
}

/// `relu`, `leaky_relu:0.01` or `gelu:tanh`, as the command line takes it.
impl fmt::Display for HeadLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match *self {
            Self::BatchNorm(Some(number)) | Self::LeakyRelu(Some(number)) | Self::Elu(Some(number)) => {
                write!(f, ":{number}")
            }
            Self::Gelu(Some(GeluKind::Exact)) => f.write_str(":exact"),
            Self::Gelu(Some(GeluKind::Tanh)) => f.write_str(":tanh"),
            _ => Ok(()),
        }
    }
}

const NAMES: &str = "linear, batch_norm, affine, relu, leaky_relu, elu, gelu, silu, tanh, sigmoid, l2_normalise";

impl Serialize for HeadLayer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = match *self {
            Self::BatchNorm(Some(_)) | Self::LeakyRelu(Some(_)) | Self::Elu(Some(_)) | Self::Gelu(Some(_)) => {
                serializer.serialize_map(Some(1))?
            }
            _ => return serializer.serialize_str(self.name()),
        };
        match *self {
            Self::BatchNorm(number) | Self::LeakyRelu(number) | Self::Elu(number) => {
                map.serialize_entry(self.name(), &number)?;
            }
            Self::Gelu(kind) => map.serialize_entry(self.name(), &kind)?,
            _ => {}
        }
        map.end()
    }
}

/// A layer as it is written in JSON: `"relu"`, `{"leaky_relu": 0.01}` or `{"gelu": "tanh"}`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a layer is its name, such as \"relu\", or an object of its name and its number, such as {\"leaky_relu\": 0.01}"
)]
pub(crate) enum Written {
    Bare(String),
    Numbered(std::collections::BTreeMap<String, Parameter>),
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a layer takes a finite number, and gelu takes \"exact\" or \"tanh\""
)]
pub(crate) enum Parameter {
    Number(f64),
    Kind(String),
}

impl Written {
    /// The layer at `index` of `layers`.
    pub(crate) fn layer(self, index: usize) -> Result<HeadLayer, SpecError> {
        let key = format!("layers[{index}]");
        let unknown = |name: &str| SpecError::new(&key, format!("there is no layer {name:?}; the layers are {NAMES}"));
        match self {
            Self::Bare(name) => Ok(match name.as_str() {
                "linear" => HeadLayer::Linear,
                "batch_norm" => HeadLayer::BatchNorm(None),
                "affine" => HeadLayer::Affine,
                "relu" => HeadLayer::Relu,
                "leaky_relu" => HeadLayer::LeakyRelu(None),
                "elu" => HeadLayer::Elu(None),
                "gelu" => HeadLayer::Gelu(None),
                "silu" => HeadLayer::Silu,
                "tanh" => HeadLayer::Tanh,
                "sigmoid" => HeadLayer::Sigmoid,
                "l2_normalise" => HeadLayer::L2Normalise,
                _ => return Err(unknown(&name)),
            }),
            Self::Numbered(entries) => {
                let mut entries = entries.into_iter();
                let (Some((name, parameter)), None) = (entries.next(), entries.next()) else {
                    return Err(SpecError::new(&key, "a layer has one name"));
                };
                let not_finite = || SpecError::new(&key, format!("{name} takes a number that is finite in f32"));
                let number = match parameter {
                    Parameter::Kind(kind) if name == "gelu" && kind == "exact" => {
                        return Ok(HeadLayer::Gelu(Some(GeluKind::Exact)));
                    }
                    Parameter::Kind(kind) if name == "gelu" && kind == "tanh" => {
                        return Ok(HeadLayer::Gelu(Some(GeluKind::Tanh)));
                    }
                    Parameter::Number(number) if single(number).is_finite() => Some(single(number)),
                    _ => None,
                };
                match name.as_str() {
                    "batch_norm" if number.is_some_and(|eps| eps < 0.0) => {
                        Err(SpecError::new(&key, "the eps of a batch norm is not negative"))
                    }
                    "batch_norm" => number.map(|eps| HeadLayer::BatchNorm(Some(eps))).ok_or_else(not_finite),
                    "leaky_relu" => number
                        .map(|slope| HeadLayer::LeakyRelu(Some(slope)))
                        .ok_or_else(not_finite),
                    "elu" => number.map(|alpha| HeadLayer::Elu(Some(alpha))).ok_or_else(not_finite),
                    "gelu" => Err(SpecError::new(&key, "gelu takes \"exact\" or \"tanh\"")),
                    other if NAMES.split(", ").any(|name| name == other) => {
                        Err(SpecError::new(&key, format!("{other} takes no number")))
                    }
                    other => Err(unknown(other)),
                }
            }
        }
    }
}
