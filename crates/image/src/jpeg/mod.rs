//! Decodes JPEG: reads the headers as Pillow does, then calls libjpeg.

mod cmyk;
mod header;
mod libjpeg;

use mozjpeg_sys::J_COLOR_SPACE;

use self::header::{Component, Header};
use self::libjpeg::{Libjpeg, Stop};
use super::error::{ImageError, malformed};
use super::picture::{Channels, Picture, Shape};
use super::scaling::{JpegScaling, WHOLE};
use super::sink::RowSink;

/// A file whose headers have been read.
pub(super) struct Jpeg<'a> {
    bytes: &'a [u8],
    header: Header,
    /// The scale of decoding, in eighths of the size.
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

    /// Returns the unscaled width and height, in pixels.
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
        /// Rows of 8-bit samples in libjpeg's buffers, for each component.
        const ROWS: u64 = 128;
        const TABLES: u64 = 1 << 20;
        let [width, height] = self.whole().map(u64::from);
        let components = &self.header.components;
        let rows = (width + 128) * ROWS * components.len() as u64;
        // All 16-bit coefficients of a picture of several scans are held.
        let is_held = self.header.is_progressive || usize::from(self.header.components_of_scan) < components.len();
        TABLES
            + rows
            + if is_held {
                coefficient_bytes(width, height, components)
            } else {
                0
            }
    }

    fn decode_whole(&mut self) {
        self.eighths = WHOLE;
    }

    fn decode(self: Box<Self>, rows: &mut dyn RowSink) -> Result<(), ImageError> {
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
            return Err(damaged("libjpeg decodes it to another size"));
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

/// Returns the bytes of a picture's coefficients, in whole units of up to 4x4 blocks of 8x8.
fn coefficient_bytes(width: u64, height: u64, components: &[Component]) -> u64 {
    let (mut horizontal_max, mut vertical_max) = (1, 1);
    for component in components {
        horizontal_max = horizontal_max.max(u64::from(component.horizontal));
        vertical_max = vertical_max.max(u64::from(component.vertical));
    }
    let mut bytes = 0;
    for component in components {
        let columns = width.div_ceil(8 * horizontal_max) * 8 * u64::from(component.horizontal.max(1));
        let rows = height.div_ceil(8 * vertical_max) * 8 * u64::from(component.vertical.max(1));
        bytes += 2 * columns * rows;
    }
    bytes
}

fn refusal(stop: Stop) -> ImageError {
    match stop {
        Stop::Truncated => damaged("it ends before its end marker"),
        Stop::TooManyScans(limit) => damaged(format!("it has more than {limit} scans")),
        Stop::Refused(message) => damaged(message),
    }
}

fn damaged(reason: impl ToString) -> ImageError {
    malformed("JPEG", reason)
}
