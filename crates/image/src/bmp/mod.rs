//! Decodes BMP as Pillow does.

mod header;
mod runs;
mod unpack;

use self::header::{Header, RLE4, RLE8};
use self::unpack::{Kind, Unpacker};
use super::error::{ImageError, malformed};
use super::picture::{Channels, Picture, Shape};
use super::sink::RowSink;

const CUT_SHORT: &str = "it ends too early";

/// A file whose headers have been read.
pub(super) struct Bmp<'a> {
    bytes: &'a [u8],
    header: Header,
    kind: Kind<'a>,
    /// The offset of the pixels, which may be beyond the end of the file.
    offset: usize,
}

/// Reads the headers.
///
/// # Errors
/// [`ImageError::Malformed`] where Pillow's `Image.open` refuses the file.
pub(super) fn open(bytes: &[u8]) -> Result<Box<dyn Picture + '_>, ImageError> {
    let bmp = Bmp::read(bytes).map_err(|reason| malformed("BMP", reason))?;
    Ok(Box::new(bmp))
}

impl<'a> Bmp<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let (header, mut offset) = Header::read(bytes)?;
        let mut end = header.end;
        let kind = if header.depth > 8 {
            Kind::direct(&header)?
        } else {
            let colours = header.palette_length()?;
            let length = header.entry * colours;
            // Like Pillow: such an offset does not count the palette.
            if offset == end {
                offset = offset.saturating_add(length);
            }
            let palette = &bytes[end..bytes.len().min(end + length)];
            end += palette.len();
            Kind::paletted(palette, header.entry, colours)
        };
        if offset == 0 {
            offset = end;
        }
        Ok(Self {
            bytes,
            header,
            kind,
            offset,
        })
    }

    fn has_runs(&self) -> bool {
        matches!(self.header.compression, RLE8 | RLE4)
    }

    fn load(&self, rows: &mut dyn RowSink) -> Result<(), &'static str> {
        let depth = if self.has_runs() { 8 } else { self.header.depth.into() };
        let unpacker = Unpacker::new(self.kind, depth, self.has_runs(), self.header.entry)?;
        if self.has_runs() {
            self.write(&self.runs()?, self.header.width as usize, &unpacker, rows);
        } else {
            let (pixels, stride) = self.rows(&unpacker)?;
            self.write(pixels, stride, &unpacker, rows);
        }
        Ok(())
    }

    /// Returns the pixels of a file without runs, and the bytes from a row to the next.
    fn rows(&self, unpacker: &Unpacker) -> Result<(&'a [u8], usize), &'static str> {
        let (width, height) = (self.header.width as usize, self.header.height as usize);
        let stride = width
            .saturating_mul(self.header.depth.into())
            .div_ceil(32)
            .saturating_mul(4);
        let row = unpacker.row_length(width);
        if row > stride {
            return Err("its rows are shorter than its pixels need");
        }
        // The padding of the last row may be missing.
        let end = stride
            .saturating_mul(height - 1)
            .saturating_add(row)
            .saturating_add(self.offset);
        let pixels = self.bytes.get(self.offset..end).ok_or(CUT_SHORT)?;
        Ok((pixels, stride))
    }

    /// Expands the pixels of a run-length file, one byte each and without padding.
    fn runs(&self) -> Result<Vec<u8>, &'static str> {
        if !matches!(self.kind, Kind::Bilevel | Kind::Grey | Kind::Palette(_)) {
            return Err("it has runs but no palette");
        }
        let (width, height) = (self.header.width as usize, self.header.height as usize);
        let mut pixels = vec![0; width.checked_mul(height).ok_or("it is too large")?];
        if runs::expand(
            self.bytes,
            self.offset,
            self.header.compression == RLE4,
            width,
            &mut pixels,
        ) {
            Ok(pixels)
        } else {
            Err("its runs end before its last pixel")
        }
    }

    /// Writes the rows of `pixels`, each of which begins `stride` bytes after the previous.
    fn write(&self, pixels: &[u8], stride: usize, unpacker: &Unpacker, rows: &mut dyn RowSink) {
        let height = self.header.height as usize;
        for y in 0..height {
            let y = if self.header.is_top_down { y } else { height - 1 - y };
            unpacker.unpack(&pixels[y * stride..], rows.row());
            rows.advance();
        }
    }
}

