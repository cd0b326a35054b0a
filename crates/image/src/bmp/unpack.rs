//! Converts a BMP's pixels to bytes.

use super::header::{BITFIELDS, Header};

/// The memory of an [`Unpacker`], in bytes.
pub(super) const MEMORY: u64 = size_of::<[[u8; 4]; 256]>() as u64;

/// The pixel format of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// One bit, whatever the header's depth: black or white.
    Bilevel,
    /// One byte, whatever the header's depth.
    Grey,
    /// An index of this palette, of as many bits as the header's depth.
    Palette(&'a [u8]),
    /// Blue, green and red of 5 bits each.
    Packed15,
    /// Blue, green and red of 5, 6 and 5 bits.
    Packed16,
    /// As many bytes as the header's depth, of which these are red, green and blue.
    Bytes([usize; 3]),
}

impl<'a> Kind<'a> {
    /// Returns the format of pixels with a palette. A palette of black and white, or one that maps each index to the same
    /// level of grey, is dropped. Like Pillow it decides between the two by the palette's length alone, so that the depth
    /// may differ from the header's.
    pub(super) fn paletted(palette: &'a [u8], entry: usize, colours: usize) -> Self {
        let mut grey = 0;
        for (index, colour) in palette.chunks(entry).enumerate() {
            let level = if colours == 2 && index == 1 { 255 } else { index as u8 };
            grey += usize::from(colour.starts_with(&[level; 3]));
        }
        match (grey == colours, colours) {
            (false, _) => Kind::Palette(palette),
            (true, ..=2) => Kind::Bilevel,
            (true, _) => Kind::Grey,
        }
    }

    /// Returns the format of pixels of more than 8 bits. These are the masks that Pillow supports.
    pub(super) fn direct(header: &Header) -> Result<Self, &'static str> {
        const UNKNOWN: &str = "its masks are not supported";
        let has_masks = header.compression == BITFIELDS;
        let masks @ [red, green, blue, _] = header.masks;
        match header.depth {
            16 if !has_masks => Ok(Kind::Packed15),
            16 => match [red, green, blue] {
                [0xf800, 0x7e0, 0x1f] => Ok(Kind::Packed16),
                [0x7c00, 0x3e0, 0x1f] => Ok(Kind::Packed15),
                _ => Err(UNKNOWN),
            },
            24 if has_masks && [red, green, blue] != [0xff_0000, 0xff00, 0xff] => Err(UNKNOWN),
            24 => Ok(Kind::Bytes([2, 1, 0])),
            32 if !has_masks => Ok(Kind::Bytes([2, 1, 0])),
            32 => match masks {
                [0xff_0000, 0xff00, 0xff, 0 | 0xff00_0000] | [0, 0, 0, 0] => Ok(Kind::Bytes([2, 1, 0])),
                [0xff00_0000, 0xff_0000, 0xff00, 0 | 0xff] => Ok(Kind::Bytes([3, 2, 1])),
                [0xff00_0000, 0xff00, 0xff, 0 | 0xff_0000] => Ok(Kind::Bytes([3, 1, 0])),
                [0xff, 0xff00, 0xff_0000, 0xff00_0000] => Ok(Kind::Bytes([0, 1, 2])),
                _ => Err(UNKNOWN),
            },
            _ => Err("its depth is unknown"),
        }
    }
}

/// Converts rows of the file to rows of [`super::Channels`].
pub(super) enum Unpacker {
    Bits,
    /// A byte of 0 is black, any other white.
    Bilevel,
    Grey,
    Palette {
        colours: Box<[[u8; 4]; 256]>,
        depth: usize,
    },
    Packed {
        green_bits: u32,
    },
    Bytes {
        count: usize,
        places: [usize; 3],
    },
}

