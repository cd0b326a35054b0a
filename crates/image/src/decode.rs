//! Decodes a file's bytes to [`Pixels`], or to [`Prepared`] pictures.

use bytes::Bytes;
use headswap_spec::{Preprocessing, Preset};

use super::error::{ImageError, malformed};
use super::fanout::Fanout;
use super::format::Format;
use super::jpeg::Jpeg;
use super::picture::{Picture, Shape};
use super::pixels::Pixels;
use super::plan::Decoded;
use super::preparation::takes_scaled;
use super::prepared::Prepared;
use super::scaling::{JpegScaling, WHOLE};
use super::webp::WebP;
use super::{bmp, foreign, gif, png};

/// The limits of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Limit of width times height, checked in the header before memory is allocated for the picture.
    pub pixels_max: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            pixels_max: 64 * 1024 * 1024,
        }
    }
}

/// The settings of decoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageSettings {
    /// Pictures beyond these limits are refused.
    pub limits: ImageLimits,
    /// The size at which large JPEGs are decoded.
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

/// A picture whose header has been read and is within the limits.
pub struct Opened<'a> {
    bytes: &'a [u8],
    picture: Box<dyn Picture + 'a>,
    /// The size in the header.
    whole: [u32; 2],
    /// The scale of decoding, in eighths of the size.
    eighths: u32,
    scaling: JpegScaling,
}

/// Reads the header of a JPEG, PNG, WebP, GIF or BMP file. That takes microseconds and next to no memory.
///
/// # Errors
/// [`ImageError`] if the header suffices to refuse the picture.
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
        scaling: settings.jpeg_scaling,
    })
}

/// Returns a more helpful error for a damaged file, if the damage is of a known kind.
fn explained(error: ImageError, bytes: &[u8]) -> ImageError {
    match (&error, foreign::text_damage(bytes)) {
        (ImageError::Malformed { .. }, Some(foreign)) => ImageError::Foreign(foreign.to_string()),
        _ => error,
    }
}

impl Opened<'_> {
    /// Returns an upper bound of the memory that [`Opened::decode`] allocates at any time, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory_to_prepare(&[&Preset::Torchvision.preprocessing()])
    }

    /// Decodes the picture, resizes its short side to 256 and crops the middle 224x224. `docs/pictures.md` states how
    /// alpha, orientation, animations and deep colours are treated. No bytes make it panic.
    ///
    /// # Errors
    /// [`ImageError`] if the picture is damaged or not supported.
    pub fn decode(self) -> Result<Pixels, ImageError> {
        match self.prepare(&[&Preset::Torchvision.preprocessing()])?.pop() {
            Some(Prepared::Bytes { values, .. }) => Pixels::from_bytes(values),
            Some(Prepared::Floats { .. }) | None => Pixels::from_bytes(Bytes::new()),
        }
    }

    /// Returns the picture as the decoder writes it.
    fn decoded(&self) -> Decoded {
        Decoded {
            shape: self.picture.shape(),
            whole: self.whole,
            eighths: self.eighths,
        }
    }

    /// Returns true if the picture is decoded to a part of its size for this preprocessing alone.
    pub fn is_scaled_for(&self, preprocessing: &Preprocessing) -> bool {
        self.eighths < WHOLE && takes_scaled(preprocessing, self.decoded(), self.scaling)
    }

    /// Returns the picture as the decoder writes it for `wanted`: whole, if one of them cannot be prepared from a part of
    /// its size.
    fn decoded_for(&self, wanted: &[&Preprocessing]) -> Decoded {
        let decoded = self.decoded();
        let is_enough = |preprocessing: &&Preprocessing| takes_scaled(preprocessing, decoded, self.scaling);
        if self.eighths == WHOLE || wanted.iter().all(is_enough) {
            return decoded;
        }
        let [width, height] = self.whole;
        Decoded::whole(Shape {
            width,
            height,
            ..decoded.shape
        })
    }

    /// Returns an upper bound of the memory that [`Opened::prepare`] allocates at any time, its result included, in bytes.
    pub fn memory_to_prepare(&self, wanted: &[&Preprocessing]) -> u64 {
        let preparations = Fanout::memory(self.decoded_for(wanted), wanted);
        self.picture.memory().saturating_add(preparations)
    }

    /// Decodes the picture once and prepares it for each of `wanted`, up to normalisation; the results are in the same
    /// order. With a [`JpegScaling`], a large JPEG is decoded to a part of its size unless one of `wanted` has a filter
    /// without antialiasing or would shrink it too little. No bytes make it panic.
    ///
    /// # Errors
    /// As of [`Opened::decode`].
    pub fn prepare(mut self, wanted: &[&Preprocessing]) -> Result<Vec<Prepared>, ImageError> {
        let decoded = self.decoded_for(wanted);
        if decoded.eighths == WHOLE {
            self.picture.decode_whole();
        }
        let mut preparations = Fanout::new(decoded, wanted);
        let decoded = self.picture.decode(preparations.sink());
        decoded.map_err(|error| explained(error, self.bytes))?;
        Ok(preparations.finish())
    }
}

/// Opens and decodes a picture: see [`open`] and [`Opened::decode`].
///
/// # Errors
/// As these.
pub fn decode(bytes: &[u8], settings: ImageSettings) -> Result<Pixels, ImageError> {
    open(bytes, settings)?.decode()
}
