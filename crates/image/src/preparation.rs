//! One preprocessing in progress: a resizer for the decoder's rows, and the form of its result.

use headswap_spec::{ChannelOrder, Preprocessing, ResizeFilter};

use super::filter::Filter;
use super::geometry::Geometry;
use super::picture::{Channels, Shape};
use super::plan::{Decoded, ResizePlan, SHORT};
use super::pointwise::Pointwise;
use super::prepared::Prepared;
use super::resize::Resizer;
use super::scaling::JpegScaling;
use super::side::Side;
use super::sink::RowSink;

/// The preparation of a picture for one preprocessing, up to normalisation.
pub(super) struct Preparation {
    geometry: Geometry,
    resizer: Resizing,
    /// The channels of the rows that it takes.
    channels: Channels,
}

enum Resizing {
    Pillow(Box<Resizer>),
    Pointwise {
        resizer: Pointwise,
        /// True if the results become bytes.
        is_rounded: bool,
    },
}

impl Preparation {
    /// Begins to prepare a picture, which has pixels.
    pub(super) fn new(preprocessing: &Preprocessing, decoded: Decoded) -> Self {
        let shape = taken(preprocessing, decoded.shape);
        let geometry = Geometry::new(preprocessing, decoded.whole);
        let resizer = match pillow(preprocessing.filter) {
            Some(filter) => {
                let plan = ResizePlan::new(Decoded { shape, ..decoded }, filter, geometry.sides.clone());
                Resizing::Pillow(Box::new(Resizer::new(&plan)))
            }
            None => Resizing::Pointwise {
                resizer: Pointwise::new(shape, &geometry.sides),
                is_rounded: preprocessing.filter == ResizeFilter::BilinearNoAntialiasRounded,
            },
        };
        Self {
            geometry,
            resizer,
            channels: shape.channels,
        }
    }

    /// Returns an upper bound of the memory that the preparation takes at any time, its result included, in bytes.
    pub(super) fn memory(preprocessing: &Preprocessing, decoded: Decoded) -> u64 {
        let shape = taken(preprocessing, decoded.shape);
        let geometry = Geometry::new(preprocessing, decoded.whole);
        let (resizer, bytes) = match pillow(preprocessing.filter) {
            Some(filter) => (
                ResizePlan::new(Decoded { shape, ..decoded }, filter, geometry.sides.clone()).memory(),
                1,
            ),
            None => (Pointwise::memory(shape, &geometry.sides), 4),
        };
        // The copy in bytes of floating-point results that are rounded.
        let [width, height] = geometry.sides.each_ref().map(Side::len);
        let rounded = match preprocessing.filter {
            ResizeFilter::BilinearNoAntialiasRounded => width.saturating_mul(height).saturating_mul(3),
            _ => 0,
        };
        let padding = geometry.memory(bytes);
        resizer.saturating_add(padding).saturating_add(rounded)
    }

    /// Returns the channels of the rows that it takes: grey for grey results.
    pub(super) fn channels(&self) -> Channels {
        self.channels
    }

    /// Returns what takes the rows.
    pub(super) fn sink(&mut self) -> &mut dyn RowSink {
        match &mut self.resizer {
            Resizing::Pillow(resizer) => resizer.as_mut(),
            Resizing::Pointwise { resizer, .. } => resizer,
        }
    }

    /// Returns true if the result depends on the next row.
    pub(super) fn wants_row(&self) -> bool {
        match &self.resizer {
            Resizing::Pillow(resizer) => resizer.wants_row(),
            Resizing::Pointwise { resizer, .. } => resizer.wants_row(),
        }
    }

    /// Returns the prepared picture. Rows that were not written are black.
    pub(super) fn finish(self) -> Prepared {
        let size = self.geometry.size();
        match self.resizer {
            Resizing::Pillow(resizer) => Prepared::Bytes {
                size,
                values: self.geometry.pad(resizer.finish()).into(),
            },
            Resizing::Pointwise { resizer, is_rounded } => {
                let values = resizer.finish();
                if is_rounded {
                    let values = values.into_iter().map(rounded).collect();
                    return Prepared::Bytes {
                        size,
                        values: self.geometry.pad(values).into(),
                    };
                }
                Prepared::Floats {
                    size,
                    values: self.geometry.pad(values),
                }
            }
        }
    }
}

/// Returns the shape of the rows that a preparation takes. A picture is converted to grey before it is resized.
fn taken(preprocessing: &Preprocessing, shape: Shape) -> Shape {
    match preprocessing.channels {
        ChannelOrder::Grey => Shape {
            channels: Channels::Grey,
            ..shape
        },
        ChannelOrder::Rgb | ChannelOrder::Bgr => shape,
    }
}

/// Returns true if a picture that is decoded to a part of its size may be prepared from that: the filter averages over all
/// pixels, and shrinks each side at least as much as it would shrink torchvision's pictures.
pub(super) fn takes_scaled(preprocessing: &Preprocessing, decoded: Decoded, scaling: JpegScaling) -> bool {
    let averages = matches!(
        preprocessing.filter,
        ResizeFilter::Bilinear | ResizeFilter::Bicubic | ResizeFilter::Lanczos
    );
    let [columns, rows] = Geometry::new(preprocessing, decoded.whole).sides;
    let shrinks = |resized: u64, length: u32| resized * scaling.short_min() <= u64::from(length) * u64::from(SHORT);
    averages && shrinks(columns.resized, decoded.shape.width) && shrinks(rows.resized, decoded.shape.height)
}

/// Returns Pillow's filter, if it is one.
fn pillow(filter: ResizeFilter) -> Option<Filter> {
    match filter {
        ResizeFilter::Nearest => Some(Filter::Nearest),
        ResizeFilter::Bilinear => Some(Filter::Bilinear),
        ResizeFilter::Bicubic => Some(Filter::Bicubic),
        ResizeFilter::Lanczos => Some(Filter::Lanczos),
        ResizeFilter::BilinearNoAntialias | ResizeFilter::BilinearNoAntialiasRounded => None,
    }
}

fn rounded(value: f32) -> u8 {
    (value + 0.5).floor().clamp(0.0, 255.0) as u8
}
