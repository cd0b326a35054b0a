//! Converts samples to pixels of 8 bits a channel.

use super::form::{Colour, Form};
use super::refusal;
use crate::error::ImageError;
use crate::picture::Channels;

/// A pixel of a row of [`Channels::Rgbx`].
type Rgbx = [u8; 4];

type Table = [Rgbx; 256];

/// The memory of an unpacker, in bytes.
pub(super) const MEMORY: u64 = size_of::<Table>() as u64;

pub(super) struct Unpacker {
    form: Form,
    /// The colour of each value, if pixels are mapped by a palette.
    table: Option<Box<Table>>,
}

impl Unpacker {
    /// Returns an unpacker. Colours that a palette lacks are black.
    pub(super) fn new(form: Form, palette: Option<&[u8]>) -> Result<Self, ImageError> {
        if form.colour != Colour::Palette && palette.is_none() {
            return Ok(Self { form, table: None });
        }
        let colours = palette.unwrap_or_default().as_chunks::<3>().0;
        if !form.takes_palette() || colours.len() > 256 {
            return Err(refusal("its palette is too long or does not fit its colour type"));
        }
        let mut table = Box::new([[0; 4]; 256]);
        // Grey values are scaled to 8 bits before they are mapped.
        let step = if form.colour == Colour::Grey {
            255 / ((1 << form.depth) - 1)
        } else {
            1
        };
        for (entry, &[red, green, blue]) in table.iter_mut().zip(colours.iter().step_by(step)) {
            *entry = [red, green, blue, 0];
        }
        Ok(Self {
            form,
            table: Some(table),
        })
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn channels(&self) -> Channels {
        match (self.form.colour, &self.table) {
            (Colour::Grey | Colour::GreyAlpha, None) => Channels::Grey,
            _ => Channels::Rgbx,
        }
    }

    /// Returns the pixel of zero samples, which stands for missing rows. For grey, only the first byte is used.
    pub(super) fn black(&self) -> Rgbx {
        self.table.as_ref().map_or([0; 4], |table| table[0])
    }

    /// Converts a row, or a part of one.
    pub(super) fn unpack(&self, samples: &[u8], out: &mut [u8]) {
        if let Some(table) = &self.table {
            return self.look_up(samples, table, out.as_chunks_mut().0);
        }
        match (self.form.colour, self.form.depth) {
            (Colour::Grey | Colour::Palette, 1) => spread::<8, _>(samples, &[0, 255], out),
            (Colour::Grey | Colour::Palette, 2) => spread::<4, _>(samples, &[0, 85, 170, 255], out),
            (Colour::Grey | Colour::Palette, 4) => spread::<2, _>(samples, &SIXTEEN, out),
            (Colour::Grey | Colour::Palette, 8) => out.copy_from_slice(samples),
            (Colour::Grey | Colour::Palette, _) => clip(samples, out),
            (Colour::GreyAlpha, 8) => first_bytes::<2>(samples, out),
            (Colour::GreyAlpha, _) => first_bytes::<4>(samples, out),
            (Colour::Rgb, 8) => widen(samples, out.as_chunks_mut().0),
            (Colour::Rgb, _) => high_bytes::<6>(samples, out.as_chunks_mut().0),
            (Colour::Rgba, 8) => out.copy_from_slice(samples),
            (Colour::Rgba, _) => high_bytes::<8>(samples, out.as_chunks_mut().0),
        }
    }

    fn look_up(&self, samples: &[u8], table: &Table, out: &mut [Rgbx]) {
        match (self.form.colour, self.form.depth) {
            (_, 1) => spread::<8, _>(samples, table, out),
            (_, 2) => spread::<4, _>(samples, table, out),
            (_, 4) => spread::<2, _>(samples, table, out),
            (Colour::GreyAlpha, _) => {
                for (out, [grey, _]) in out.iter_mut().zip(samples.as_chunks().0) {
                    *out = table[usize::from(*grey)];
                }
            }
            _ => {
                for (out, index) in out.iter_mut().zip(samples) {
                    *out = table[usize::from(*index)];
                }
            }
        }
    }
}

/// The levels of grey of 4 bits.
const SIXTEEN: [u8; 16] = [0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255];

/// Maps bytes of N pixels each, the first in the highest bits, by a table of all values.
fn spread<const N: usize, T: Copy>(samples: &[u8], table: &[T], out: &mut [T]) {
    let bits = 8 / N;
    let mask = (1 << bits) - 1;
    let table = &table[..=mask];
    for (out, byte) in out.chunks_mut(N).zip(samples) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = table[usize::from(*byte) >> (8 - bits - i * bits) & mask];
        }
    }
}