impl Unpacker {
    /// For pixels of `depth` bits and a palette whose colours have `entry` bytes.
    pub(super) fn new(kind: Kind, depth: usize, is_run_length: bool, entry: usize) -> Result<Self, &'static str> {
        Ok(match kind {
            Kind::Bilevel if is_run_length => Self::Bilevel,
            Kind::Bilevel => Self::Bits,
            Kind::Grey => Self::Grey,
            Kind::Palette(palette) if palette.len() / entry > 256 => return Err("its palette is too long"),
            Kind::Palette(palette) => Self::Palette {
                colours: colour_table(palette, entry),
                depth,
            },
            Kind::Packed15 => Self::Packed { green_bits: 5 },
            Kind::Packed16 => Self::Packed { green_bits: 6 },
            Kind::Bytes(places) => Self::Bytes {
                count: depth / 8,
                places,
            },
        })
    }

    /// Returns the bytes of `width` pixels.
    pub(super) fn row_length(&self, width: usize) -> usize {
        match self {
            Self::Bits => width.div_ceil(8),
            Self::Bilevel | Self::Grey => width,
            Self::Palette { depth, .. } => width.saturating_mul(*depth).div_ceil(8),
            Self::Packed { .. } => width.saturating_mul(2),
            Self::Bytes { count, .. } => width.saturating_mul(*count),
        }
    }

    /// Fills `row` from the front of `bytes`, which must be long enough.
    pub(super) fn unpack(&self, bytes: &[u8], row: &mut [u8]) {
        match self {
            Self::Bits => {
                for (levels, byte) in row.chunks_mut(8).zip(bytes) {
                    for (i, level) in levels.iter_mut().enumerate() {
                        *level = if byte << i & 0x80 == 0 { 0 } else { 255 };
                    }
                }
            }
            Self::Bilevel => {
                for (level, byte) in row.iter_mut().zip(bytes) {
                    *level = if *byte == 0 { 0 } else { 255 };
                }
            }
            Self::Grey => row.copy_from_slice(&bytes[..row.len()]),
            Self::Palette { colours, depth: 8 } => {
                for (pixel, index) in row.as_chunks_mut::<4>().0.iter_mut().zip(bytes) {
                    *pixel = colours[usize::from(*index)];
                }
            }
            Self::Palette { colours, depth } => {
                for (pixels, byte) in row.chunks_mut(4 * (8 / depth)).zip(bytes) {
                    for (i, pixel) in pixels.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                        *pixel = colours[usize::from((byte << (i * depth)) >> (8 - depth))];
                    }
                }
            }
            Self::Packed { green_bits } => {
                for (pixel, bytes) in row.as_chunks_mut::<4>().0.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *pixel = packed(u16::from_le_bytes(*bytes).into(), *green_bits);
                }
            }
            Self::Bytes {
                count,
                places: [red, green, blue],
            } => {
                for (pixel, bytes) in row.as_chunks_mut::<4>().0.iter_mut().zip(bytes.chunks_exact(*count)) {
                    *pixel = [bytes[*red], bytes[*green], bytes[*blue], 0];
                }
            }
        }
    }
}

/// Returns the pixel of 16 bits with its levels scaled to 0..=255 and rounded down.
fn packed(pixel: u32, green_bits: u32) -> [u8; 4] {
    let green_max = (1 << green_bits) - 1;
    let red = pixel >> (5 + green_bits) & 31;
    let green = pixel >> 5 & green_max;
    let blue = pixel & 31;
    [
        (red * 255 / 31) as u8,
        (green * 255 / green_max) as u8,
        (blue * 255 / 31) as u8,
        0,
    ]
}

/// Returns the colour of each index; those beyond the palette are black.
fn colour_table(palette: &[u8], entry: usize) -> Box<[[u8; 4]; 256]> {
    let mut colours = Box::new([[0; 4]; 256]);
    for (colour, bytes) in colours.iter_mut().zip(palette.chunks_exact(entry)) {
        *colour = [bytes[2], bytes[1], bytes[0], 0];
    }
    colours
}
