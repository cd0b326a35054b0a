//! What holds for any bytes decoded as a picture: no panic, bounded memory, and error messages of one line.

use crate::allocator::measure;
use headswap_image::{ImageLimits, ImageSettings, JpegScaling, Opened, open};

/// Enough for a JPEG to be decoded at a part of its size.
const PIXELS_MAX: u64 = 1 << 20;
/// Memory beyond [`Opened::memory`], in bytes: the resulting pixels, and messages.
const BYTES_MORE: u64 = 512 << 10;
/// Memory for the texts of a PNG, in bytes. They may inflate to 1 MiB each, and are dropped.
const TEXT_BYTES: u64 = 8 << 20;

/// Decodes the bytes at each scale. Returns true if they are a picture.
pub fn check_picture(bytes: &[u8]) -> bool {
    let limits = ImageLimits { pixels_max: PIXELS_MAX };
    let decoded = [JpegScaling::Off, JpegScaling::Fine, JpegScaling::Coarse].map(|jpeg_scaling| {
        let opened = open(bytes, ImageSettings { limits, jpeg_scaling });
        let limit = opened.as_ref().map_or(0, Opened::memory) + BYTES_MORE + TEXT_BYTES;
        let (peak, decoded) = measure(|| opened.and_then(Opened::decode));
        assert!(
            peak as u64 <= limit,
            "{} bytes, {jpeg_scaling:?}: took {peak}, the limit is {limit}",
            bytes.len()
        );
        if let Err(error) = &decoded {
            let message = error.to_string();
            assert!(
                message.len() < 500 && !message.contains(char::is_control),
                "{message:?}"
            );
        }
        decoded.is_ok()
    });
    // A picture that is decoded at its own size is decoded at every scale. The reverse need not hold for damaged ones.
    assert!(!decoded[0] || decoded == [true; 3], "{decoded:?}");
    decoded[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_read() {
        for entry in std::fs::read_dir("../tests/fixtures/images").unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("README.md") {
                continue;
            }
            assert!(check_picture(&std::fs::read(&path).unwrap()), "{}", path.display());
        }
    }
}
