//! The length of a side after resizing, and the part of it that a crop keeps.

use std::ops::Range;

/// How one side of a picture is resized and cropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The length after resizing.
    pub resized: u64,
    /// The part of the resized side that is kept.
    pub kept: Range<u64>,
}

impl Side {
    /// Returns a side that is kept whole.
    pub(super) fn whole(resized: u64) -> Self {
        Self {
            resized,
            kept: 0..resized,
        }
    }

    /// Returns a side of which torchvision's `CenterCrop` keeps `crop` pixels, or all if there are fewer.
    pub(super) fn middle(resized: u64, crop: u64) -> Self {
        let Some(margins) = resized.checked_sub(crop) else {
            return Self::whole(resized);
        };
        let offset = half_to_even(margins);
        Self {
            resized,
            kept: offset..offset + crop,
        }
    }

    /// Returns how many pixels are kept.
    pub(super) fn len(&self) -> u64 {
        self.kept.end - self.kept.start
    }
}

/// Returns width and height after torchvision's `Resize` of one number: `short` and, rounded down, what keeps the
/// proportions of `size`, which has pixels.
pub(super) fn short_side(short: u32, size: [u32; 2]) -> [u64; 2] {
    let shorter = u64::from(size[0].min(size[1]));
    size.map(|length| u64::from(short) * u64::from(length) / shorter)
}

/// Returns Python's `int(round(n / 2.0))`: halves are rounded to even.
fn half_to_even(n: u64) -> u64 {
    let half = n / 2;
    half + (n & half & 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_margins_are_rounded_to_even() {
        for (n, expected) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4), (9, 4), (32, 16)] {
            assert_eq!(half_to_even(n), expected, "{n}");
        }
    }

    #[test]
    fn a_side_shorter_than_the_crop_is_kept_whole() {
        assert_eq!(Side::middle(100, 224).kept, 0..100);
        assert_eq!(Side::middle(225, 224).kept, 0..224);
        assert_eq!(Side::middle(227, 224).kept, 2..226);
    }

    #[test]
    fn the_long_side_is_rounded_down() {
        assert_eq!(short_side(256, [640, 427]), [383, 256]);
        assert_eq!(short_side(100, [301, 499]), [100, 165]);
        assert_eq!(short_side(256, [60_000, 1]), [15_360_000, 256]);
    }
}
