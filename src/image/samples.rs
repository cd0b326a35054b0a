//! A decoded picture before it is resized.

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
    pub width: u32,
    pub height: u32,
    pub channels: Channels,
    pub bytes: Vec<u8>,
}

impl Channels {
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
