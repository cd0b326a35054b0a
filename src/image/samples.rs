//! A decoded picture before it is resized.

use super::scaling::WHOLE;

/// What the bytes of one pixel are. Kept as decoded: resizing treats each channel alone, so that 224x224 pixels rather
/// than all of them are turned to RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
}

/// Rows from the top, pixels from the left, channels interleaved, one byte each.
pub(super) struct Samples {
    /// The picture's own width, in pixels.
    pub width: u32,
    /// The picture's own height, in pixels.
    pub height: u32,
    /// At how many eighths of its size it was decoded, rounded up to whole pixels; 8 is the whole.
    pub eighths: u32,
    pub channels: Channels,
    pub bytes: Vec<u8>,
}

impl Samples {
    /// Pixels in a row of `bytes`.
    pub(super) fn columns(&self) -> u32 {
        self.scaled(self.width)
    }

    /// Rows in `bytes`.
    pub(super) fn rows(&self) -> u32 {
        self.scaled(self.height)
    }

    fn scaled(&self, length: u32) -> u32 {
        (u64::from(length) * u64::from(self.eighths)).div_ceil(u64::from(WHOLE)) as u32
    }
}

impl Channels {
    /// Bytes of a pixel.
    pub(super) fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }

    /// Red, green and blue of `pixels`; alpha is dropped.
    pub(super) fn into_rgb(self, pixels: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Grey => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            Self::GreyAlpha => pixels.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
            Self::Rgb => pixels,
            Self::Rgba => {
                let (pixels, _) = pixels.as_chunks::<4>();
                let rgb: Vec<[u8; 3]> = pixels.iter().map(|&[red, green, blue, _]| [red, green, blue]).collect();
                rgb.into_flattened()
            }
        }
    }
}

#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// Memory for a decoder to write a picture of `length` bytes to.
///
/// The system gives a large picture's memory page by page, as it is first written: a third of the time that decoding 12
/// megapixels takes. With pages of 2 MiB there are few.
pub(super) fn zeroed(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    advise_huge_pages(&mut bytes);
    bytes
}

#[cfg(target_os = "linux")]
fn advise_huge_pages(bytes: &mut [u8]) {
    let pages = huge_pages(bytes);
    // SAFETY: the range is whole pages of `bytes`. The advice changes no contents, and its failure only leaves small pages.
    unsafe { libc::madvise(pages.as_mut_ptr().cast(), size_of_val(pages), libc::MADV_HUGEPAGE) };
}

/// The whole pages of 2 MiB within `bytes`.
#[cfg(target_os = "linux")]
fn huge_pages(bytes: &mut [u8]) -> &mut [[u8; HUGE_PAGE]] {
    let first = bytes.as_ptr().align_offset(HUGE_PAGE).min(bytes.len());
    bytes[first..].as_chunks_mut().0
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_: &mut [u8]) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_all_that_lie_within() {
        for length in [0, 1, HUGE_PAGE - 1, 2 * HUGE_PAGE - 1, 9 * HUGE_PAGE + 5] {
            let mut bytes = zeroed(length);
            let all = bytes.as_ptr_range();
            let (first, end) = (all.start.addr().next_multiple_of(HUGE_PAGE), all.end.addr());
            let expected = end.saturating_sub(first) / HUGE_PAGE;
            let pages = huge_pages(&mut bytes);
            assert_eq!(pages.len(), expected, "{length}");
            assert!(pages.is_empty() || pages.as_ptr().addr() == first, "{length}");
        }
    }
}
