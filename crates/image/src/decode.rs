//! The way from a file's bytes to [`Pixels`].

use super::error::{ImageError, malformed};
use super::format::Format;
use super::jpeg::Jpeg;
use super::picture::{Picture, Shape};
use super::pixels::Pixels;
use super::resize::Resizer;
use super::scaling::{JpegScaling, WHOLE};
use super::webp::WebP;
use super::{bmp, foreign, gif, png};

/// What bounds decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Width times height at most, checked in the header before memory is taken for the picture.
    pub pixels_max: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            pixels_max: 64 * 1024 * 1024,
        }
    }
}

/// What decoding depends on beside the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageSettings {
    /// What is refused.
    pub limits: ImageLimits,
    /// Whether large JPEGs are decoded at a part of their size.
    pub jpeg_scaling: JpegScaling,
}

impl ImageLimits {
    /// Refuses a picture that is too large or has no pixels.
    fn check(self, format: Format, [width, height]: [u32; 2]) -> Result<(), ImageError> {
        let (width, height) = (u64::from(width), u64::from(height));
        let pixels_max = self.pixels_max;
        if width == 0 || height == 0 {
            return Err(malformed(format.name(), format!("it is {width}x{height} pixels")));
        }
        if width.saturating_mul(height) > pixels_max {
            return Err(ImageError::TooLarge {
                width,
                height,
                pixels_max,
            });
        }
        Ok(())
    }
}

/// A picture whose header was read and is within the limits; what it costs to decode is known.
pub struct Opened<'a> {
    bytes: &'a [u8],
    picture: Box<dyn Picture + 'a>,
    /// The size by the header.
    whole: [u32; 2],
    /// At how many eighths of its size it is decoded.
    eighths: u32,
}

/// Reads the header of a JPEG, PNG, WebP, GIF or BMP file. That takes no memory to speak of, and microseconds.
///
/// # Errors
/// [`ImageError`] where the header alone tells that the picture is refused.
pub fn open(bytes: &[u8], settings: ImageSettings) -> Result<Opened<'_>, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let format = Format::of(bytes).ok_or_else(|| match foreign::name(bytes) {
        Some(foreign) => ImageError::Foreign(foreign.to_string()),
        None => ImageError::UnknownFormat,
    })?;
    open_as(format, bytes, settings).map_err(|error| explained(error, bytes))
}

fn open_as(format: Format, bytes: &[u8], settings: ImageSettings) -> Result<Opened<'_>, ImageError> {
    let mut eighths = WHOLE;
    let mut scaled = None;
    let picture: Box<dyn Picture> = match format {
        Format::Jpeg => {
            let jpeg = Jpeg::open(bytes, settings.jpeg_scaling)?;
            (eighths, scaled) = (jpeg.eighths, Some(jpeg.whole()));
            Box::new(jpeg)
        }
        Format::Png => png::open(bytes)?,
        Format::Gif => gif::open(bytes)?,
        Format::Bmp => bmp::open(bytes)?,
        Format::WebP => Box::new(WebP::open(bytes)?),
    };
    let Shape { width, height, .. } = picture.shape();
    let whole = scaled.unwrap_or([width, height]);
    settings.limits.check(format, whole)?;
    Ok(Opened {
        bytes,
        picture,
        whole,
        eighths,
    })
}

/// A better word for a damaged file, if the damage is of a known kind.
fn explained(error: ImageError, bytes: &[u8]) -> ImageError {
    match (&error, foreign::text_damage(bytes)) {
        (ImageError::Malformed { .. }, Some(foreign)) => ImageError::Foreign(foreign.to_string()),
        _ => error,
    }
}

impl Opened<'_> {
    /// The most bytes of memory that [`Opened::decode`] takes at one time; rather too many than too few.
    pub fn memory(&self) -> u64 {
        self.picture.memory() + Resizer::memory(self.picture.shape(), self.whole)
    }

    /// Decodes the picture, resizes its short side to 256 and cuts out the middle 224x224.
    ///
    /// The module's documentation says what becomes of alpha, orientation, animations and deep colours.
    ///
    /// # Errors
    /// [`ImageError`]: no bytes make it panic.
    pub fn decode(self) -> Result<Pixels, ImageError> {
        let mut rows = Resizer::for_vgg16(self.picture.shape(), self.whole, self.eighths);
        let decoded = self.picture.decode(&mut rows);
        decoded.map_err(|error| explained(error, self.bytes))?;
        Pixels::from_bytes(rows.finish().into())
    }
}

/// Opens and decodes: see [`open`] and [`Opened::decode`].
///
/// # Errors
/// As those.
pub fn decode(bytes: &[u8], settings: ImageSettings) -> Result<Pixels, ImageError> {
    open(bytes, settings)?.decode()
}
