//! The resampling kernels: sums of weighted pixels in 32-bit fixed point, bit for bit those of Pillow's
//! `libImaging/Resample.c`.
//!
//! Vector units multiply 16-bit numbers, and a weight has 22 bits. It is split in two, `high * 2^11 + low`; both sums are
//! exact, and so is their combination.

use super::axis::{Axis, LOW_BITS, Taps, WEIGHT_BITS};
use super::picture::Channels;

/// Bytes after a row's pixels that a kernel may read; they get the weight 0.
pub(super) const PADDING: usize = 64;

const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Rows that are resized together, so that they share the loads of the weights.
pub(super) const ROWS: usize = 4;

/// Resizes rows horizontally: writes a pixel for each output of `axis` to each of `targets`, from the pixels of the row of
/// the same index. Rows are [`PADDING`] bytes longer than their pixels.
pub(super) fn resize_rows(channels: Channels, axis: &Axis, rows: [&[u8]; ROWS], targets: [&mut [u8]; ROWS]) {
    let needed = axis.reach().end as usize * channels.count() + PADDING;
    assert!(rows.iter().all(|row| row.len() >= needed), "rows are padded");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, and the rows are long enough.
        return unsafe { avx2::resize_rows(channels, axis, rows, targets) };
    }
    for (row, target) in rows.into_iter().zip(targets) {
        scalar_row(channels, axis, row, target);
    }
}

/// Resizes columns: writes the output row `index` of `axis` to `target`. `rows` are all input rows of that output, each as
/// long as `target`.
pub(super) fn sum_rows(axis: &Axis, index: usize, rows: &[u8], target: &mut [u8]) {
    let (taps, high, low) = axis.at(index);
    assert_eq!(rows.len(), taps.count as usize * target.len(), "as many rows as taps");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::sum_rows(high, low, rows, target) };
    }
    scalar_rows(high, low, rows, target, 0);
}

/// Writes the red, green and blue of pixels of four bytes.
pub(super) fn to_rgb(row: &[u8], target: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::to_rgb(row, target) };
    }
    scalar_rgb(row, target);
}

fn scalar_rgb(row: &[u8], target: &mut [u8]) {
    for (pixel, [red, green, blue, _]) in target.as_chunks_mut().0.iter_mut().zip(row.as_chunks().0) {
        *pixel = [*red, *green, *blue];
    }
}

fn scalar_row(channels: Channels, axis: &Axis, row: &[u8], target: &mut [u8]) {
    let count = channels.count();
    for (index, pixel) in target.chunks_exact_mut(count).enumerate().take(axis.len()) {
        let (Taps { first, count: taps }, high, low) = axis.at(index);
        let inputs = row[first as usize * count..].chunks_exact(count).take(taps as usize);
        let mut sums = [HALF; 4];
        for ((input, &high), &low) in inputs.zip(high).zip(low) {
            for (sum, &value) in sums.iter_mut().zip(input) {
                *sum += i32::from(value) * weight(high, low);
            }
        }
        for (value, sum) in pixel.iter_mut().zip(sums) {
            *value = clip(sum);
        }
    }
}

/// As [`sum_rows`], from byte `from` of each row on.
fn scalar_rows(high: &[i16], low: &[i16], rows: &[u8], target: &mut [u8], from: usize) {
    let length = target.len();
    for (at, value) in target.iter_mut().enumerate().skip(from) {
        let mut sum = HALF;
        for ((row, &high), &low) in rows.chunks_exact(length).zip(high).zip(low) {
            sum += i32::from(row[at]) * weight(high, low);
        }
        *value = clip(sum);
    }
}

fn weight(high: i16, low: i16) -> i32 {
    (i32::from(high) << LOW_BITS) + i32::from(low)
}

fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Axis, Channels, HALF, LOW_BITS, ROWS, WEIGHT_BITS, scalar_rows};

    /// # Safety
    /// Each row must have [`PADDING`](super::PADDING) bytes after the last pixel that the axis reaches.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn resize_rows(channels: Channels, axis: &Axis, rows: [&[u8]; ROWS], targets: [&mut [u8]; ROWS]) {
        match channels {
            Channels::Grey => {
                for (row, target) in rows.into_iter().zip(targets) {
                    for (index, value) in target.iter_mut().enumerate().take(axis.len()) {
                        // SAFETY: the caller guarantees the same.
                        *value = unsafe { grey(axis, index, row) };
                    }
                }
            }
            Channels::Rgbx => {
                let [first, second, third, fourth] = targets.map(|target| target.as_chunks_mut::<4>().0);
                let targets = first.iter_mut().zip(second).zip(third).zip(fourth);
                for (index, (((first, second), third), fourth)) in targets.enumerate().take(axis.len()) {
                    // SAFETY: the caller guarantees the same.
                    [*first, *second, *third, *fourth] = unsafe { rgbx(axis, index, rows) };
                }
            }
        }
    }

    /// Sums sixteen pixels at a time.
    ///
    /// # Safety
    /// As of [`resize_rows`].
    #[target_feature(enable = "avx2")]
    unsafe fn grey(axis: &Axis, index: usize, row: &[u8]) -> u8 {
        let (taps, high, low) = axis.at(index);
        let mut sums = [_mm256_setzero_si256(); 2];
        for at in (0..taps.count as usize).step_by(16) {
            // SAFETY: fewer than 16 pixels after the last tap are read, all within the padding; the weights are padded to a
            // multiple of 16.
            let (pixels, high, low) = unsafe {
                let pixels = _mm_loadu_si128(row.as_ptr().add(taps.first as usize + at).cast());
                let high = _mm256_loadu_si256(high.as_ptr().add(at).cast());
                (
                    _mm256_cvtepu8_epi16(pixels),
                    high,
                    _mm256_loadu_si256(low.as_ptr().add(at).cast()),
                )
            };
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(pixels, high));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(pixels, low));
        }
        let sums = combine(sums[0], sums[1]);
        let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
        super::clip(_mm_cvtsi128_si32(one).wrapping_add(HALF))
    }

    /// Sums four pixels of each row at a time, one row in each half of a register.
    ///
    /// # Safety
    /// As of [`resize_rows`].
    #[target_feature(enable = "avx2")]
    unsafe fn rgbx(axis: &Axis, index: usize, rows: [&[u8]; ROWS]) -> [[u8; 4]; ROWS] {
        let (taps, high, low) = axis.at(index);
        // Shuffles of four pixels: the bytes of the first two, channel by channel, each zero-extended; and of the last two.
        let front = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1));
        let back = _mm256_add_epi8(front, _mm256_set1_epi16(8));
        // The sums of the first two rows and of the last two.
        let mut highs = [_mm256_setzero_si256(); 2];
        let mut lows = highs;
        for at in (0..taps.count as usize).step_by(4) {
            // SAFETY: fewer than 4 pixels after the last tap are read, all within the padding; the weights are padded to a
            // multiple of 16.
            unsafe {
                let pixels = (taps.first as usize + at) * 4;
                let [first, second, third, fourth] = rows.map(|row| row.as_ptr().add(pixels).cast());
                let rows = [_mm256_loadu2_m128i(second, first), _mm256_loadu2_m128i(fourth, third)];
                let mut half = 0;
                while half < 2 {
                    let order = if half == 0 { front } else { back };
                    let high = _mm256_set1_epi32(high.as_ptr().add(at + 2 * half).cast::<i32>().read_unaligned());
                    let low = _mm256_set1_epi32(low.as_ptr().add(at + 2 * half).cast::<i32>().read_unaligned());
                    let pixels = _mm256_shuffle_epi8(rows[0], order);
                    highs[0] = _mm256_add_epi32(highs[0], _mm256_madd_epi16(pixels, high));
                    lows[0] = _mm256_add_epi32(lows[0], _mm256_madd_epi16(pixels, low));
                    let pixels = _mm256_shuffle_epi8(rows[1], order);
                    highs[1] = _mm256_add_epi32(highs[1], _mm256_madd_epi16(pixels, high));
                    lows[1] = _mm256_add_epi32(lows[1], _mm256_madd_epi16(pixels, low));
                    half += 1;
                }
            }
        }
        let half = _mm256_set1_epi32(HALF);
        let words = _mm256_packs_epi32(
            _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(_mm256_add_epi32(combine(highs[0], lows[0]), half)),
            _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(_mm256_add_epi32(combine(highs[1], lows[1]), half)),
        );
        // The first and the third row in one half, the second and the fourth in the other.
        let bytes = _mm256_packus_epi16(words, words);
        let [odd, even] = [_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes)];
        [
            _mm_cvtsi128_si32(odd),
            _mm_cvtsi128_si32(even),
            _mm_extract_epi32::<1>(odd),
            _mm_extract_epi32::<1>(even),
        ]
        .map(i32::to_le_bytes)
    }

    /// Drops every fourth byte, sixteen at a time.
    #[target_feature(enable = "avx2")]
    pub(super) fn to_rgb(row: &[u8], target: &mut [u8]) {
        let order = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
        let mut done = 0;
        // Four pixels are read, and their twelve bytes and four more are written.
        while (done + 4) * 4 <= row.len() && done * 3 + 16 <= target.len() {
            // SAFETY: both slices have 16 bytes from there on.
            unsafe {
                let pixels = _mm_loadu_si128(row.as_ptr().add(done * 4).cast());
                _mm_storeu_si128(
                    target.as_mut_ptr().add(done * 3).cast(),
                    _mm_shuffle_epi8(pixels, order),
                );
            }
            done += 4;
        }
        super::scalar_rgb(&row[done * 4..], &mut target[done * 3..]);
    }

    /// Computes the weighted sum of rows, sixteen bytes and two rows at a time.
    #[target_feature(enable = "avx2")]
    pub(super) fn sum_rows(high: &[i16], low: &[i16], rows: &[u8], target: &mut [u8]) {
        let length = target.len();
        let count = rows.len() / length;
        let whole = length - length % 16;
        for at in (0..whole).step_by(16) {
            // The low four words of each half, and the high four.
            let mut highs = [_mm256_setzero_si256(); 2];
            let mut lows = highs;
            for row in (0..count).step_by(2) {
                let above = &rows[row * length + at..][..16];
                // The weight of a row beyond the last is 0.
                let below = &rows[(row + 1).min(count - 1) * length + at..][..16];
                let (above, below) = (words(above), words(below));
                let high = pair(high, row);
                let low = pair(low, row);
                for (index, pixels) in [_mm256_unpacklo_epi16(above, below), _mm256_unpackhi_epi16(above, below)]
                    .into_iter()
                    .enumerate()
                {
                    highs[index] = _mm256_add_epi32(highs[index], _mm256_madd_epi16(pixels, high));
                    lows[index] = _mm256_add_epi32(lows[index], _mm256_madd_epi16(pixels, low));
                }
            }
            let half = _mm256_set1_epi32(HALF);
            let first = _mm256_add_epi32(combine(highs[0], lows[0]), half);
            let second = _mm256_add_epi32(combine(highs[1], lows[1]), half);
            let first = _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(first);
            let second = _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(second);
            let words = _mm256_packs_epi32(first, second);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let target = &mut target[at..at + 16];
            // SAFETY: the slice has 16 bytes.
            unsafe { _mm_storeu_si128(target.as_mut_ptr().cast(), bytes) };
        }
        scalar_rows(high, low, rows, target, whole);
    }

    /// Zero-extends sixteen bytes to words.
    #[target_feature(enable = "avx2")]
    fn words(bytes: &[u8]) -> __m256i {
        assert!(bytes.len() >= 16);
        // SAFETY: there are 16 bytes.
        _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    }

    /// Broadcasts two neighbouring weights.
    #[target_feature(enable = "avx2")]
    fn pair(weights: &[i16], index: usize) -> __m256i {
        let weights = &weights[index..index + 2];
        // SAFETY: there are two.
        _mm256_set1_epi32(unsafe { weights.as_ptr().cast::<i32>().read_unaligned() })
    }

    #[target_feature(enable = "avx2")]
    fn combine(high: __m256i, low: __m256i) -> __m256i {
        _mm256_add_epi32(_mm256_slli_epi32::<{ LOW_BITS as i32 }>(high), low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axis::Span;
    use crate::filter::Filter;

    /// Bytes without a pattern, many of them extreme.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_u32;
        let mut bytes = Vec::with_capacity(length);
        for _ in 0..length {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let byte = (state >> 24) as u8;
            bytes.push(if state & 0x300 == 0 { 255 * (byte >> 7) } else { byte });
        }
        bytes
    }

    #[test]
    fn the_vector_kernels_equal_the_scalar_ones() {
        for filter in [Filter::Nearest, Filter::Bilinear, Filter::Lanczos] {
            for (length, resized) in [(1, 5), (7, 3), (97, 224), (500, 31), (300, 256)] {
                let axis = Axis::new(filter, Span::new(length, resized), 0..resized);
                for channels in [Channels::Grey, Channels::Rgbx] {
                    let count = channels.count();
                    let rows = [0, 1, 2, 3].map(|more| noise(length as usize * count + PADDING + more));
                    let mut ours = [const { Vec::new() }; ROWS];
                    ours.fill_with(|| vec![0; axis.len() * count]);
                    let targets = ours.each_mut().map(Vec::as_mut_slice);
                    resize_rows(channels, &axis, rows.each_ref().map(Vec::as_slice), targets);
                    for (row, ours) in rows.iter().zip(ours) {
                        let mut plain = vec![0; ours.len()];
                        scalar_row(channels, &axis, row, &mut plain);
                        assert_eq!(ours, plain, "{filter:?} {length} {resized} {channels:?}");
                    }
                }
                let row = noise(length as usize * 4);
                let mut rgb = [vec![0; length as usize * 3], vec![0; length as usize * 3]];
                to_rgb(&row, &mut rgb[0]);
                scalar_rgb(&row, &mut rgb[1]);
                assert_eq!(rgb[0], rgb[1], "{length}");
                for index in 0..axis.len() {
                    let (taps, high, low) = axis.at(index);
                    let rows = noise(taps.count as usize * 37);
                    let (mut ours, mut plain) = (vec![0; 37], vec![0; 37]);
                    sum_rows(&axis, index, &rows, &mut ours);
                    scalar_rows(high, low, &rows, &mut plain, 0);
                    assert_eq!(ours, plain, "{filter:?} {length} {resized} {index}");
                }
            }
        }
    }
}