/// Converts 16 bits of grey. Like Pillow, it clips instead of scaling.
fn clip(samples: &[u8], out: &mut [u8]) {
    for (out, &[high, low]) in out.iter_mut().zip(samples.as_chunks().0) {
        *out = if high == 0 { low } else { 255 };
    }
}

fn first_bytes<const N: usize>(samples: &[u8], out: &mut [u8]) {
    for (out, pixel) in out.iter_mut().zip(samples.as_chunks::<N>().0) {
        *out = pixel[0];
    }
}

/// Keeps the high bytes of pixels of N bytes, two for each sample.
fn high_bytes<const N: usize>(samples: &[u8], out: &mut [Rgbx]) {
    for (out, pixel) in out.iter_mut().zip(samples.as_chunks::<N>().0) {
        *out = [pixel[0], pixel[2], pixel[4], 0];
    }
}

/// Converts RGB to RGBX, four pixels at a time: three words become four. The fourth byte of a pixel is arbitrary.
fn widen(samples: &[u8], out: &mut [Rgbx]) {
    let (twelves, rest) = samples.as_chunks::<12>();
    let (fours, rest_out) = out.split_at_mut((twelves.len() * 4).min(out.len()));
    for (out, twelve) in fours.as_chunks_mut::<4>().0.iter_mut().zip(twelves) {
        let &[a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = twelve;
        let a = u32::from_le_bytes([a0, a1, a2, a3]);
        let b = u32::from_le_bytes([b0, b1, b2, b3]);
        let c = u32::from_le_bytes([c0, c1, c2, c3]);
        *out = [a, a >> 24 | b << 8, b >> 16 | c << 16, c >> 8].map(u32::to_le_bytes);
    }
    for (out, &[red, green, blue]) in rest_out.iter_mut().zip(rest.as_chunks().0) {
        *out = [red, green, blue, 0];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked<const N: usize>(depth: u8, colour: u8, palette: Option<&[u8]>, samples: &[u8]) -> [u8; N] {
        let mut out = [1; N];
        let form = Form::new(depth, colour).unwrap();
        Unpacker::new(form, palette).unwrap().unpack(samples, &mut out);
        out
    }

    #[test]
    fn grey_of_few_bits_is_spread() {
        assert_eq!(unpacked::<3>(1, 0, None, &[0b1010_0000]), [255, 0, 255]);
        assert_eq!(
            unpacked::<5>(2, 0, None, &[0b0001_1011, 0b1000_0000]),
            [0, 85, 170, 255, 170]
        );
        assert_eq!(unpacked::<3>(4, 0, None, &[0x1F, 0xA0]), [17, 255, 170]);
    }

    #[test]
    fn grey_of_16_bits_is_clipped() {
        assert_eq!(unpacked::<3>(16, 0, None, &[0, 9, 1, 0, 255, 255]), [9, 255, 255]);
    }

    #[test]
    fn alpha_is_dropped() {
        assert_eq!(unpacked::<2>(8, 4, None, &[5, 0, 6, 255]), [5, 6]);
        assert_eq!(unpacked::<2>(16, 4, None, &[5, 1, 0, 0, 6, 1, 9, 9]), [5, 6]);
        assert_eq!(unpacked::<4>(8, 6, None, &[1, 2, 3, 0])[..3], [1, 2, 3]);
        assert_eq!(unpacked::<4>(16, 6, None, &[1, 9, 2, 9, 3, 9, 0, 0])[..3], [1, 2, 3]);
    }

    #[test]
    fn colours_are_widened() {
        let samples: Vec<u8> = (0..21).collect();
        let out = unpacked::<28>(8, 2, None, &samples);
        let colours: Vec<u8> = out
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|&[r, g, b, _]| [r, g, b])
            .collect();
        assert_eq!(colours, samples);
        assert_eq!(unpacked::<4>(16, 2, None, &[1, 9, 2, 9, 3, 9])[..3], [1, 2, 3]);
    }

    #[test]
    fn indices_beyond_the_palette_are_black() {
        let out = unpacked::<12>(2, 3, Some(&[1, 2, 3, 4, 5, 6, 7]), &[0b0001_1000]);
        assert_eq!(out, [1, 2, 3, 0, 4, 5, 6, 0, 0, 0, 0, 0]);
        assert_eq!(unpacked::<4>(8, 3, None, &[200]), [0; 4]);
    }

    #[test]
    fn grey_is_scaled_before_it_is_mapped() {
        let mut palette = [0; 768];
        palette[85 * 3..][..3].copy_from_slice(&[1, 2, 3]);
        assert_eq!(unpacked::<4>(2, 0, Some(&palette), &[0b0100_0000]), [1, 2, 3, 0]);
    }
}
