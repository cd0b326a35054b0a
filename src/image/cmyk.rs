//! Four inks to three colours, in Pillow's arithmetic.
//!
//! Files store the inks inverted, as Adobe's programs do; Pillow takes that for granted, and so does this. Each function
//! packs the colours of four-byte pixels to the front of the same memory.

/// Cyan, magenta, yellow and black, all inverted.
pub(super) fn cmyk_to_rgb(pixels: &mut Vec<u8>) {
    mix(pixels, |[c, m, y, _]| [255 - c, 255 - m, 255 - y]);
}

/// The inks but black are stored as luma and two chromas.
pub(super) fn ycck_to_rgb(pixels: &mut Vec<u8>) {
    // libjpeg turns them to 255 minus red, green and blue, and Pillow inverts that once more.
    mix(pixels, |[y, cb, cr, _]| ycc_to_rgb(y, cb, cr));
}

/// Writes red, green and blue of each pixel: what its black leaves of its inks, which `inks` reads.
fn mix(pixels: &mut Vec<u8>, inks: impl Fn([u8; 4]) -> [u8; 3]) {
    let count = pixels.len() / 4;
    for index in 0..count {
        let (from, to) = (index * 4, index * 3);
        let pixel = [pixels[from], pixels[from + 1], pixels[from + 2], pixels[from + 3]];
        let light = pixel[3];
        for (channel, ink) in inks(pixel).into_iter().enumerate() {
            pixels[to + channel] = light - scaled(ink, light);
        }
    }
    pixels.truncate(count * 3);
}

/// `a * b / 255`, rounded: Pillow's `MULDIV255`. Never more than either.
fn scaled(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// libjpeg's fixed-point conversion, 16 bits after the point.
fn ycc_to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16); // 1.402
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16); // 0.344136, 0.714136
    let blue = y + ((116_130 * cb + HALF) >> 16); // 1.772
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paper_is_white_and_black_ink_is_black() {
        let mut pixels = vec![255, 255, 255, 255, 255, 255, 255, 0, 0, 255, 255, 255];
        cmyk_to_rgb(&mut pixels);
        assert_eq!(pixels, [255, 255, 255, 0, 0, 0, 0, 255, 255]);
    }

    #[test]
    fn scaling_rounds_to_nearest() {
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                assert_eq!(
                    f64::from(scaled(a, b)),
                    (f64::from(a) * f64::from(b) / 255.0).round(),
                    "{a} {b}"
                );
            }
        }
    }
}
