//! What holds for any picture: no panic, bounded memory, and a refusal in one line.

use crate::allocator::measure;
use crate::image::{ImageLimits, ImageSettings, JpegScaling, decode};

/// Enough for a JPEG to be decoded at a part of its size.
const PIXELS_MAX: u64 = 1 << 20;
/// Of Rust's allocator: what the decoders take for each pixel, 16 bytes, twice over, and tables.
const BYTES_MAX: usize = (2 * 16 * PIXELS_MAX as usize) + (16 << 20);

/// Decodes the bytes at each scale; whether they were a picture.
pub fn check_picture(bytes: &[u8]) -> bool {
    let limits = ImageLimits { pixels_max: PIXELS_MAX };
    let decoded = [JpegScaling::Off, JpegScaling::Fine, JpegScaling::Coarse].map(|jpeg_scaling| {
        let (peak, decoded) = measure(|| decode(bytes, ImageSettings { limits, jpeg_scaling }));
        assert!(
            peak <= BYTES_MAX,
            "{} bytes, {jpeg_scaling:?}: took {peak}",
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
    // Nothing is lost by a scale; of damage, two decoders may judge differently.
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
