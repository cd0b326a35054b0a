//! The headers of a BMP.

use super::CUT_SHORT;

/// Where the second header begins.
const SECOND: usize = 14;
/// The size of the oldest second header, whose fields are narrower.
const CORE_HEADER: u32 = 12;
/// The size of the second header that masks follow; longer ones have them in the same place.
const INFO_HEADER: u32 = 40;
/// The size of the first one that has a mask of alpha.
const ALPHA_HEADER: u32 = 56;
/// Where the masks of red, green, blue and alpha are.
const MASKS: [usize; 4] = [54, 58, 62, 66];

pub(super) const RAW: u32 = 0;
pub(super) const RLE8: u32 = 1;
pub(super) const RLE4: u32 = 2;
pub(super) const BITFIELDS: u32 = 3;

/// What the headers say of the pixels.
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) is_top_down: bool,
    /// Bits of a pixel.
    pub(super) depth: u16,
    pub(super) compression: u32,
    /// How many colours the palette has, 0 for as many as the depth allows.
    colours: u32,
    /// Bytes of a colour in the palette.
    pub(super) entry: usize,
    /// Of red, green, blue and alpha, if the compression is [`BITFIELDS`].
    pub(super) masks: [u32; 4],
    /// Where the headers end, and a palette begins.
    pub(super) end: usize,
}

impl Header {
    /// Reads both headers, gives the offset of the pixels apart.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, usize), &'static str> {
        if !bytes.starts_with(b"BM") {
            return Err("it does not begin with BM");
        }
        let offset = dword(bytes, 10)? as usize;
        let size = dword(bytes, SECOND)?;
        if !matches!(size, CORE_HEADER | INFO_HEADER | 52 | ALPHA_HEADER | 64 | 108 | 124) {
            return Err("the size of its header is not known");
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
            return Err("its compression is not known");
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
        // Pillow takes no other height for a negative one.
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

    /// How many colours the palette has, where the depth is one that has a palette.
    pub(super) fn palette_length(&self) -> Result<usize, &'static str> {
        if !matches!(self.depth, 1 | 4 | 8) {
            return Err("its depth is not known");
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
