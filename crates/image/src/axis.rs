//! Resizing along one axis: the input pixels of each output pixel, and their weights.

use std::ops::Range;

use super::filter::Filter;

/// Fractional bits of a weight. A 32-bit sum of 8-bit pixels has two more, for filters that overshoot.
pub(super) const WEIGHT_BITS: u32 = 22;
/// A weight is stored as `high * 2^11 + low`, each of which fits into 16 bits.
pub(super) const LOW_BITS: u32 = 11;
/// The weights of one output pixel are padded with zeros to a multiple of this.
pub(super) const GROUP: usize = 16;

/// The weights of a range of output pixels.
///
/// The arithmetic is Pillow's (`precompute_coeffs` and `normalize_coeffs_8bpc` in `libImaging/Resample.c`): double precision,
/// in its order of operations, then rounded to fixed point.
pub(super) struct Axis {
    taps: Vec<Taps>,
    /// `stride` values for each output pixel.
    high: Vec<i16>,
    low: Vec<i16>,
    stride: usize,
    /// The smallest range that holds the input pixels of all output pixels.
    reach: Option<Range<u32>>,
}

/// The input pixels of one output pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taps {
    pub first: u32,
    pub count: u32,
}

/// The lengths of one side before and after resizing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    /// Input pixels.
    pub length: u32,
    /// The input pixels that become the resized side: `length`, or a fraction less if the decoder scaled the picture and
    /// rounded its size up.
    pub covered: f32,
    /// Output pixels of the whole side.
    pub resized: u64,
}

impl Span {
    /// Returns the span of a side of `length` pixels that is resized to `resized`.
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

    /// Returns true if Pillow copies the side instead of resizing it.
    fn is_unchanged(self) -> bool {
        u64::from(self.length) == self.resized && self.covered == self.length as f32
    }
}

impl Axis {
    /// Computes the weights of the output pixels in `kept`.
    pub(super) fn new(filter: Filter, span: Span, kept: Range<u64>) -> Self {
        if span.is_unchanged() {
            return Self::single(kept.map(|at| Some(at as u32)).collect());
        }
        if filter == Filter::Nearest {
            return Self::single(nearest(span, kept));
        }
        let filter_scale = span.scale().max(1.0);
        let support = filter.support() * filter_scale;
        let taps_max = Self::taps_max(filter, span) as usize;
        let mut axis = Self::with_capacity(taps_max, (kept.end - kept.start) as usize);
        let mut weights = Vec::with_capacity(taps_max);
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

    /// Returns an upper bound of the input pixels of an output pixel.
    pub(super) fn taps_max(filter: Filter, span: Span) -> u64 {
        if filter == Filter::Nearest || span.is_unchanged() {
            return 1;
        }
        let support = filter.support() * span.scale().max(1.0);
        (support.ceil() as u64).saturating_mul(2).saturating_add(1)
    }

    /// Returns an upper bound of the memory of the weights of `outputs` output pixels, in bytes.
    pub(super) fn memory(filter: Filter, span: Span, outputs: u64) -> u64 {
        /// Its taps, and the input pixel that [`nearest`] returns.
        const OUTPUT_BYTES: u64 = 8 + 8;
        /// The high and the low part, two bytes each.
        const WEIGHT_BYTES: u64 = 4;
        let taps = Self::taps_max(filter, span).saturating_add(GROUP as u64);
        let output = taps.saturating_mul(WEIGHT_BYTES).saturating_add(OUTPUT_BYTES);
        // And the weights of one output in double precision.
        outputs.saturating_mul(output).saturating_add(taps.saturating_mul(8))
    }

    /// Returns an axis of one input pixel for each output pixel; `None` makes the output 0.
    fn single(inputs: Vec<Option<u32>>) -> Self {
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

    /// The number of output pixels.
    pub(super) fn len(&self) -> usize {
        self.taps.len()
    }

    /// Returns the input pixels of an output pixel, and the high and low parts of their weights, padded with zeros.
    pub(super) fn at(&self, index: usize) -> (Taps, &[i16], &[i16]) {
        let weights = index * self.stride..(index + 1) * self.stride;
        (self.taps[index], &self.high[weights.clone()], &self.low[weights])
    }

    /// Returns the largest number of input pixels of an output pixel.
    pub(super) fn taps_most(&self) -> u32 {
        self.taps.iter().map(|taps| taps.count).max().unwrap_or(0)
    }

    /// Returns the smallest range that holds the input pixels of all output pixels.
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

/// Positions of a side that [`nearest`] sums up. 2^24 additions take some 20 milliseconds.
const SUMMED_MAX: u64 = 1 << 24;

/// Returns the input pixels that Pillow's `ImagingScaleAffine` picks. Like Pillow it adds up the positions one by one, so
/// that rounding errors are the same.
///
/// A crop that begins beyond [`SUMMED_MAX`] pixels is added up from its own start, for a picture of one column must not cost
/// 2^37 additions; Pillow needs gigabytes for a picture of that size.
fn nearest(span: Span, kept: Range<u64>) -> Vec<Option<u32>> {
    let scale = span.scale();
    let start = if kept.start > SUMMED_MAX { kept.start } else { 0 };
    let mut position = scale * (start as f64 + 0.5);
    let mut inputs = Vec::with_capacity((kept.end - kept.start) as usize);
    for at in start..kept.end {
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
    fn halving_weighs_four_pixels() {
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
    fn a_crop_far_from_the_start_is_found_at_once() {
        let (length, resized) = (1 << 26, 1 << 38);
        let middle = resized / 2;
        let axis = Axis::new(Filter::Nearest, Span::new(length, resized), middle - 112..middle + 112);
        assert_eq!(axis.reach(), length / 2 - 1..length / 2 + 1);
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
                    // Each weight is rounded to nearest.
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
