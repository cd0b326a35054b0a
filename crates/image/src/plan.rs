//! What a resizer does: the lengths of both sides before and after resizing, the part that is kept, and the order of the
//! two steps.

use std::ops::Range;

use super::axis::{Axis, Span};
use super::columns::Columns;
use super::filter::Filter;
use super::kernel;
use super::picture::Shape;
use super::resize::ROW_START;
use super::scaling::WHOLE;
use super::side::Side;

/// The short side after resizing for VGG16.
pub(super) const SHORT: u32 = 256;

/// A picture as a decoder writes it: whole, or a part of its size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoded {
    /// The shape of what is written.
    pub shape: Shape,
    /// Width and height in the header.
    pub whole: [u32; 2],
    /// The part of the whole size that is written, in eighths, rounded up.
    pub eighths: u32,
}

impl Decoded {
    /// A picture of this shape, written whole.
    pub(super) fn whole(shape: Shape) -> Self {
        Self {
            shape,
            whole: [shape.width, shape.height],
            eighths: WHOLE,
        }
    }
}

/// How a picture of a shape is resized and cropped.
pub(super) struct ResizePlan {
    pub shape: Shape,
    pub filter: Filter,
    /// The width, and the columns that are kept.
    pub columns: (Span, Range<u64>),
    /// The height, and the rows that are kept.
    pub rows: (Span, Range<u64>),
}

/// The side that is resized first. The other is resized from that result, which is rounded to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    WidthFirst,
    HeightFirst,
}

impl ResizePlan {
    /// `sides` are those of the width and the height.
    pub(super) fn new(decoded: Decoded, filter: Filter, sides: [Side; 2]) -> Self {
        let (shape, [columns, rows]) = (decoded.shape, sides);
        let mut plan = Self {
            shape,
            filter,
            columns: (Span::new(shape.width, columns.resized), columns.kept),
            rows: (Span::new(shape.height, rows.resized), rows.kept),
        };
        if decoded.eighths < WHOLE {
            for (span, length) in [
                (&mut plan.columns.0, decoded.whole[0]),
                (&mut plan.rows.0, decoded.whole[1]),
            ] {
                span.covered = (f64::from(length) * f64::from(decoded.eighths) / f64::from(WHOLE)) as f32;
            }
        }
        plan
    }

    /// Returns what torchvision's `Resize(256)` and `CenterCrop(224)` do with a Pillow picture.
    #[cfg(test)]
    pub(super) fn for_vgg16(decoded: Decoded) -> Self {
        let resized = super::side::short_side(SHORT, decoded.whole);
        let sides = resized.map(|resized| Side::middle(resized, headswap_spec::PICTURE_SIDE as u64));
        Self::new(decoded, Filter::Bilinear, sides)
    }

    pub(super) fn order(&self) -> Order {
        Order::of(self.columns.0, self.rows.0)
    }

    /// Returns an upper bound of the memory of a resizer with this plan, its result included, in bytes.
    pub(super) fn memory(&self) -> u64 {
        /// The structures themselves, and what allocators round up.
        const FIXED: u64 = 1 << 10;
        let count = self.shape.channels.count() as u64;
        let [width, height] = [&self.columns.1, &self.rows.1].map(|kept| kept.end - kept.start);
        let row = u64::from(self.shape.width) * count;
        let resized = width.saturating_mul(count);
        let intermediate = match self.order() {
            Order::WidthFirst => resized,
            Order::HeightFirst => row,
        };
        let pending = (ROW_START + kernel::PADDING) as u64 + row;
        let parts = [
            FIXED,
            pending.saturating_add(resized).saturating_mul(kernel::ROWS as u64),
            // A row between the two steps, and a black one.
            intermediate.saturating_mul(2),
            Columns::memory(Axis::taps_max(self.filter, self.rows.0), intermediate),
            Axis::memory(self.filter, self.columns.0, width),
            Axis::memory(self.filter, self.rows.0, height),
            width.saturating_mul(height).saturating_mul(3),
        ];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

impl Order {
    /// Returns Pillow's order since 13.0: the height first if it shrinks by more than twice as many pixels as the width.
    fn of(columns: Span, rows: Span) -> Self {
        let [columns, rows] = [columns, rows].map(|span| i128::from(span.length) - i128::from(span.resized));
        if rows > 0 && rows > 2 * columns {
            Self::HeightFirst
        } else {
            Self::WidthFirst
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Channels;

    #[test]
    fn the_middle_is_kept() {
        let kept = |width, height| {
            let shape = Shape {
                width,
                height,
                channels: Channels::Grey,
            };
            let ResizePlan { columns, rows, .. } = ResizePlan::for_vgg16(Decoded::whole(shape));
            [(columns.0.resized, columns.1), (rows.0.resized, rows.1)]
        };
        assert_eq!(kept(512, 512), [(256, 16..240), (256, 16..240)]);
        assert_eq!(kept(1, 60_000), [(256, 16..240), (15_360_000, 7_679_888..7_680_112)]);
    }

    /// Returns the order for a width and a height, each before and after resizing.
    fn order(width: [u32; 2], height: [u32; 2]) -> Order {
        let [width, height] = [width, height].map(|[length, resized]| Span::new(length, resized.into()));
        Order::of(width, height)
    }

    #[test]
    fn the_height_goes_first_if_it_shrinks_by_more_than_twice_as_much() {
        assert_eq!(order([300, 200], [400, 200]), Order::WidthFirst);
        assert_eq!(order([300, 200], [401, 200]), Order::HeightFirst);
        assert_eq!(order([100, 200], [201, 200]), Order::HeightFirst);
        assert_eq!(order([100, 200], [100, 200]), Order::WidthFirst);
        assert_eq!(order([300, 300], [300, 200]), Order::HeightFirst);
    }
}
