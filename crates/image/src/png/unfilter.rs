//! Reverses the filters of rows.

use std::array;

use super::form::Form;
use super::refusal;
use crate::error::ImageError;

/// Reverses the filter of `row`, which begins with the filter's number; `above` does not.
pub(super) fn unfilter(row: &mut [u8], above: &[u8], form: Form) -> Result<(), ImageError> {
    let Some((filter, row)) = row.split_first_mut() else {
        return Ok(());
    };
    match form.bits().div_ceil(8) {
        2 => undo::<2>(*filter, row, above),
        3 => undo::<3>(*filter, row, above),
        4 => undo::<4>(*filter, row, above),
        6 => undo::<6>(*filter, row, above),
        8 => undo::<8>(*filter, row, above),
        _ => undo::<1>(*filter, row, above),
    }
}

/// As [`unfilter`], for pixels of N bytes, or of less than one byte if N is 1.
fn undo<const N: usize>(filter: u8, row: &mut [u8], above: &[u8]) -> Result<(), ImageError> {
    match filter {
        0 => {}
        1 => sub::<N>(row),
        2 => up(row, above),
        3 => average::<N>(row, above),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: each x86-64 processor has SSE2.
        4 if N > 1 => unsafe { sse2::paeth::<N>(row, above) },
        4 => paeth::<N>(row, above),
        _ => return Err(refusal(format!("it has a row of filter {filter}"))),
    }
    Ok(())
}

fn sub<const N: usize>(row: &mut [u8]) {
    let mut left = [0_u8; N];
    for pixel in row.as_chunks_mut::<N>().0 {
        left = array::from_fn(|i| pixel[i].wrapping_add(left[i]));
        *pixel = left;
    }
}

fn up(row: &mut [u8], above: &[u8]) {
    for (byte, above) in row.iter_mut().zip(above) {
        *byte = byte.wrapping_add(*above);
    }
}

fn average<const N: usize>(row: &mut [u8], above: &[u8]) {
    let mut left = [0_u8; N];
    for (pixel, above) in row.as_chunks_mut::<N>().0.iter_mut().zip(above.as_chunks::<N>().0) {
        left = array::from_fn(|i| {
            let mean = (u16::from(left[i]) + u16::from(above[i])) / 2;
            pixel[i].wrapping_add(mean as u8)
        });
        *pixel = left;
    }
}

fn paeth<const N: usize>(row: &mut [u8], above: &[u8]) {
    let (mut left, mut corner) = ([0_i16; N], [0_i16; N]);
    for (pixel, above) in row.as_chunks_mut::<N>().0.iter_mut().zip(above.as_chunks::<N>().0) {
        let above = above.map(i16::from);
        let value: [u8; N] = array::from_fn(|i| pixel[i].wrapping_add(nearest(left[i], above[i], corner[i]) as u8));
        *pixel = value;
        left = value.map(i16::from);
        corner = above;
    }
}

/// Returns the neighbour nearest to left + above - corner. Equivalent to the standard's comparison of distances, with fewer
/// steps that depend on `left`.
#[inline(always)]
fn nearest(left: i16, above: i16, corner: i16) -> i16 {
    let (low, high) = (left.min(above), left.max(above));
    let threshold = (3 * corner - above) - left;
    let other = if high <= threshold { low } else { corner };
    if threshold <= low { high } else { other }
}

/// All samples of a pixel at once: faster except for pixels of one byte.
#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::*;

    /// As [`super::paeth`], in lanes of 16 bits.
    #[target_feature(enable = "sse2")]
    pub(super) fn paeth<const N: usize>(row: &mut [u8], above: &[u8]) {
        let zero = _mm_setzero_si128();
        let (mut left, mut corner) = (zero, zero);
        for (pixel, above) in row.as_chunks_mut::<N>().0.iter_mut().zip(above.as_chunks::<N>().0) {
            let above = _mm_unpacklo_epi8(load(above), zero);
            let corners = _mm_add_epi16(_mm_add_epi16(corner, corner), corner);
            let threshold = _mm_sub_epi16(_mm_sub_epi16(corners, above), left);
            let (low, high) = (_mm_min_epi16(left, above), _mm_max_epi16(left, above));
            let other = pick(_mm_cmpgt_epi16(high, threshold), corner, low);
            let nearest = pick(_mm_cmpgt_epi16(threshold, low), other, high);
            // The lanes' high bytes are zero, so that adding bytes adds modulo 256.
            left = _mm_add_epi8(_mm_unpacklo_epi8(load(pixel), zero), nearest);
            corner = above;
            store(_mm_packus_epi16(left, zero), pixel);
        }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn pick(mask: __m128i, yes: __m128i, no: __m128i) -> __m128i {
        _mm_or_si128(_mm_and_si128(mask, yes), _mm_andnot_si128(mask, no))
    }

    /// N is at most 8.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn load<const N: usize>(pixel: &[u8; N]) -> __m128i {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(pixel);
        _mm_cvtsi64_si128(i64::from_le_bytes(bytes))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn store<const N: usize>(pixel: __m128i, to: &mut [u8; N]) {
        to.copy_from_slice(&_mm_cvtsi128_si64(pixel).to_le_bytes()[..N]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::png::form::Colour;

    /// The predictor as the standard defines it.
    fn nearest_of_standard(left: i16, above: i16, corner: i16) -> i16 {
        let estimate = left + above - corner;
        let (far_left, far_above) = ((estimate - left).abs(), (estimate - above).abs());
        let far_corner = (estimate - corner).abs();
        match () {
            () if far_left <= far_above && far_left <= far_corner => left,
            () if far_above <= far_corner => above,
            () => corner,
        }
    }

    #[test]
    fn the_short_predictor_equals_the_standards() {
        for left in (0..256).step_by(5) {
            for above in 0..256 {
                for corner in 0..256 {
                    assert_eq!(nearest(left, above, corner), nearest_of_standard(left, above, corner));
                }
            }
        }
    }

    /// Compares the vector and the scalar Paeth filter for pixels of N bytes.
    fn both_paeths<const N: usize>(samples: &[u8], above: &[u8]) {
        let (mut fast, mut slow) = (samples.to_vec(), samples.to_vec());
        assert!(undo::<N>(4, &mut fast, above).is_ok());
        paeth::<N>(&mut slow, above);
        assert_eq!(fast, slow, "{N} bytes a pixel");
    }

    #[test]
    fn the_vector_paeth_equals_the_scalar_one() {
        let samples: Vec<u8> = (0..480_u32).map(|i| ((i * i * 7) >> 3) as u8).collect();
        let above: Vec<u8> = (0..480_u32).map(|i| ((i * i * 5) >> 2) as u8).collect();
        both_paeths::<2>(&samples, &above);
        both_paeths::<3>(&samples, &above);
        both_paeths::<4>(&samples, &above);
        both_paeths::<6>(&samples, &above);
        both_paeths::<8>(&samples, &above);
    }

    #[test]
    fn each_filter_is_reversed() {
        let form = Form {
            depth: 8,
            colour: Colour::GreyAlpha,
        };
        for (filter, expected) in [
            (0, [10, 20, 30, 250]),
            (1, [10, 20, 40, 14]),
            (2, [14, 25, 36, 1]),
            (3, [12, 22, 39, 8]),
            (4, [14, 25, 44, 19]),
        ] {
            let mut row = [filter, 10, 20, 30, 250];
            assert_eq!(unfilter(&mut row, &[4, 5, 6, 7], form), Ok(()));
            assert_eq!(row[1..], expected, "filter {filter}");
        }
        assert!(unfilter(&mut [5, 1, 2], &[0, 0], form).is_err());
    }
}
