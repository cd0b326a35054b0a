//! Along one side of a picture: which pixels a resized picture's pixels are made of, and with what weights.

use std::ops::Range;

use super::filter::Filter;

/// Bits after the point of a weight: a sum of 8-bit pixels keeps two bits for weights that overshoot.
pub(super) const WEIGHT_BITS: u32 = 22;
/// A weight is kept as `high * 2^11 + low`, each of which fits into 16 bits.
pub(super) const LOW_BITS: u32 = 11;
/// Weights of one output pixel are padded to a multiple of this, with zeros.
pub(super) const GROUP: usize = 16;

/// The weights of a range of output pixels.
///
/// The arithmetic is Pillow's (`precompute_coeffs` and `normalize_coeffs_8bpc` in `libImaging/Resample.c`): double precision,
/// in its order of operations, then rounded to fixed point.
pub(super) struct Axis {
    taps: Vec<Taps>,
    /// `stride` numbers for each output pixel.
    high: Vec<i16>,
    low: Vec<i16>,
    stride: usize,
    /// All input pixels from the first that an output pixel is made of to the last.
    reach: Option<Range<u32>>,
}

/// The input pixels of one output pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taps {
    pub first: u32,
    pub count: u32,
}

/// What is resized to what, along one side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    /// Input pixels.
    pub length: u32,
    /// How many input pixels the resized side stands for: `length`, or a fraction less where a decoder scaled and rounded up.
    pub covered: f32,
    /// Output pixels of the whole side.
    pub resized: u64,
}

impl Span {
    /// A side of `length` pixels that becomes one of `resized`.
    pub(super) fn new(length: u32, resized: u64) -> Self {
        Self {
            length,
            covered: length as f32,
            resized,
        }
    }

    fn scale(self) -> f64 {
        f64::from(self.covered) / self.resized as f64
    }

    /// Pillow leaves a side alone whose size stays.
    fn is_unchanged(self) -> bool {
        u64::from(self.length) == self.resized && self.covered == self.length as f32
    }
}

impl Axis {
    /// The weights of the output pixels in `kept`.
    pub(super) fn new(filter: Filter, span: Span, kept: Range<u64>) -> Self {
        if span.is_unchanged() {
            return Self::picked(kept.map(|at| Some(at as u32)).collect());
        }
        if filter == Filter::Nearest {
            return Self::picked(nearest(span, kept));
        }
        let filter_scale = span.scale().max(1.0);
        let support = filter.support() * filter_scale;
        let most = (support.ceil() as usize) * 2 + 1;
        let mut axis = Self::with_capacity(most, (kept.end - kept.start) as usize);
        let mut weights = Vec::with_capacity(most);
        for at in kept {
            let center = (at as f64 + 0.5) * span.scale();
            let first = (center - support + 0.5).max(0.0) as u32;
            let end = ((center + support + 0.5) as u32).min(span.length);
            weights.clear();
            for input in first..end {
                weights.push(filter.weight((f64::from(input) - center + 0.5) * (1.0 / filter_scale)));
            }
            normalize(&mut weights);
            axis.push(first, &weights);
        }
        axis
    }

    /// One input pixel for each output pixel; none where the result is 0.
    fn picked(inputs: Vec<Option<u32>>) -> Self {
        let mut axis = Self::with_capacity(1, inputs.len());
        for input in inputs {
            match input {
                Some(first) => axis.push(first, &[1.0]),
                None => axis.push(0, &[]),
            }
        }
        axis
    }

    fn with_capacity(taps: usize, outputs: usize) -> Self {
        let stride = taps.next_multiple_of(GROUP);
        Self {
            taps: Vec::with_capacity(outputs),
            high: Vec::with_capacity(outputs * stride),
            low: Vec::with_capacity(outputs * stride),
            stride,
            reach: None,
        }
    }

