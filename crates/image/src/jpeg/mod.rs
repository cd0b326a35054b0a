//! JPEG: Pillow's reading of the headers, then libjpeg.

mod cmyk;
mod header;
mod libjpeg;

use mozjpeg_sys::J_COLOR_SPACE;

use self::header::Header;
use self::libjpeg::{Libjpeg, Stop};
use super::error::{ImageError, malformed};
use super::picture::{Channels, Picture, Shape};
use super::resize::Resizer;
use super::scaling::{JpegScaling, WHOLE};

/// A file whose headers were read.
pub(super) struct Jpeg<'a> {
    bytes: &'a [u8],
    header: Header,
    /// At how many eighths of its size it is decoded.
    pub eighths: u32,
}

impl<'a> Jpeg<'a> {
    /// # Errors
    /// [`ImageError::Malformed`] where Pillow's `Image.open` refuses the file.
    pub(super) fn open(bytes: &'a [u8], scaling: JpegScaling) -> Result<Self, ImageError> {
        let header = Header::read(bytes)?;
        let eighths = scaling.eighths(header.width.min(header.height).into());
        Ok(Self { bytes, header, eighths })
    }

    /// The picture's own size, in pixels.
    pub(super) fn whole(&self) -> [u32; 2] {
        [self.header.width.into(), self.header.height.into()]
    }
}

impl Picture for Jpeg<'_> {
    fn shape(&self) -> Shape {
        let [width, height] = self.whole().map(|length| (length * self.eighths).div_ceil(WHOLE));
        let channels = if self.header.components.len() == 1 {
            Channels::Grey
        } else {
            Channels::Rgbx
        };
        Shape {
            width,
            height,
            channels,
        }
    }

    fn memory(&self) -> u64 {
        /// Rows of 8-bit samples that pass through libjpeg's upsampling at one time, for each component.
        const ROWS: u64 = 128;
        const TABLES: u64 = 1 << 20;
        let [width, height] = self.whole().map(u64::from);
        let components = &self.header.components;
        let rows = (width + 128) * ROWS * components.len() as u64;
        // A picture that comes in several scans is held whole, as 16-bit coefficients.
        let is_held = self.header.is_progressive || usize::from(self.header.components_of_scan) < components.len();
        let finest =
            |factor: fn(&header::Component) -> u8| components.iter().map(factor).max().unwrap_or(1).max(1).into();
        let (horizontal, vertical): (u64, u64) = (finest(|part| part.horizontal), finest(|part| part.vertical));
        let mut coefficients = 0;
        for part in components {
            // Whole units of up to 4x4 blocks of 8x8.
            let columns = width.div_ceil(8 * horizontal) * 8 * u64::from(part.horizontal.max(1));
            let rows = height.div_ceil(8 * vertical) * 8 * u64::from(part.vertical.max(1));
            coefficients += 2 * columns * rows;
        }
        TABLES + rows + if is_held { coefficients } else { 0 }
    }

    fn decode(self: Box<Self>, rows: &mut Resizer) -> Result<(), ImageError> {
        let shape = self.shape();
        let mut decoder = Libjpeg::open(self.bytes).map_err(refusal)?;
        if decoder.size() != self.whole() {
            return Err(damaged("it has two frame headers"));
        }
        let colours = match self.header.components.len() {
            1 => J_COLOR_SPACE::JCS_GRAYSCALE,
            3 => J_COLOR_SPACE::JCS_EXT_RGBX,
            _ => J_COLOR_SPACE::JCS_CMYK,
        };
        let size = decoder.start(self.eighths, colours).map_err(refusal)?;
        if size != [shape.width, shape.height] || decoder.row_length() != rows.row().len() {
            return Err(damaged("libjpeg makes another size of it"));
        }
        for _ in 0..shape.height {
            decoder.read_row(rows.row()).map_err(refusal)?;
            if colours == J_COLOR_SPACE::JCS_CMYK {
                cmyk::to_rgb(rows.row());
            }
            rows.advance();
        }
        decoder.finish().map_err(refusal)
    }
}

fn refusal(stop: Stop) -> ImageError {
    match stop {
        Stop::Truncated => damaged("it ends before its end marker"),
        Stop::TooManyScans(most) => damaged(format!("it has more than {most} scans")),
        Stop::Refused(message) => damaged(message),
    }
}

fn damaged(reason: impl ToString) -> ImageError {
    malformed("JPEG", reason)
}
