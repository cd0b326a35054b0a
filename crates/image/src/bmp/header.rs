//! The headers of a BMP file.

use super::CUT_SHORT;

/// The offset of the second header.
const SECOND: usize = 14;
/// The size of the oldest second header, whose fields are narrower.
const CORE_HEADER: u32 = 12;
/// The size of the second header that the masks follow. Longer headers contain them at the same offsets.
const INFO_HEADER: u32 = 40;
/// The size of the shortest second header with an alpha mask.
const ALPHA_HEADER: u32 = 56;
/// The offsets of the masks of red, green, blue and alpha.
const MASKS: [usize; 4] = [54, 58, 62, 66];

pub(super) const RAW: u32 = 0;
pub(super) const RLE8: u32 = 1;
pub(super) const RLE4: u32 = 2;
pub(super) const BITFIELDS: u32 = 3;

/// The fields that describe the pixels.
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) is_top_down: bool,
    /// Bits of a pixel.
    pub(super) depth: u16,
    pub(super) compression: u32,
    /// Colours of the palette; 0 stands for as many as the depth allows.
    colours: u32,
    /// Bytes of a colour in the palette.
    pub(super) entry: usize,
    /// The masks of red, green, blue and alpha, if the compression is [`BITFIELDS`].
    pub(super) masks: [u32; 4],
    /// The end of the headers, where the palette begins.
    pub(super) end: usize,
}

impl Header {
    /// Reads both headers. Returns them and the offset of the pixels.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, usize), &'static str> {
        if !bytes.starts_with(b"BM") {
            return Err("it does not begin with BM");
        }
        let offset = dword(bytes, 10)? as usize;
        let size = dword(bytes, SECOND)?;
        if !matches!(size, CORE_HEADER | INFO_HEADER | 52 | ALPHA_HEADER | 64 | 108 | 124) {
            return Err("its header has an unknown size");
        }
        if bytes.len() < SECOND + size as usize {
            return Err(CUT_SHORT);
        }
        let header = if size == CORE_HEADER {
            Self::core(bytes)
        } else {
            Self::info(bytes, size)
        }?;
        if header.width == 0 || header.height == 0 {
            return Err("its size is 0");
        }
        if !matches!(header.compression, RAW | RLE8 | RLE4 | BITFIELDS) {
            return Err("its compression is unknown");
        }
        Ok((header, offset))
    }

    fn core(bytes: &[u8]) -> Result<Self, &'static str> {
        Ok(Self {
            width: word(bytes, 18)?.into(),
            height: word(bytes, 20)?.into(),
            is_top_down: false,
            depth: word(bytes, 24)?,
            compression: RAW,
            colours: 0,
            entry: 3,
            masks: [0; 4],
            end: SECOND + CORE_HEADER as usize,
        })
    }

    fn info(bytes: &[u8], size: u32) -> Result<Self, &'static str> {
        let height = dword(bytes, 22)?;
        // Pillow treats no other height as negative.
        let is_top_down = height >> 24 == 0xff;
        let compression = dword(bytes, 30)?;
        let mut end = SECOND + size as usize;
        let mut masks = [0; 4];
        if compression == BITFIELDS {
            let count = if size < ALPHA_HEADER { 3 } else { 4 };
            for (mask, at) in masks.iter_mut().zip(MASKS).take(count) {
                *mask = dword(bytes, at)?;
            }
            end = end.max(MASKS[3]);
        }
        Ok(Self {
            width: dword(bytes, 18)?,
            height: if is_top_down { height.wrapping_neg() } else { height },
            is_top_down,
            depth: word(bytes, 28)?,
            compression,
            colours: dword(bytes, 46)?,
            entry: 4,
            masks,
            end,
        })
    }

    /// Returns the number of colours of the palette.
    ///
    /// # Errors
    /// The depth has no palette, or the fields contradict each other.
    pub(super) fn palette_length(&self) -> Result<usize, &'static str> {
        if !matches!(self.depth, 1 | 4 | 8) {
            return Err("its depth is unknown");
        }
        if self.compression == BITFIELDS {
            return Err("it has both masks and a palette");
        }
        match self.colours {
            0 => Ok(1 << self.depth),
            colours @ ..=65536 => Ok(colours as usize),
            _ => Err("its palette is too long"),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u16, &'static str> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(CUT_SHORT)?;
    Ok(u16::from_le_bytes(*bytes))
}

fn dword(bytes: &[u8], at: usize) -> Result<u32, &'static str> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(CUT_SHORT)?;
    Ok(u32::from_le_bytes(*bytes))
}