    fn push(&mut self, first: u32, weights: &[f64]) {
        let count = weights.len() as u32;
        self.taps.push(Taps { first, count });
        if count > 0 {
            let reach = self.reach.get_or_insert(first..first + count);
            *reach = reach.start.min(first)..reach.end.max(first + count);
        }
        for &weight in weights {
            let fixed = (weight * f64::from(1 << WEIGHT_BITS) + 0.5_f64.copysign(weight)) as i32;
            let high = (fixed + (1 << (LOW_BITS - 1))) >> LOW_BITS;
            self.high.push(high as i16);
            self.low.push((fixed - (high << LOW_BITS)) as i16);
        }
        let length = self.taps.len() * self.stride;
        self.high.resize(length, 0);
        self.low.resize(length, 0);
    }

    /// How many output pixels there are.
    pub(super) fn len(&self) -> usize {
        self.taps.len()
    }

    /// The input pixels of an output pixel, and the high and low parts of their weights, padded with zeros.
    pub(super) fn at(&self, index: usize) -> (Taps, &[i16], &[i16]) {
        let weights = index * self.stride..(index + 1) * self.stride;
        (self.taps[index], &self.high[weights.clone()], &self.low[weights])
    }

    /// All input pixels from the first that an output pixel is made of to the last.
    pub(super) fn reach(&self) -> Range<u32> {
        self.reach.clone().unwrap_or_default()
    }
}

fn normalize(weights: &mut [f64]) {
    let sum: f64 = weights.iter().sum();
    if sum != 0.0 {
        for weight in weights {
            *weight /= sum;
        }
    }
}

/// The input pixels that Pillow's `ImagingScaleAffine` picks: it adds up the positions one by one, rounding each time.
fn nearest(span: Span, kept: Range<u64>) -> Vec<Option<u32>> {
    let scale = span.scale();
    let mut position = scale * 0.5;
    let mut inputs = Vec::with_capacity((kept.end - kept.start) as usize);
    for at in 0..kept.end {
        if at >= kept.start {
            let input = position as u32;
            inputs.push((input < span.length).then_some(input));
        }
        position += scale;
    }
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(axis: &Axis, index: usize) -> (u32, Vec<i32>) {
        let (taps, high, low) = axis.at(index);
        let weights = high.iter().zip(low).take(taps.count as usize);
        (
            taps.first,
            weights
                .map(|(&high, &low)| (i32::from(high) << LOW_BITS) + i32::from(low))
                .collect(),
        )
    }

    #[test]
    fn half_the_size_weighs_four_pixels() {
        let axis = Axis::new(Filter::Bilinear, Span::new(512, 256), 0..256);
        let one = 1 << WEIGHT_BITS;
        assert_eq!(fixed(&axis, 1), (1, vec![one / 8, one / 8 * 3, one / 8 * 3, one / 8]));
        assert_eq!(axis.reach(), 0..512);
    }

    #[test]
    fn an_unchanged_side_is_copied() {
        let axis = Axis::new(Filter::Lanczos, Span::new(300, 300), 38..262);
        assert_eq!((axis.len(), axis.reach()), (224, 38..262));
        assert_eq!(fixed(&axis, 0), (38, vec![1 << WEIGHT_BITS]));
    }

    #[test]
    fn every_sum_of_weights_is_one() {
        for filter in [
            Filter::Box,
            Filter::Bilinear,
            Filter::Hamming,
            Filter::Bicubic,
            Filter::Lanczos,
        ] {
            for (length, resized) in [(1, 256), (7, 3), (1000, 256), (255, 256), (8192, 256)] {
                let axis = Axis::new(filter, Span::new(length, resized), 0..resized);
                for index in 0..axis.len() {
                    let (first, weights) = fixed(&axis, index);
                    let sum: i32 = weights.iter().sum();
                    // Each weight is rounded to the nearest.
                    assert!(
                        (sum - (1 << WEIGHT_BITS)).abs() <= weights.len() as i32,
                        "{filter:?} {length} {index}"
                    );
                    assert!(first + weights.len() as u32 <= length);
                }
            }
        }
    }
}
