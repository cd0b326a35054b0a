//! Converts CMYK to RGB in Pillow's arithmetic.

/// Converts pixels of cyan, magenta, yellow and black to red, green, blue and an unused byte.
///
/// The inks must be inverted, as Adobe's programs store them; Pillow assumes the same.
pub(super) fn to_rgb(pixels: &mut [u8]) {
    for [c, m, y, light] in pixels.as_chunks_mut().0 {
        for ink in [c, m, y] {
            *ink = *light - scaled(255 - *ink, *light);
        }
    }
}

/// Returns `a * b / 255`, rounded: Pillow's `MULDIV255`. It is never larger than `a` or `b`.
fn scaled(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paper_is_white_and_black_ink_is_black() {
        let mut pixels = [255, 255, 255, 255, 255, 255, 255, 0, 0, 255, 255, 255];
        to_rgb(&mut pixels);
        assert_eq!(
            [&pixels[..3], &pixels[4..7], &pixels[8..11]],
            [[255; 3], [0; 3], [0, 255, 255]]
        );
    }

    #[test]
    fn scaling_rounds_to_nearest() {
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                let exact = f64::from(a) * f64::from(b) / 255.0;
                assert_eq!(f64::from(scaled(a, b)), exact.round(), "{a} {b}");
            }
        }
    }
}
