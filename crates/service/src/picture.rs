//! The picture of a request.

use bytes::Bytes;
use headswap_engine::Input;
use headswap_image::ImageError;
use headswap_spec::Preprocessing;

use super::error::ServiceError;

/// A picture as a caller sends it.
#[derive(Clone, Debug)]
pub enum Picture {
    /// JPEG, PNG, WebP, GIF or BMP.
    Encoded(Bytes),
    /// Resized and cropped: height x width x 3 u8.
    Pixels(Bytes),
}

impl Picture {
    /// Returns a query's picture.
    pub(super) fn present(picture: Option<Self>) -> Result<Self, ServiceError> {
        picture.ok_or_else(|| ServiceError::invalid("input", "set `image` or `pixels`".into()))
    }

    /// Returns the engine's input. Raw pixels must be those of one of the preprocessings at least.
    pub(super) fn input(&self, preprocessings: &[Preprocessing]) -> Result<Input, ServiceError> {
        let bytes = match self {
            Self::Encoded(bytes) => return Ok(Input::Image(bytes.clone())),
            Self::Pixels(bytes) => bytes,
        };
        if preprocessings.iter().any(|preprocessing| self.fits(preprocessing)) {
            return Ok(Input::Pixels(bytes.clone()));
        }
        let [height, width] = preprocessings.first().map_or([0; 2], size);
        let got = bytes.len();
        Err(ServiceError::Image(ImageError::PixelsLength { got, height, width }))
    }

    /// Returns true unless it is raw pixels of another size.
    pub(super) fn fits(&self, preprocessing: &Preprocessing) -> bool {
        match self {
            Self::Encoded(_) => true,
            Self::Pixels(bytes) => bytes.len() == size(preprocessing).iter().product::<usize>() * 3,
        }
    }
}

/// Returns height and width of prepared pictures.
fn size(preprocessing: &Preprocessing) -> [usize; 2] {
    preprocessing.size().unwrap_or_default().map(|side| side as usize)
}