impl Picture for Bmp<'_> {
    fn shape(&self) -> Shape {
        let channels = match self.kind {
            Kind::Bilevel | Kind::Grey => Channels::Grey,
            _ => Channels::Rgbx,
        };
        Shape {
            width: self.header.width,
            height: self.header.height,
            channels,
        }
    }

    fn memory(&self) -> u64 {
        let pixels = u64::from(self.header.width) * u64::from(self.header.height);
        unpack::MEMORY + if self.has_runs() { pixels } else { 0 }
    }

    fn decode(self: Box<Self>, rows: &mut dyn RowSink) -> Result<(), ImageError> {
        self.load(rows).map_err(|reason| malformed("BMP", reason))
    }
}

#[cfg(test)]
mod tests {
    use super::header::BITFIELDS;
    use super::*;

    /// A file whose second header has 40 bytes; `tail` is what comes after it, at byte 54.
    fn file(width: u32, height: i32, depth: u16, compression: u32, colours: u32, offset: u32, tail: &[u8]) -> Vec<u8> {
        let mut bytes = b"BM\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(offset.to_le_bytes());
        bytes.extend([40, 0, 0, 0]);
        bytes.extend(width.to_le_bytes());
        bytes.extend(height.to_le_bytes());
        bytes.extend([1, 0]);
        bytes.extend(depth.to_le_bytes());
        bytes.extend(compression.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(colours.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(tail);
        bytes
    }

    fn header(height: i32) -> Header {
        let bytes = file(1, height, 24, 0, 0, 54, &[]);
        Bmp::read(&bytes).unwrap().header
    }

    /// The masks of red, green and blue.
    fn masks(red: u32, green: u32, blue: u32) -> Vec<u8> {
        [red.to_le_bytes(), green.to_le_bytes(), blue.to_le_bytes()].concat()
    }

    /// The pixel of the bytes 1, 2, 3 and 4 with these masks.
    fn masked(masks: Vec<u8>) -> Result<Vec<u8>, &'static str> {
        rows(&file(1, 1, 32, BITFIELDS, 0, 0, &[masks, vec![1, 2, 3, 4]].concat()))
    }

    /// All rows in the order of the file.
    fn rows(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
        let bmp = Bmp::read(bytes)?;
        let depth = if bmp.has_runs() { 8 } else { bmp.header.depth.into() };
        let unpacker = Unpacker::new(bmp.kind, depth, bmp.has_runs(), bmp.header.entry)?;
        let width = bmp.header.width as usize;
        let (pixels, stride) = if bmp.has_runs() {
            (bmp.runs()?, width)
        } else {
            bmp.rows(&unpacker).map(own)?
        };
        let length = width * bmp.shape().channels.count();
        let mut all = Vec::new();
        for y in 0..bmp.header.height as usize {
            let mut row = vec![0; length];
            unpacker.unpack(&pixels[y * stride..], &mut row);
            all.extend(row);
        }
        Ok(all)
    }

    fn own((pixels, stride): (&[u8], usize)) -> (Vec<u8>, usize) {
        (pixels.to_vec(), stride)
    }

    #[test]
    fn colours_of_24_bits_are_padded_except_in_the_last_row() {
        let bytes = file(1, 2, 24, 0, 0, 54, &[1, 2, 3, 9, 4, 5, 6]);
        assert_eq!(rows(&bytes).unwrap(), [3, 2, 1, 0, 6, 5, 4, 0]);
        assert!(rows(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn only_heights_of_24_bits_are_negative() {
        assert!(header(-2).is_top_down);
        assert_eq!(header(-2).height, 2);
        assert!(!header(-0x0100_0001).is_top_down);
        assert_eq!(header(-0x0100_0001).height, 0xfeff_ffff);
    }

    #[test]
    fn pixels_of_16_bits_are_stretched() {
        let bytes = file(2, 1, 16, 0, 0, 54, &[0x1f, 0, 0, 0x40]);
        assert_eq!(rows(&bytes).unwrap(), [0, 0, 255, 0, 131, 0, 0, 0]);
        let masks = [0, 0xf8, 0, 0, 0xe0, 7, 0, 0, 0x1f, 0, 0, 0];
        let bytes = file(1, 1, 16, BITFIELDS, 0, 66, &[&masks, [0xe0, 7].as_slice()].concat());
        assert_eq!(rows(&bytes).unwrap(), [0, 255, 0, 0]);
    }

    #[test]
    fn masks_that_pillow_knows_choose_the_bytes() {
        assert_eq!(masked(masks(0xff_0000, 0xff00, 0xff)).unwrap(), [3, 2, 1, 0]);
        assert_eq!(masked(masks(0xff00_0000, 0xff_0000, 0xff00)).unwrap(), [4, 3, 2, 0]);
        assert_eq!(masked(masks(0xff00_0000, 0xff00, 0xff)).unwrap(), [4, 2, 1, 0]);
        // Red, green, blue and no alpha.
        assert!(masked(masks(0xff, 0xff00, 0xff_0000)).is_err());
    }

    #[test]
    fn indices_beyond_the_palette_are_black() {
        let bytes = file(3, 1, 4, 0, 2, 0, &[1, 2, 3, 0, 4, 5, 6, 0, 0x01, 0xf0, 0, 0]);
        assert_eq!(rows(&bytes).unwrap(), [3, 2, 1, 0, 6, 5, 4, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_offset_at_the_palette_is_moved_past_it() {
        let tail = [1, 2, 3, 0, 4, 5, 6, 0, 0x80, 0, 0, 0];
        let bytes = file(1, 1, 1, 0, 0, 54, &tail);
        assert_eq!(rows(&bytes).unwrap(), [6, 5, 4, 0]);
        assert_eq!(Bmp::read(&bytes).unwrap().offset, 62);
    }

    #[test]
    fn black_and_white_are_read_as_bits_and_greys_as_bytes() {
        let bytes = file(2, 1, 8, 0, 2, 62, &[0, 0, 0, 0, 255, 255, 255, 0, 0x40, 0, 0, 0]);
        assert_eq!(rows(&bytes).unwrap(), [0, 255]);
        let greys: Vec<u8> = (0..16).flat_map(|level| [level, level, level, 0]).collect();
        let tail = [greys.as_slice(), &[1, 2, 3, 200, 5, 6, 7, 8]].concat();
        assert_eq!(rows(&file(4, 1, 4, 0, 0, 0, &tail)).unwrap(), [1, 2, 3, 200]);
        assert!(rows(&file(9, 1, 4, 0, 0, 0, &tail)).is_err());
    }

    #[test]
    fn a_palette_of_over_256_colours_must_be_grey() {
        let greys: Vec<u8> = (0..300)
            .flat_map(|level| [level as u8, level as u8, level as u8, 0])
            .collect();
        let mut bytes = file(1, 1, 8, 0, 300, 0, &[greys.as_slice(), &[7, 0, 0, 0]].concat());
        assert_eq!(rows(&bytes).unwrap(), [7]);
        bytes[54] = 1;
        assert!(Bmp::read(&bytes).is_ok());
        assert!(rows(&bytes).is_err());
    }

    #[test]
    fn runs_of_black_and_white_are_not_0_for_white() {
        let tail = [0, 0, 0, 0, 255, 255, 255, 0, 2, 7, 1, 0];
        assert_eq!(rows(&file(3, 1, 8, RLE8, 2, 0, &tail)).unwrap(), [255, 255, 0]);
        assert!(rows(&file(3, 1, 24, RLE8, 0, 0, &tail)).is_err());
    }

    #[test]
    fn headers_are_refused_as_pillow_does() {
        let whole = file(1, 1, 24, 0, 0, 54, &[1, 2, 3]);
        assert!(open(&whole).is_ok());
        assert!(open(&file(0, 1, 24, 0, 0, 54, &[1, 2, 3])).is_err());
        for (at, byte) in [(0, b'A'), (14, 41), (28, 2), (30, 4), (30, 3)] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            assert!(open(&bytes).is_err(), "{at}");
        }
        assert!((0..54).all(|length| open(&whole[..length]).is_err()));
    }

    #[test]
    fn the_oldest_header_has_colours_of_3_bytes() {
        let header = [
            b"BM\0\0\0\0\0\0\0\0".as_slice(),
            &[0; 4],
            &[12, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0],
        ]
        .concat();
        let bytes = [header.as_slice(), &[1, 2, 3, 4, 5, 6], &[0x80]].concat();
        assert_eq!(rows(&bytes).unwrap(), [6, 5, 4, 0]);
    }
}
