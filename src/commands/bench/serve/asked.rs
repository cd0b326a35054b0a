//! What the clients of a load ask.

use std::path::PathBuf;

use headswap_image::{self as image, ImageSettings};
use headswap_loadtest::PHOTOGRAPHS;
use headswap_proto::ClassifyRequest;
use headswap_proto::classify_request::Input;

use crate::commands::error::CliError;
use crate::commands::pictures::Pictures;

/// All pictures of a load are in memory.
const PICTURE_BYTES_MAX: usize = 1 << 30;

/// Pictures that are sent in turn, and the heads that are asked; none is the default one.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub pictures: Vec<Input>,
    heads: Vec<String>,
}

impl Asked {
    /// Reads the files, or takes the photographs that are JPEG files if there are none; as pixels if asked for.
    pub fn read(images: &[PathBuf], pixels: bool, heads: Vec<String>) -> Result<Self, CliError> {
        let mut files = Vec::new();
        if images.is_empty() {
            for (name, jpeg) in PHOTOGRAPHS {
                if name.ends_with(".jpg") {
                    files.push((name.to_owned(), bytes::Bytes::from_static(jpeg)));
                }
            }
        }
        let found = Pictures::find(images)?;
        found.failures.report();
        if found.failures.count() > 0 {
            return Err(CliError::Failed("some directories cannot be read".into()));
        }
        let mut total = 0;
        for picture in found.found {
            let file = picture.read()?;
            total += file.len();
            if total > PICTURE_BYTES_MAX {
                return Err(CliError::Usage(format!(
                    "the pictures of --images have more than {PICTURE_BYTES_MAX} bytes; give fewer"
                )));
            }
            files.push((picture.name(), file));
        }
        let mut pictures = Vec::new();
        for (name, file) in files {
            pictures.push(if pixels {
                decoded(&name, &file)?
            } else {
                Input::Image(file)
            });
        }
        Ok(Self { pictures, heads })
    }

    /// Request number `index`.
    pub fn request(&self, index: u64) -> ClassifyRequest {
        ClassifyRequest {
            input: Some(self.pictures[index as usize % self.pictures.len()].clone()),
            heads: self.heads.clone(),
            ..ClassifyRequest::default()
        }
    }
}

fn decoded(name: &str, file: &[u8]) -> Result<Input, CliError> {
    let pixels = image::decode(file, ImageSettings::default());
    let pixels = pixels.map_err(|error| CliError::Failed(format!("{name}: {error}")))?;
    Ok(Input::Pixels(pixels.as_bytes().to_vec().into()))
}
