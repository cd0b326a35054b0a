//! Arithmetic of a graph on a picture before its first convolution.

use super::function::arithmetic;
use crate::pixels::Pixel;

/// Limit of the channels before the first convolution, which takes three.
pub(super) const CHANNELS_MAX: usize = 8;

/// Returns `pixels` (+, -, ·, /) `numbers`, of which there is one or one for each channel; the other way round if
/// `is_second`. `None` if that is not a product and a sum.
pub(super) fn computed(operator: &str, pixels: &[Pixel], numbers: &[f64], is_second: bool) -> Option<Vec<Pixel>> {
    let mut computed = Vec::with_capacity(pixels.len());
    for (place, pixel) in pixels.iter().enumerate() {
        let number = match numbers {
            [number] => *number,
            numbers => *numbers.get(place)?,
        };
        let at = |x: f64| match is_second {
            true => arithmetic(operator).map(|apply| apply(number, x)),
            false => arithmetic(operator).map(|apply| apply(x, number)),
        };
        // The values at 0 and 1 say a linear function; those of others differ at 2.
        let (shift, one, two) = (at(0.0)?, at(1.0)?, at(2.0)?);
        let scale = one - shift;
        if !(shift.is_finite() && scale.is_finite() && (two - (scale * 2.0 + shift)).abs() <= 1e-9 * two.abs().max(1.0))
        {
            return None;
        }
        computed.push(Pixel {
            channel: pixel.channel,
            scale: scale_of(operator, number, scale) * pixel.scale,
            shift: scale_of(operator, number, scale) * pixel.shift + shift,
        });
    }
    Some(computed)
}

/// The factor without the rounding of a difference.
fn scale_of(operator: &str, number: f64, difference: f64) -> f64 {
    match operator {
        "Add" | "Sub" => difference.signum(),
        "Mul" => number,
        _ => difference,
    }
}
