//! The resampling filters, as Pillow defines them (`libImaging/Resample.c`).

use std::f64::consts::PI;

/// A resampling filter.
///
/// When a picture is made smaller, all but [`Filter::Nearest`] are widened by the scale (antialiasing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// The mean of the pixels that become one.
    Box,
    /// A triangle.
    #[default]
    Bilinear,
    /// A Hamming window over the middle of the sinc function.
    Hamming,
    /// Cubic convolution with a = -0.5.
    Bicubic,
    /// Three lobes of the sinc function under a window of the same form.
    Lanczos,
}

impl Filter {
    /// Returns how far the filter reaches to each side, in pixels of the smaller picture.
    pub(super) fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// Returns the weight of a pixel at the distance `x`, before the weights are normalised to a sum of 1.
    pub(super) fn weight(self, x: f64) -> f64 {
        match self {
            Self::Nearest | Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming => hamming(x.abs()),
            Self::Bicubic => bicubic(x.abs()),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn hamming(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else if x >= 1.0 {
        0.0
    } else {
        // Pillow's constants have single precision.
        sinc(x) * (f64::from(0.54_f32) + f64::from(0.46_f32) * (x * PI).cos())
    }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}
