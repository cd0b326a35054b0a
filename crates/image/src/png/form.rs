//! PNG's pixel formats.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Grey,
    Rgb,
    Palette,
    GreyAlpha,
    Rgba,
}

/// A valid combination of bit depth and colour type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// Bits of a sample.
    pub depth: u8,
    pub colour: Colour,
}

impl Form {
    pub(super) fn new(depth: u8, colour: u8) -> Option<Self> {
        let colour = match (colour, depth) {
            (0, 1 | 2 | 4 | 8 | 16) => Colour::Grey,
            (2, 8 | 16) => Colour::Rgb,
            (3, 1 | 2 | 4 | 8) => Colour::Palette,
            (4, 8 | 16) => Colour::GreyAlpha,
            (6, 8 | 16) => Colour::Rgba,
            _ => return None,
        };
        Some(Self { depth, colour })
    }

    /// Returns the bits of a pixel.
    pub(super) fn bits(self) -> u32 {
        let samples = match self.colour {
            Colour::Grey | Colour::Palette => 1,
            Colour::GreyAlpha => 2,
            Colour::Rgb => 3,
            Colour::Rgba => 4,
        };
        u32::from(self.depth) * samples
    }

    /// Returns the bytes of a row, without the filter's.
    pub(super) fn row_bytes(self, width: u32) -> u64 {
        (u64::from(width) * u64::from(self.bits())).div_ceil(8)
    }

    /// Returns true if Pillow can map pixels of this format by a palette. It maps grey ones if the file has several headers
    /// and a palette after the first.
    pub(super) fn takes_palette(self) -> bool {
        match self.colour {
            Colour::Palette => true,
            Colour::Grey => matches!(self.depth, 2 | 4 | 8),
            Colour::GreyAlpha => self.depth == 8,
            Colour::Rgb | Colour::Rgba => false,
        }
    }
}
