//! What a model's own first layers do to its pictures.

use crate::error::SpecError;
use crate::preprocessing::{ChannelOrder, Preprocessing, ValueRange};

/// y\[c\] = `scale`\[c\] · x\[c′\] + `shift`\[c\] of each pixel, where c′ is 2 − c if `reversed`, else c: what `Rescaling`,
/// `Normalization` and `preprocess_input` inside of a model compute of what it is fed.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ChannelTransform {
    /// True if the order of the channels is turned round first.
    pub reversed: bool,
    /// The factor of each channel of the result.
    pub scale: [f64; 3],
    /// What is added to each channel of the result.
    pub shift: [f64; 3],
}

impl ChannelTransform {
    /// Changes nothing.
    pub const IDENTITY: Self = Self {
        reversed: false,
        scale: [1.0; 3],
        shift: [0.0; 3],
    };

    /// Returns this one, followed by `next`.
    #[must_use]
    pub fn then(&self, next: &Self) -> Self {
        let mut joined = Self {
            reversed: self.reversed != next.reversed,
            ..*next
        };
        for channel in 0..3 {
            let from = if next.reversed { 2 - channel } else { channel };
            joined.scale[channel] = next.scale[channel] * self.scale[from];
            joined.shift[channel] = next.scale[channel] * self.shift[from] + next.shift[channel];
        }
        joined
    }
}

impl Preprocessing {
    /// Returns the preprocessing whose values are `transform` of this one's.
    ///
    /// # Errors
    /// [`SpecError`] if no preprocessing computes that: per-picture standardisation and then other factors, or factors of
    /// different signs.
    pub fn followed_by(&self, transform: &ChannelTransform) -> Result<Self, SpecError> {
        if *transform == ChannelTransform::IDENTITY {
            return Ok(*self);
        }
        let refused = |reason: &str| Err(SpecError::new("preprocessing", reason.to_owned()));
        let ChannelTransform {
            reversed,
            scale: factors,
            shift,
        } = transform;
        let channels = match (reversed, self.channels) {
            (true, ChannelOrder::Rgb) => ChannelOrder::Bgr,
            (true, ChannelOrder::Bgr) => ChannelOrder::Rgb,
            (_, channels) => channels,
        };
        let ValueRange::Scaled {
            scale,
            mut mean,
            mut std,
        } = self.normalisation
        else {
            if *factors != [1.0; 3] || *shift != [0.0; 3] {
                return refused(
                    "the model's own first layers scale what it is fed, and so it was not fed standardised pictures; \
                     give what it was fed",
                );
            }
            return Ok(Self { channels, ..*self });
        };
        if *reversed {
            mean.reverse();
            std.reverse();
        }
        // (x · s − m) / d · f + t = (x · s·f − (m·f − t·d)) / d, with one f; else (x · s − (m − t·d/f)) / (d/f).
        let is_uniform = factors.iter().all(|factor| factor == &factors[0]);
        let signs_differ = factors.iter().any(|factor| !(*factor > 0.0 && factor.is_finite()));
        if signs_differ && !(is_uniform && factors[0] < 0.0) {
            return refused(
                "the model's own first layers multiply the channels by zero or by factors of different signs",
            );
        }
        let common = if is_uniform { factors[0] } else { 1.0 };
        for channel in 0..3 {
            let rest = factors[channel] / common;
            let (m, d) = (f64::from(mean[channel]), f64::from(std[channel]) / rest);
            mean[channel] = (m * common - shift[channel] * d) as f32 + 0.0;
            std[channel] = d as f32;
        }
        let joined = Self {
            channels,
            normalisation: ValueRange::Scaled {
                scale: (f64::from(scale) * common) as f32,
                mean,
                std,
            },
            ..*self
        };
        joined.check()?;
        Ok(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    const UNIT: ChannelTransform = ChannelTransform {
        reversed: false,
        scale: [1.0 / 255.0; 3],
        shift: [0.0; 3],
    };
    const CAFFE: ChannelTransform = ChannelTransform {
        reversed: true,
        scale: [1.0; 3],
        shift: [-103.939, -116.779, -123.68],
    };

    /// Nearest pixels, values of 0 to 255.
    fn fed() -> Preprocessing {
        Preprocessing {
            channels: ChannelOrder::Rgb,
            normalisation: ValueRange::Scaled {
                scale: 1.0,
                mean: [0.0; 3],
                std: [1.0; 3],
            },
            ..Preset::KerasUnit.preprocessing()
        }
    }

    fn values(preprocessing: &Preprocessing, rgb: [f64; 3]) -> [f64; 3] {
        let ValueRange::Scaled { scale, mean, std } = preprocessing.normalisation else {
            panic!("not scaled");
        };
        let mut values = rgb;
        if preprocessing.channels == ChannelOrder::Bgr {
            values.reverse();
        }
        for channel in 0..3 {
            let scaled = values[channel] * f64::from(scale) - f64::from(mean[channel]);
            values[channel] = scaled / f64::from(std[channel]);
        }
        values
    }

    #[test]
    fn what_keras_puts_inside_of_a_model_is_its_preset_outside() {
        assert_eq!(fed().followed_by(&UNIT), Ok(Preset::KerasUnit.preprocessing()));
        assert_eq!(fed().followed_by(&CAFFE), Ok(Preset::KerasCaffe.preprocessing()));
        let identity = ChannelTransform::IDENTITY;
        assert_eq!(fed().followed_by(&identity), Ok(fed()));
    }

    #[test]
    fn transforms_are_computed_one_after_the_other() {
        let normalised = ChannelTransform {
            reversed: false,
            scale: [4.0, 2.0, 5.0],
            shift: [0.5, -0.25, 1.0],
        };
        let negative = ChannelTransform {
            reversed: true,
            scale: [-2.0; 3],
            shift: [1.0, 2.0, 3.0],
        };
        for chain in [
            [UNIT, normalised],
            [CAFFE, normalised],
            [negative, CAFFE],
            [CAFFE, CAFFE],
        ] {
            let rgb = [13.0, 200.0, 77.0];
            let mut expected = rgb;
            for transform in chain {
                if transform.reversed {
                    expected.reverse();
                }
                for (channel, value) in expected.iter_mut().enumerate() {
                    *value = *value * transform.scale[channel] + transform.shift[channel];
                }
            }
            let at_once = fed().followed_by(&chain[0].then(&chain[1])).unwrap();
            let in_turn = fed().followed_by(&chain[0]).unwrap().followed_by(&chain[1]).unwrap();
            for joined in [at_once, in_turn] {
                for (value, expected) in values(&joined, rgb).into_iter().zip(expected) {
                    assert!(
                        (value - expected).abs() < 1e-4,
                        "{value} is not {expected} for {chain:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_no_preprocessing_computes_is_refused() {
        let standardised = Preprocessing {
            normalisation: ValueRange::Standardised,
            ..fed()
        };
        assert!(standardised.followed_by(&UNIT).is_err());
        let turned = ChannelTransform {
            reversed: true,
            ..ChannelTransform::IDENTITY
        };
        let bgr = standardised.followed_by(&turned).unwrap();
        assert_eq!(bgr.channels, ChannelOrder::Bgr);
        let mixed = ChannelTransform {
            scale: [1.0, -1.0, 1.0],
            ..ChannelTransform::IDENTITY
        };
        assert!(fed().followed_by(&mixed).is_err());
    }
}
