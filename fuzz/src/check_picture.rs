//! What holds for any bytes decoded as a picture: no panic, bounded memory, and error messages of one line.

use crate::allocator::measure;
use headswap_image::{ImageError, ImageLimits, ImageSettings, JpegScaling, Opened, open};
use headswap_spec::{ChannelOrder, Preprocessing, Preset, Resize, ResizeFilter};

/// Enough for a JPEG to be decoded at a part of its size.
const PIXELS_MAX: u64 = 1 << 20;
/// Memory beyond [`Opened::memory`] and [`Opened::memory_to_prepare`], in bytes: the resulting pixels, and messages.
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
    let settings = ImageSettings {
        limits,
        jpeg_scaling: JpegScaling::Coarse,
    };
    let wanted = preprocessings();
    for some in [&wanted[..1], &wanted[1..2], &wanted[2..3], &wanted] {
        let is_prepared = check_preparation(open(bytes, settings), some);
        assert_eq!(is_prepared, decoded[0], "{some:?}");
    }
    decoded[0]
}

/// Prepares the picture within its memory, to which only a PNG's texts are added. Returns true if that succeeds.
fn check_preparation(opened: Result<Opened<'_>, ImageError>, wanted: &[Preprocessing]) -> bool {
    let Ok(opened) = opened else {
        return false;
    };
    let wanted: Vec<_> = wanted.iter().collect();
    let limit = opened.memory_to_prepare(&wanted) + TEXT_BYTES;
    let (peak, prepared) = measure(|| opened.prepare(&wanted));
    assert!(peak as u64 <= limit, "took {peak}, the limit is {limit}: {wanted:?}");
    prepared.is_ok()
}

/// Returns preprocessings of each kind of resizer: one that is padded, one that is converted to grey, and one of bytes.
fn preprocessings() -> [Preprocessing; 3] {
    let torchvision = Preset::Torchvision.preprocessing();
    let padded = Preprocessing {
        resize: Some(Resize::ShortSide(200)),
        filter: ResizeFilter::BilinearNoAntialias,
        ..torchvision
    };
    let grey = Preprocessing {
        resize: Some(Resize::Stretch([300, 40])),
        filter: ResizeFilter::Lanczos,
        channels: ChannelOrder::Grey,
        ..torchvision
    };
    let rounded = Preprocessing {
        resize: None,
        filter: ResizeFilter::BilinearNoAntialiasRounded,
        ..torchvision
    };
    [padded, grey, rounded]
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
