//! Undoing the filters of rows.

use super::super::error::ImageError;
use super::form::Form;
use super::refusal;

/// `row` begins with the filter's number, `above` does not.
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

/// For pixels of N bytes, or of less than one.
fn undo<const N: usize>(filter: u8, row: &mut [u8], above: &[u8]) -> Result<(), ImageError> {
    match filter {
        0 => {}
        1 => sub::<N>(row),
        2 => up(row, above),
        3 => average::<N>(row, above),
        4 => paeth::<N>(row, above),
        _ => return Err(refusal(format!("it has a row of filter {filter}"))),
    }
    Ok(())
}

fn sub<const N: usize>(row: &mut [u8]) {
    let mut left = [0; N];
    for pixel in row.as_chunks_mut::<N>().0 {
        for i in 0..N {
            pixel[i] = pixel[i].wrapping_add(left[i]);
        }
        left = *pixel;
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
        for i in 0..N {
            let mean = (u16::from(left[i]) + u16::from(above[i])) / 2;
            pixel[i] = pixel[i].wrapping_add(mean as u8);
        }
        left = *pixel;
    }
}

fn paeth<const N: usize>(row: &mut [u8], above: &[u8]) {
    let (mut left, mut corner) = ([0_i16; N], [0_i16; N]);
    for (pixel, above) in row.as_chunks_mut::<N>().0.iter_mut().zip(above.as_chunks::<N>().0) {
        let above = above.map(i16::from);
        for i in 0..N {
            let value = pixel[i].wrapping_add(nearest(left[i], above[i], corner[i]) as u8);
            pixel[i] = value;
            left[i] = value.into();
        }
        corner = above;
    }
}

/// Which of three neighbours is nearest to left + above - corner.
#[inline(always)]
fn nearest(left: i16, above: i16, corner: i16) -> i16 {
    let (to_left, to_above) = (above - corner, left - corner);
    let (far_left, far_above, far_corner) = (to_left.abs(), to_above.abs(), (to_left + to_above).abs());
    let other = if far_above <= far_corner { above } else { corner };
    if far_left <= far_above && far_left <= far_corner {
        left
    } else {
        other
    }
}
