//! What holds for any picture: no panic, bounded memory, and a refusal in one line.

use crate::allocator::measure;
use headswap_image::{ImageLimits, ImageSettings, JpegScaling, Opened, open};

/// Enough for a JPEG to be decoded at a part of its size.
const PIXELS_MAX: u64 = 1 << 20;
/// Of Rust's allocator, beside what the header tells: the pixels that are made, and messages.
const BYTES_MORE: u64 = 512 << 10;
/// And while texts of a PNG are read, which may inflate to 1 MiB each and are dropped.
const TEXT_BYTES: u64 = 8 << 20;

/// Decodes the bytes at each scale; whether they were a picture.
pub fn check_picture(bytes: &[u8]) -> bool {
    let limits = ImageLimits { pixels_max: PIXELS_MAX };
    let decoded = [JpegScaling::Off, JpegScaling::Fine, JpegScaling::Coarse].map(|jpeg_scaling| {
        let opened = open(bytes, ImageSettings { limits, jpeg_scaling });
        let told = opened.as_ref().map_or(0, Opened::memory) + BYTES_MORE + TEXT_BYTES;
        let (peak, decoded) = measure(|| opened.and_then(Opened::decode));
        assert!(
            peak as u64 <= told,
            "{} bytes, {jpeg_scaling:?}: took {peak}, {told} at most",
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
