//! A decoded picture before it is resized.

use super::scaling::WHOLE;

/// What the bytes of one pixel are. Kept as decoded: resizing treats each channel alone, so that 224x224 pixels rather
/// than all of them are turned to RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
}

/// Rows from the top, pixels from the left, channels interleaved, one byte each.
pub(super) struct Samples {
    /// The picture's own width, in pixels.
    pub width: u32,
    /// The picture's own height, in pixels.
    pub height: u32,
    /// At how many eighths of its size it was decoded, rounded up to whole pixels; 8 is the whole.
    pub eighths: u32,
    pub channels: Channels,
    pub bytes: Vec<u8>,
}

impl Samples {
    /// Pixels in a row of `bytes`.
    pub(super) fn columns(&self) -> u32 {
        self.scaled(self.width)
    }

    /// Rows in `bytes`.
    pub(super) fn rows(&self) -> u32 {
        self.scaled(self.height)
    }

    fn scaled(&self, length: u32) -> u32 {
        (u64::from(length) * u64::from(self.eighths)).div_ceil(u64::from(WHOLE)) as u32
    }
}

impl Channels {
    /// Bytes of a pixel.
    pub(super) fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }

    /// Red, green and blue of `pixels`; alpha is dropped.
    pub(super) fn into_rgb(self, pixels: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Grey => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            Self::GreyAlpha => pixels.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
            Self::Rgb => pixels,
            Self::Rgba => {
                let rgb = pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]);
                rgb.collect()
            }
        }
    }
}
